package agent

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/vm/load"
)

// open opens a load on a file through a channel whose guest is this machine.
func open(t *testing.T, path string) *Load {
	t.Helper()
	h, err := Listen()
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- Serve(fmt.Sprintf("127.0.0.1:%d", h.Port()), h.Token) }()
	t.Cleanup(func() {
		_ = h.Close()
		<-served
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, err := h.OpenLoad(ctx, LoadSpec{Path: path, Blocks: 8})
	if err != nil {
		t.Skipf("no O_DIRECT here: %v", err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestLoadRunsAtTheOtherEnd(t *testing.T) {
	l := open(t, t.TempDir()+"/data")
	ctx := t.Context()
	if r, err := l.Fill(ctx); err != nil || r.Writes != 8 || r.Errors != 0 {
		t.Fatalf("fill: %+v, %v", r, err)
	}
	if err := l.Run(ctx, load.Mix{Writers: 1, Readers: 1}); err != nil {
		t.Fatal(err)
	}
	for {
		r, err := l.Report(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if r.Writes > 20 && r.Reads > 20 {
			break
		}
	}
	if _, err := l.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	if r, err := l.Verify(ctx); err != nil || r.Errors != 0 || r.DifferingBytes != 0 {
		t.Errorf("verify: %+v, %v", r, err)
	}
}

func TestLoadIsLostWithTheContextOfACall(t *testing.T) {
	l := open(t, t.TempDir()+"/data")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Fill(ctx); err == nil {
		t.Error("a call with a context that has ended succeeded")
	}
	if _, err := l.Report(t.Context()); err == nil {
		t.Error("the load lives on")
	}
}
