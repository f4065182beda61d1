package nvmetcp

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// shared is a namespace exported by several targets, each with its own range of
// controller ids.
type shared struct {
	t    *testing.T
	disk *memDisk
	tgts []*Target
	subs []*Subsystem
}

func newShared(t *testing.T, n int) *shared {
	s := &shared{t: t, disk: newMemDisk(4096, 16<<20)}
	for range n {
		s.add()
	}
	return s
}

func (s *shared) add() int {
	s.t.Helper()
	i := len(s.tgts)
	tgt := NewTarget(TargetConfig{KeepAliveUnits: 1, MinKATO: 500 * time.Millisecond})
	s.t.Cleanup(func() { _ = tgt.Close() })
	s.must(tgt.Listen("127.0.0.1:0"))
	sub, err := tgt.AddSubsystem(SubsystemConfig{NQN: testNQN, ANAReporting: true, MinCNTLID: uint16(1 + 100*i), MaxCNTLID: uint16(100 + 100*i)})
	s.must(err)
	s.must(sub.AddListener(tgt.Addr()))
	s.must(sub.AddNamespace(NamespaceConfig{NSID: 1, Device: s.disk, UUID: testUUID}))
	sub.AllowHost(testHost)
	s.tgts, s.subs = append(s.tgts, tgt), append(s.subs, sub)
	return i
}

func (s *shared) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *shared) ana(i int, state ANAState) {
	s.t.Helper()
	s.must(s.subs[i].SetANAState(s.tgts[i].Addr(), 0, state))
}

func (s *shared) path(i int) PathConfig {
	return PathConfig{
		Addr: s.tgts[i].Addr(), KATO: 500 * time.Millisecond, ReconnectDelay: 50 * time.Millisecond,
		CtrlLossTimeout: -1, IOQueues: 2, ConnectTimeout: 5 * time.Second,
	}
}

func (s *shared) head(paths ...int) *Head {
	s.t.Helper()
	h := NewHead(HeadConfig{SubNQN: testNQN, HostNQN: testHost, UUID: testUUID})
	s.t.Cleanup(func() { _ = h.Close() })
	for _, i := range paths {
		s.must(h.AddPath(patient(s.t), s.path(i)))
	}
	return h
}

// await waits until the head's paths are as wanted.
func await(t *testing.T, h *Head, want func([]PathInfo) bool) {
	t.Helper()
	ctx := patient(t)
	for {
		changed := h.Changed()
		if want(h.Paths()) {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("paths stay %+v", h.Paths())
		}
	}
}

// writer writes until it is stopped and counts what succeeded; any error fails
// the test.
type writer struct {
	done   atomic.Int64
	stop   context.CancelFunc
	ended  sync.WaitGroup
	notify chan struct{}
}

func startWriter(t *testing.T, h *Head) *writer {
	ctx, stop := context.WithCancel(t.Context())
	w := &writer{stop: stop, notify: make(chan struct{}, 1)}
	for i := range 4 {
		w.ended.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				err := h.WriteAt(ctx, make([]byte, 8192), int64(i)<<20|int64(n%64)*8192)
				if err != nil && ctx.Err() == nil {
					t.Errorf("write failed: %v", err)
					return
				}
				w.done.Add(1)
				select {
				case w.notify <- struct{}{}:
				default:
				}
			}
		})
	}
	t.Cleanup(w.end)
	return w
}

func (w *writer) end() {
	w.stop()
	w.ended.Wait()
}

// progress returns when writes that began after the call have succeeded.
func (w *writer) progress(t *testing.T) {
	t.Helper()
	ctx := patient(t)
	for target := w.done.Load() + 8; w.done.Load() < target; {
		select {
		case <-w.notify:
		case <-ctx.Done():
			t.Fatalf("no write succeeds any more (%d so far)", w.done.Load())
		}
	}
}

func TestHeadPrefersOptimizedPaths(t *testing.T) {
	s := newShared(t, 2)
	s.ana(0, ANANonOptimized)
	h := s.head(0, 1)
	current := func(i int) func([]PathInfo) bool {
		return func(p []PathInfo) bool {
			s.must(h.ReadAt(patient(t), make([]byte, 4096), 0))
			return h.Paths()[i].Current && p[i].NSID == 1
		}
	}
	await(t, h, current(1))
	s.ana(1, ANAInaccessible)
	await(t, h, current(0))
	s.ana(1, ANAOptimized)
	await(t, h, current(1))
}

