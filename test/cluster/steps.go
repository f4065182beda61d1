package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Mode is how a step fails.
type Mode string

// Modes. A read has no effect, so that it fails in the first mode only.
const (
	// FailBefore: the step fails and had no effect.
	FailBefore Mode = "fails without effect"
	// FailAfter: the step takes effect and is reported as failed.
	FailAfter Mode = "fails after its effect"
	// Crash: the step takes effect, and it is the last of all: whatever follows fails without effect.
	Crash Mode = "is the last before a crash"
)

// errInjected is why steps other than SPDK calls fail.
var errInjected = errors.New("injected fault")

// Steps counts what the driver does to the world, calls to SPDK, uses of the store and operations of a machine, and makes one of
// them fail. A nil *Steps leaves all alone.
type Steps struct {
	mu    sync.Mutex
	armed bool
	mode  Mode
	at    int
	count int
	dead  bool
	fired string
	// read has the reads since the last step that was none: one that comes again without anything having changed is no further
	// step.
	read map[string]bool
}

// Attempt runs a flow of which step number at, from 0, fails in the given mode. fired names the step; it is empty if the flow had
// fewer steps.
func (s *Steps) Attempt(at int, mode Mode, flow func() error) (fired string, err error) {
	s.mu.Lock()
	s.armed, s.mode, s.at, s.count, s.dead, s.fired, s.read = true, mode, at, 0, false, "", map[string]bool{}
	s.mu.Unlock()
	err = flow()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = false
	return s.fired, err
}

// workers is how many clusters Every keeps busy: a flow waits more than it works.
const workers = 4

// Every runs a test of a flow with its first step failing, with its second, and so on until all have had their turn, in every
// mode. start makes a cluster with the given steps and returns what is run for each of them; that puts faulty around the flow,
// once, in place of a plain call, and learns whether the driver has crashed.
func Every(t *testing.T, start Start) {
	every(t, 1, func(t *testing.T, run func(*testing.T)) { run(t) }, start)
}

// EveryInBubbles does the same with each worker in a bubble of testing/synctest. start is to make its cluster with NewBubble. Long flows
// have hundreds of steps: only each fifth has its turn, unless EVERY_STEP is set in the environment.
func EveryInBubbles(t *testing.T, start Start) {
	stride := 5
	if os.Getenv("EVERY_STEP") != "" {
		stride = 1
	}
	every(t, stride, synctest.Test, start)
}

// Start makes what the attempts of one worker run on.
type Start func(t *testing.T, s *Steps) (run func(t *testing.T, faulty func(flow func() error) (crashed bool)))

func every(t *testing.T, stride int, within func(t *testing.T, run func(t *testing.T)), start Start) {
	for _, mode := range []Mode{FailBefore, FailAfter, Crash} {
		for worker := range workers {
			t.Run(fmt.Sprintf("%s, part %d", mode, worker+1), func(t *testing.T) {
				t.Parallel()
				within(t, func(t *testing.T) { attempts(t, mode, worker*stride, workers*stride, start) })
			})
		}
	}
}

// attempts runs one worker's share of the attempts.
func attempts(t *testing.T, mode Mode, first, stride int, start Start) {
	s := &Steps{}
	run := start(t, s)
	for at, more := first, true; more; at += stride {
		run(t, func(flow func() error) bool {
			fired, err := s.Attempt(at, mode, flow)
			t.Logf("step %d: %s: %v", at, fired, err)
			if fired == "" && err != nil {
				t.Fatalf("without a fault: %v", err)
			}
			more = fired != ""
			return more && mode == Crash
		})
	}
}

// Crashed says whether the last step before a crash was taken: nothing has an effect any more.
func (s *Steps) Crashed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dead
}

// verdict is what happens to a step.
type verdict struct{ failBefore, failAfter bool }

func (s *Steps) next(what string, reads bool) verdict {
	if s == nil {
		return verdict{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.armed:
		return verdict{}
	case s.dead:
		return verdict{failBefore: true}
	case reads && (s.mode != FailBefore || s.read[what]):
		return verdict{}
	case reads:
		s.read[what] = true
	default:
		clear(s.read)
	}
	s.count++
	if s.count-1 != s.at {
		return verdict{}
	}
	s.fired, s.dead = what, s.mode == Crash
	return verdict{failBefore: s.mode == FailBefore, failAfter: s.mode != FailBefore}
}

func (s *Steps) wrapCaller() func(string, spdk.Caller) spdk.Caller {
	return func(node string, rpc spdk.Caller) spdk.Caller { return &caller{Caller: rpc, steps: s, node: node} }
}

// caller passes calls on, or fails them as a connection does.
type caller struct {
	spdk.Caller
	steps *Steps
	node  string
}

func (c *caller) Call(ctx context.Context, method string, params, result any) error {
	what := method + " on " + c.node
	v := c.steps.next(what, strings.Contains(method, "_get_"))
	if v.failBefore {
		return fmt.Errorf("%s: %w: %w", what, spdk.ErrUnreachable, errInjected)
	}
	err := c.Caller.Call(ctx, method, params, result)
	if v.failAfter {
		return fmt.Errorf("%s: %w: %w", what, spdk.ErrUnknownOutcome, errInjected)
	}
	return err
}

func (s *Steps) wrapStore(real volume.Store) volume.Store { return &store{real: real, steps: s} }

// store passes uses on, or fails them.
type store struct {
	real  volume.Store
	steps *Steps
}

func (s *store) do(what string, reads bool, f func() error) error {
	v := s.steps.next("store: "+what, reads)
	if v.failBefore {
		return fmt.Errorf("store: %s: %w", what, errInjected)
	}
	err := f()
	if v.failAfter {
		return fmt.Errorf("store: %s: %w", what, errInjected)
	}
	return err
}

func (s *store) Get(ctx context.Context, id string) (v *volume.Volume, err error) {
	err = s.do("get", true, func() error { v, err = s.real.Get(ctx, id); return err })
	return v, err
}

func (s *store) Create(ctx context.Context, v *volume.Volume) error {
	return s.do("create", false, func() error { return s.real.Create(ctx, v) })
}

func (s *store) Update(ctx context.Context, v *volume.Volume) error {
	return s.do("update", false, func() error { return s.real.Update(ctx, v) })
}

func (s *store) Delete(ctx context.Context, v *volume.Volume) error {
	return s.do("delete", false, func() error { return s.real.Delete(ctx, v) })
}

func (s *store) List(ctx context.Context, after string, limit int) (all []*volume.Volume, err error) {
	err = s.do("list", true, func() error { all, err = s.real.List(ctx, after, limit); return err })
	return all, err
}

func (s *store) Host(ctx context.Context, name string) (h volume.Host, err error) {
	err = s.do("host", true, func() error { h, err = s.real.Host(ctx, name); return err })
	return h, err
}

func (s *store) PutHost(ctx context.Context, h volume.Host) error {
	return s.do("put host", false, func() error { return s.real.PutHost(ctx, h) })
}

// Machine makes operations of a machine steps, too. Each moment is one: in whatever mode, the operation fails at it.
func (s *Steps) Machine(op userspace.Op, at userspace.Moment) error {
	v := s.next(string(at)+" "+string(op), false)
	if v.failBefore || v.failAfter {
		return fmt.Errorf("%s %s: %w", at, op, errInjected)
	}
	return nil
}
