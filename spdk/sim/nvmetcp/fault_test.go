package nvmetcp

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestHostWithoutKeepAlivesIsDisconnected(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	cfg := f.hostConfig()
	cfg.KATO = 100 * time.Millisecond
	ended(t, f.connect(cfg))
	awaitControllers(t, f.sub, 0)
}

func TestHungTargetIsNoticedByItsHostOnly(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	cfg := f.hostConfig()
	cfg.KATO, cfg.KeepAlive = 300*time.Millisecond, KeepAliveAuto
	c := f.connect(cfg)
	f.tgt.SetHung(true)
	ended(t, c)
	// The kernel accepts the connection, but nobody answers.
	cfg.ConnectTimeout = 300 * time.Millisecond
	if _, err := Connect(patient(t), cfg); !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
		t.Fatalf("connecting to a hung target: %v", err)
	}
	f.tgt.SetHung(false)
	cfg.ConnectTimeout = 20 * time.Second
	f.connect(cfg)
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func TestCommandsOfAHungTargetExecuteWhenItGoesOn(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	c := f.connect(f.hostConfig())
	f.must(c.Read(patient(t), 1, make([]byte, 4096), 0)) // the host knows the format now
	f.tgt.SetHung(true)
	var executed sync.Map
	f.disk.setHook(func(_ context.Context, op string, off, _ int64) error {
		executed.Store(off, op)
		return nil
	})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := c.Write(patient(t), 1, make([]byte, 4096), int64(i)*4096); err != nil {
				t.Error(err)
			}
		})
	}
	for len(c.io[0].slots)+len(c.io[1].slots) > 2*127-20 { // until every command is on its way
		time.Sleep(time.Millisecond)
	}
	executed.Range(func(k, v any) bool { t.Errorf("%v at %v executed while hung", v, k); return true })
	f.tgt.SetHung(false)
	wg.Wait()
}

func TestKilledTargetResetsItsConnections(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	c := f.connect(f.hostConfig())
	entered := make(chan struct{})
	var running sync.WaitGroup
	running.Add(1)
	f.disk.setHook(func(ctx context.Context, _ string, _, _ int64) error {
		close(entered)
		<-ctx.Done()
		running.Done()
		return ctx.Err()
	})
	failed := make(chan error, 1)
	go func() { failed <- c.Write(patient(t), 1, make([]byte, 4096), 0) }()
	<-entered
	f.tgt.SetHung(true) // SIGKILL ends a stopped process, too
	f.tgt.Kill()
	running.Wait()
	wantStatus(t, <-failed, SCTPath, SCHostAborted)
	ended(t, c)
	if !strings.Contains(c.Err().Error(), "reset") {
		t.Errorf("the association ended with %q, want a reset connection", c.Err())
	}
	if conn, err := net.Dial("tcp", f.addr); err == nil {
		t.Error("a killed target accepts connections")
		_ = conn.Close()
	}
}

func TestRemovedHostIsFencedAtOnce(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	c := f.connect(f.hostConfig())
	entered, release := make(chan struct{}), make(chan struct{})
	f.disk.setHook(func(_ context.Context, op string, _, _ int64) error {
		if op == "write" {
			close(entered)
			<-release
		}
		return nil
	})
	failed := make(chan error, 1)
	go func() { failed <- c.Write(patient(t), 1, make([]byte, 4096), 0) }()
	<-entered
	gone := f.sub.RemoveHost(testHost)
	ended(t, c)
	wantStatus(t, <-failed, SCTPath, SCHostAborted)
	select {
	case <-gone:
		t.Error("the controller is said to be gone while its write executes")
	default:
	}
	close(release)
	<-gone
	if n := len(f.sub.Controllers()); n != 0 {
		t.Errorf("%d controllers left", n)
	}
	_, err := Connect(patient(t), f.hostConfig())
	wantStatus(t, err, SCTCommand, SCConnectInvalidHost)
	f.sub.AllowHost(testHost)
	f.connect(f.hostConfig())
}

func TestRemovingANamespaceWaitsForItsCommandsAndHoldsManagement(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	c := f.connect(f.hostConfig())
	entered, release := make(chan struct{}), make(chan struct{})
	f.disk.setHook(func(context.Context, string, int64, int64) error {
		close(entered)
		<-release
		return nil
	})
	wrote, removed := make(chan error, 1), make(chan error, 1)
	go func() { wrote <- c.Write(patient(t), 1, make([]byte, 4096), 0) }()
	<-entered
	go func() { removed <- f.sub.RemoveNamespace(1) }()
	for paused := false; !paused; time.Sleep(time.Millisecond) {
		f.sub.mu.Lock()
		paused = f.sub.paused
		f.sub.mu.Unlock()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := c.KeepAlive(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a keep-alive during the pause: %v", err)
	}
	close(release)
	f.must(<-wrote)
	f.must(<-removed)
	f.must(c.KeepAlive(patient(t)))
}

// A fence must not wait for a pause that waits for a hung device.
func TestRemovedHostIsDisconnectedDuringAPause(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	c := f.connect(f.hostConfig())
	entered, release := make(chan struct{}), make(chan struct{})
	f.disk.setHook(func(context.Context, string, int64, int64) error {
		close(entered)
		<-release
		return nil
	})
	go func() { _ = c.Write(patient(t), 1, make([]byte, 4096), 0) }()
	<-entered
	removed := make(chan error, 1)
	go func() { removed <- f.sub.RemoveNamespace(1) }()
	for paused := false; !paused; time.Sleep(time.Millisecond) {
		f.sub.mu.Lock()
		paused = f.sub.paused
		f.sub.mu.Unlock()
	}
	held := make(chan error, 1)
	go func() { held <- c.KeepAlive(patient(t)) }()
	f.sub.RemoveHost(testHost)
	ended(t, c)
	wantStatus(t, <-held, SCTPath, SCHostAborted)
	close(release)
	f.must(<-removed)
}