func TestHeadWaitsWhileEveryPathIsInaccessible(t *testing.T) {
	s := newShared(t, 2)
	s.ana(1, ANAInaccessible)
	h := s.head(0, 1)
	w := startWriter(t, h)
	w.progress(t)
	for i := range 6 {
		from, to := i%2, 1-i%2
		s.ana(from, ANAInaccessible)
		await(t, h, func(p []PathInfo) bool { return p[from].ANAState == ANAInaccessible })
		s.ana(to, ANAOptimized)
		w.progress(t)
	}
	w.end()
}

func TestHeadSurvivesAKilledPathWithoutAnError(t *testing.T) {
	s := newShared(t, 2)
	h := s.head(0, 1)
	w := startWriter(t, h)
	w.progress(t)
	s.tgts[0].Kill()
	w.progress(t)
	await(t, h, func(p []PathInfo) bool { return p[0].State == PathConnecting && p[1].Current })
	w.end()
}

func TestHeadLeavesAHungPathOnItsKeepAlive(t *testing.T) {
	s := newShared(t, 2)
	h := s.head(0, 1)
	w := startWriter(t, h)
	w.progress(t)
	s.tgts[0].SetHung(true)
	await(t, h, func(p []PathInfo) bool { return p[0].State != PathLive })
	w.progress(t)
	s.tgts[0].SetHung(false)
	await(t, h, func(p []PathInfo) bool { return p[0].State == PathLive })
	w.progress(t)
	w.end()
}

func TestHeadReconnectsToARestartedTarget(t *testing.T) {
	s := newShared(t, 1)
	h := s.head(0)
	w := startWriter(t, h)
	w.progress(t)
	addr := s.tgts[0].Addr()
	s.tgts[0].Kill()
	await(t, h, func(p []PathInfo) bool { return p[0].State == PathConnecting })
	tgt := NewTarget(TargetConfig{KeepAliveUnits: 1, MinKATO: 500 * time.Millisecond})
	t.Cleanup(func() { _ = tgt.Close() })
	s.must(tgt.Listen(addr))
	sub, err := tgt.AddSubsystem(SubsystemConfig{NQN: testNQN})
	s.must(err)
	s.must(sub.AddNamespace(NamespaceConfig{NSID: 1, Device: s.disk, UUID: testUUID}))
	sub.AllowHost(testHost)
	s.must(sub.AddListener(addr))
	w.progress(t)
	w.end()
}

func TestCtrlLossTimeoutOfTheLastPathFailsIO(t *testing.T) {
	s := newShared(t, 1)
	h := NewHead(HeadConfig{SubNQN: testNQN, HostNQN: testHost, UUID: testUUID})
	t.Cleanup(func() { _ = h.Close() })
	cfg := s.path(0)
	cfg.CtrlLossTimeout = 150 * time.Millisecond
	s.must(h.AddPath(patient(t), cfg))
	s.tgts[0].Kill()
	if err := h.WriteAt(patient(t), make([]byte, 4096), 0); !errors.Is(err, ErrNoPath) {
		t.Fatalf("got %v, want ErrNoPath", err)
	}
	// The kernel's block device is gone for good, whatever is connected later.
	i := s.add()
	s.must(h.AddPath(patient(t), s.path(i)))
	if err := h.ReadAt(patient(t), make([]byte, 4096), 0); !errors.Is(err, ErrNoPath) {
		t.Fatalf("after another path came: %v", err)
	}
}

func TestFastIOFailFailsIOOfALostPathThatStillReconnects(t *testing.T) {
	s := newShared(t, 1)
	h := NewHead(HeadConfig{SubNQN: testNQN, HostNQN: testHost, UUID: testUUID})
	t.Cleanup(func() { _ = h.Close() })
	cfg := s.path(0)
	cfg.FastIOFail = 100 * time.Millisecond
	s.must(h.AddPath(patient(t), cfg))
	s.tgts[0].Kill()
	if err := h.WriteAt(patient(t), make([]byte, 4096), 0); !errors.Is(err, ErrNoPath) {
		t.Fatalf("got %v, want ErrNoPath", err)
	}
	if p := h.Paths(); len(p) != 1 || p[0].State == PathLive {
		t.Errorf("paths %+v, want one that reconnects", p)
	}
}

