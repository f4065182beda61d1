package nvmeof

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

func TestDeviceIsDescribed(t *testing.T) {
	k, h := newKernel(t, true)
	k.namespace(testNQN, k.controller(testNQN, addressA, StateConnecting), testUUID, ANAOptimized)
	d, err := h.Device(t.Context(), testNQN, testUUID)
	want := Device{Path: "/dev/nvme0n1", Name: "nvme0n1", UUID: testUUID, NSID: 1, SizeBytes: 1 << 20, BlockSize: 4096, Major: 259, Minor: 1}
	if err != nil || d != want {
		t.Errorf("got %+v, %v", d, err)
	}
	if _, err := h.Device(t.Context(), testNQN+"0", testUUID); !errors.Is(err, ErrNotConnected) {
		t.Errorf("another subsystem: %v", err)
	}
}

func TestNewSizeIsReadAfterARescan(t *testing.T) {
	k, h := newKernel(t, true)
	live := k.controller(testNQN, addressA, StateLive)
	away := k.controller(testNQN, addressB, StateConnecting)
	k.namespace(testNQN, live, testUUID, ANAOptimized)
	if d, err := h.WaitSize(t.Context(), testNQN, testUUID, 1<<20); err != nil || d.SizeBytes != 1<<20 || k.rescanned(live) != 0 {
		t.Errorf("nothing to wait for: %+v, %v, %d rescans", d, err, k.rescanned(live))
	}
	if _, err := h.WaitSize(soon(t), testNQN, testUUID, 2<<20); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a size that does not come: %v", err)
	}
	k.onRescan = func() { k.set("class/nvme-subsystem/nvme-subsys0/nvme0n1/size", "4096") }
	d, err := h.WaitSize(t.Context(), testNQN, testUUID, 2<<20)
	if err != nil || d.SizeBytes != 2<<20 || k.rescanned(live) != 2 || k.rescanned(away) != 0 {
		t.Errorf("got %+v, %v, %d rescans", d, err, k.rescanned(live))
	}
}

// answer serves one connection.
func answer(t *testing.T, serve func(net.Conn)) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := l.Accept(); err == nil {
			serve(conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return l.Addr().String()
}

func TestGreetingTellsTargetsFromOthers(t *testing.T) {
	for name, c := range map[string]struct {
		serve func(net.Conn)
		want  error
	}{
		"a target": {func(c net.Conn) {
			req := make([]byte, icLength)
			if _, err := io.ReadFull(c, req); err != nil || req[0] != pduICReq || req[offsetHLen] != icLength {
				return
			}
			resp := make([]byte, icLength)
			resp[0] = pduICResp
			binary.LittleEndian.PutUint32(resp[offsetPLen:], icLength)
			_, _ = c.Write(resp)
			_, _ = c.Read(req)
		}, nil},
		"something else": {func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			_, _ = io.Copy(io.Discard, c)
		}, ErrRejected},
		"one that hangs": {func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, context.DeadlineExceeded},
		"one that closes": {func(c net.Conn) {
			_, _ = io.ReadFull(c, make([]byte, icLength))
		}, ErrUnreachable},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if errors.Is(c.want, context.DeadlineExceeded) {
			ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
		}
		if err := greet(ctx, answer(t, c.serve)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := greet(t.Context(), l.Addr().String()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("nobody: %v", err)
	}
}
