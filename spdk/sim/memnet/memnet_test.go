package memnet_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/sim/memnet"
)

// connected returns both ends of a connection.
func connected(t *testing.T) (client, server net.Conn) {
	t.Helper()
	n := memnet.New()
	l, err := n.Listen("tcp", "10.0.0.1:4420")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	client, err = n.Dial(t.Context(), "tcp", "10.0.0.1:4420")
	must(t, err)
	server, err = l.Accept()
	must(t, err)
	return client, server
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

func TestBytesArriveInOrderAndThenTheEnd(t *testing.T) {
	client, server := connected(t)
	if client.LocalAddr().String() != server.RemoteAddr().String() || client.RemoteAddr().String() != server.LocalAddr().String() {
		t.Errorf("ends: %v-%v and %v-%v", client.LocalAddr(), client.RemoteAddr(), server.LocalAddr(), server.RemoteAddr())
	}
	sent := bytes.Repeat([]byte("0123456789"), 1<<20) // more than fits into the buffers
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := client.Write(sent)
		if err = errors.Join(err, client.Close()); err != nil {
			t.Error(err)
		}
	})
	got, err := io.ReadAll(server)
	must(t, err)
	wg.Wait()
	if !bytes.Equal(got, sent) {
		t.Errorf("%d bytes arrived of %d, or others", len(got), len(sent))
	}
	_, err = server.Write([]byte{1})
	wantError(t, err, syscall.EPIPE)
	_, err = client.Read(make([]byte, 1))
	wantError(t, err, net.ErrClosed)
	wantError(t, client.Close(), net.ErrClosed)
}

func TestNobodyListeningRefuses(t *testing.T) {
	n := memnet.New()
	_, err := n.Dial(t.Context(), "tcp", "10.0.0.1:4420")
	wantError(t, err, syscall.ECONNREFUSED)
	l, err := n.Listen("tcp", "10.0.0.1:4420")
	must(t, err)
	_, err = n.Listen("tcp", "10.0.0.1:4420")
	wantError(t, err, syscall.EADDRINUSE)
	unaccepted, err := n.Dial(t.Context(), "tcp", "10.0.0.1:4420")
	must(t, err)
	must(t, l.Close())
	_, err = unaccepted.Read(make([]byte, 1))
	wantError(t, err, syscall.ECONNRESET)
	_, err = n.Dial(t.Context(), "tcp", "10.0.0.1:4420")
	wantError(t, err, syscall.ECONNREFUSED)
	_, err = l.Accept()
	wantError(t, err, net.ErrClosed)
	_, err = n.Listen("tcp", "10.0.0.1:4420")
	must(t, err)
}

func TestCloseWithoutLingerResets(t *testing.T) {
	client, server := connected(t)
	_, err := client.Write([]byte("lost"))
	must(t, err)
	must(t, client.(interface{ SetLinger(int) error }).SetLinger(0))
	must(t, client.Close())
	_, err = server.Read(make([]byte, 4))
	wantError(t, err, syscall.ECONNRESET)
}

func TestDeadlinesEndWaitingInFakeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := connected(t)
		begin := time.Now()
		must(t, client.SetDeadline(begin.Add(time.Hour)))
		_, err := client.Read(make([]byte, 1))
		wantError(t, err, os.ErrDeadlineExceeded)
		_, err = client.Write([]byte{1})
		wantError(t, err, os.ErrDeadlineExceeded)
		if passed := time.Since(begin); passed != time.Hour {
			t.Errorf("%v passed", passed)
		}
		must(t, client.SetDeadline(time.Time{}))
		must(t, client.SetReadDeadline(time.Now().Add(time.Minute)))
		_, err = server.Write([]byte{2})
		must(t, err)
		_, err = client.Read(make([]byte, 1))
		must(t, err)
		must(t, server.SetWriteDeadline(time.Now().Add(time.Minute)))
		_, err = server.Write(make([]byte, 64<<20))
		wantError(t, err, os.ErrDeadlineExceeded)
	})
}

func TestClosingEndsTheOwnWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := connected(t)
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := client.Read(make([]byte, 1))
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("got %v", err)
			}
		})
		synctest.Wait()
		must(t, client.Close())
		wg.Wait()
	})
}