// Deleting a path before the next one has the namespace fails the device: fact
// 24 of the kernel's behaviour.
func TestPathWithoutTheNamespaceDoesNotCount(t *testing.T) {
	s := newShared(t, 2)
	s.must(s.subs[1].RemoveNamespace(1))
	h := s.head(0, 1)
	s.must(h.ReadAt(patient(t), make([]byte, 4096), 0))
	s.must(h.RemovePath(patient(t), s.tgts[0].Addr()))
	if err := h.ReadAt(patient(t), make([]byte, 4096), 0); !errors.Is(err, ErrNoPath) {
		t.Fatalf("got %v, want ErrNoPath", err)
	}
}

func TestNamespaceThatAppearsLaterMakesThePathUsable(t *testing.T) {
	s := newShared(t, 2)
	s.must(s.subs[1].RemoveNamespace(1))
	h := s.head(0, 1)
	w := startWriter(t, h)
	s.must(s.subs[1].AddNamespace(NamespaceConfig{NSID: 1, Device: s.disk, UUID: testUUID}))
	await(t, h, func(p []PathInfo) bool { return p[1].NSID == 1 })
	s.must(h.RemovePath(patient(t), s.tgts[0].Addr()))
	w.progress(t)
	w.end()
	awaitControllers(t, s.subs[0], 0)
}

func TestDuplicateControllerIDIsRefused(t *testing.T) {
	s := newShared(t, 1)
	h := s.head(0)
	s.subs[0].nextCNTLID = 1
	other := newShared(t, 1)
	if err := h.AddPath(patient(t), other.path(0)); err == nil {
		t.Error("a second controller with the same id was accepted")
	}
	if len(h.Paths()) != 1 {
		t.Errorf("paths %+v", h.Paths())
	}
}

func TestStatusThatIsNotAboutThePathIsRetriedFiveTimes(t *testing.T) {
	s := newShared(t, 1)
	h := s.head(0)
	for _, tc := range []struct {
		failures int
		dnr      bool
		calls    int
		ok       bool
	}{{5, false, 6, true}, {100, false, 6, false}, {100, true, 1, false}} {
		calls := 0
		s.disk.setHook(func(context.Context, string, int64, int64) error {
			if calls++; calls <= tc.failures {
				return &StatusError{SCT: SCTMedia, SC: SCWriteFault, DNR: tc.dnr}
			}
			return nil
		})
		err := h.WriteAt(patient(t), make([]byte, 4096), 0)
		if (err == nil) != tc.ok || calls != tc.calls {
			t.Errorf("%+v: %v after %d calls", tc, err, calls)
		}
	}
}

func TestIOTimeoutResetsThePathAndTheCommandGoesOn(t *testing.T) {
	s := newShared(t, 1)
	h := NewHead(HeadConfig{SubNQN: testNQN, HostNQN: testHost, UUID: testUUID, IOTimeout: 300 * time.Millisecond})
	t.Cleanup(func() { _ = h.Close() })
	s.must(h.AddPath(patient(t), s.path(0)))
	var calls atomic.Int64
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	s.disk.setHook(func(_ context.Context, op string, _, _ int64) error {
		if op == "write" && calls.Add(1) == 1 {
			<-release
		}
		return nil
	})
	s.must(h.WriteAt(patient(t), make([]byte, 4096), 0))
	if calls.Load() < 2 {
		t.Error("the write succeeded although the device never answered it")
	}
}

func TestHeadFollowsTheNamespacesSize(t *testing.T) {
	s := newShared(t, 1)
	h := s.head(0)
	s.disk.grow(32 << 20)
	s.subs[0].NamespaceResized(1)
	await(t, h, func([]PathInfo) bool { return h.SizeBytes() == 32<<20 })
	s.must(h.WriteAt(patient(t), make([]byte, 4096), 31<<20))
}

// Two targets tell of the new size one after the other: the one that has not yet is not used.
func TestHeadUsesNoPathOfAnotherSize(t *testing.T) {
	s := newShared(t, 2)
	h := s.head()
	s.ana(1, ANAInaccessible)
	for i := range 2 {
		path := s.path(i)
		path.KATO = time.Minute // one that was lost on a busy machine would come back with the new size
		s.must(h.AddPath(patient(t), path))
	}
	s.disk.grow(32 << 20)
	s.subs[1].NamespaceResized(1)
	await(t, h, func([]PathInfo) bool { return h.SizeBytes() == 32<<20 })
	written := make(chan error, 1)
	go func() { written <- h.WriteAt(patient(t), make([]byte, 4096), 0) }()
	select {
	case err := <-written:
		t.Fatalf("a write ended with %v on a path that has another size, or is inaccessible", err)
	case <-time.After(50 * time.Millisecond):
	}
	s.subs[0].NamespaceResized(1)
	s.must(<-written)
}
