package contract

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk"
)

// faulty fails one call, before or after its effect: what the driver sees of a crash, of
// its own or of the connection.
type faulty struct {
	spdk.Caller
	at    int64 // the call to fail, counted from 0; -1 fails none
	after bool
	calls atomic.Int64 // some are made side by side
}

func (f *faulty) Call(ctx context.Context, method string, params, result any) error {
	if f.calls.Add(1)-1 != f.at {
		return f.Caller.Call(ctx, method, params, result)
	}
	if !f.after {
		return fmt.Errorf("%s: %w: injected", method, spdk.ErrUnreachable)
	}
	var answer *spdk.Error // is lost like any other
	if err := f.Caller.Call(ctx, method, params, nil); err != nil && !errors.As(err, &answer) {
		return err
	}
	return fmt.Errorf("%s: %w: injected", method, spdk.ErrUnknownOutcome)
}

// everyFault runs operate with each of its calls failed once, before and after its effect,
// then again without a fault, and checks the end state. undo brings back the start.
func everyFault(t *testing.T, tg *target, operate func(*spdk.Node) error, check func(), undo func(*spdk.Node) error) {
	t.Helper()
	count := &faulty{Caller: tg.rpc, at: -1}
	ok(t, operate(spdk.NewNode("counted", count)))
	check()
	ok(t, undo(tg.Node))
	for i := range count.calls.Load() {
		for _, after := range []bool{false, true} {
			err := operate(spdk.NewNode("faulty", &faulty{Caller: tg.rpc, at: i, after: after}))
			if !errors.Is(err, spdk.ErrUnreachable) && !errors.Is(err, spdk.ErrUnknownOutcome) {
				t.Errorf("call %d failed, after its effect: %t; the operation said %v", i, after, err)
			}
			if err := operate(tg.Node); err != nil {
				t.Errorf("call %d had failed, after its effect: %t; then %v", i, after, err)
			}
			check()
			ok(t, undo(tg.Node))
		}
	}
}

// bothWays runs everyFault for an operation and for what undoes it.
func bothWays(t *testing.T, tg *target, do, undo func(*spdk.Node) error, done, undone func()) {
	t.Helper()
	everyFault(t, tg, do, done, undo)
	ok(t, do(tg.Node))
	everyFault(t, tg, undo, undone, do)
	ok(t, undo(tg.Node))
}

func TestLvolOperationsSurviveAFaultInEveryCall(t *testing.T) {
	tg, ctx := targets(t, 1)[0], t.Context()
	spec := spdk.LvolSpec{LvStore: tg.lvs.Name, Name: unique(), SizeBytes: volumeSize, Thin: true}
	create := func(n *spdk.Node) error { _, err := n.CreateLvol(ctx, spec); return err }
	drop := func(n *spdk.Node) error { return n.DeleteLvol(ctx, spec.LvStore, spec.Name) }
	atEnd(t, "delete lvol", func(ctx context.Context) error { return tg.DeleteLvol(ctx, spec.LvStore, spec.Name) })
	has := func(size int64) func() {
		return func() {
			t.Helper()
			if l, err := tg.Lvol(ctx, spec.LvStore, spec.Name); err != nil || l.SizeBytes != size {
				t.Errorf("%+v, %v", l, err)
			}
		}
	}
	absent := func() {
		t.Helper()
		if _, err := tg.Lvol(ctx, spec.LvStore, spec.Name); !errors.Is(err, spdk.ErrNotFound) {
			t.Errorf("still there: %v", err)
		}
	}
	bothWays(t, tg, create, drop, has(volumeSize), absent)
	ok(t, create(tg.Node))
	everyFault(t, tg,
		func(n *spdk.Node) error { return n.ResizeLvol(ctx, spec.LvStore, spec.Name, 2*volumeSize) }, has(2*volumeSize),
		func(n *spdk.Node) error { return errors.Join(drop(n), create(n)) })
}

func TestExportOperationsSurviveAFaultInEveryCall(t *testing.T) {
	tg, ctx := targets(t, 1)[0], t.Context()
	l := newLvol(t, tg, volumeSize)
	e := exportLvol(t, l, userNQN, userNQN+"2")
	e.ANAReporting, e.ANAState = true, spdk.ANAInaccessible
	other := e
	other.Hosts, other.ANAState, other.NSUUID = []string{userNQN + "3"}, spdk.ANAOptimized, uuid.New()
	make := func(e spdk.Export) func(*spdk.Node) error {
		return func(n *spdk.Node) error { return n.Export(ctx, e) }
	}
	drop := func(n *spdk.Node) error { return n.Unexport(ctx, e.NQN) }
	atEnd(t, "unexport", func(ctx context.Context) error { return tg.Unexport(ctx, e.NQN) })
	bothWays(t, tg, make(e), drop,
		func() { t.Helper(); checkExported(t, tg, wanted(e, l.UUID)) },
		func() {
			t.Helper()
			if _, err := tg.Exported(ctx, e.NQN); !errors.Is(err, spdk.ErrNotFound) {
				t.Errorf("still there: %v", err)
			}
		})
	ok(t, make(e)(tg.Node))
	bothWays(t, tg, make(other), make(e),
		func() { t.Helper(); checkExported(t, tg, wanted(other, l.UUID)) },
		func() { t.Helper(); checkExported(t, tg, wanted(e, l.UUID)) })
}

func TestLegOperationsSurviveAFaultInEveryCall(t *testing.T) {
	all, ctx := targets(t, 2), t.Context()
	tg := all[0]
	r := newReplica(t, all[1], volumeSize, tg)
	leg := r.leg(tg)
	atEnd(t, "detach", func(ctx context.Context) error { return tg.DetachLeg(ctx, leg.Controller) })
	bothWays(t, tg,
		func(n *spdk.Node) error { _, err := n.AttachLeg(ctx, leg); return err },
		func(n *spdk.Node) error { return n.DetachLeg(ctx, leg.Controller) },
		func() {
			t.Helper()
			if l, err := tg.Leg(ctx, leg.Controller); err != nil || l.Bdev == "" || l.State != spdk.LegEnabled {
				t.Errorf("%+v, %v", l, err)
			}
		},
		func() {
			t.Helper()
			if _, err := tg.Leg(ctx, leg.Controller); !errors.Is(err, spdk.ErrNotFound) {
				t.Errorf("still there: %v", err)
			}
		})
	everyFault(t, all[1],
		func(n *spdk.Node) error { return n.FenceHost(ctx, r.export.NQN, tg.hostNQN) },
		func() {
			t.Helper()
			if e, err := all[1].Exported(ctx, r.export.NQN); err != nil || len(e.Hosts) != 0 {
				t.Errorf("%+v, %v", e, err)
			}
		},
		func(n *spdk.Node) error { return n.AllowHost(ctx, r.export.NQN, tg.hostNQN) })
}

func TestRaidOperationsSurviveAFaultInEveryCall(t *testing.T) {
	tg, ctx := targets(t, 1)[0], t.Context()
	leg, second := attach(t, tg, newReplica(t, tg, volumeSize, tg)), attach(t, tg, newReplica(t, tg, volumeSize, tg))
	spec := spdk.RaidSpec{Name: unique(), UUID: uuid.New(), Slots: 3, Legs: []string{leg.Bdev}}
	before := tg.inventory(t)
	atEnd(t, "delete raid", func(ctx context.Context) error { return tg.DeleteRaid(ctx, spec.Name) })
	assembled := func() {
		t.Helper()
		r, err := tg.Raid(ctx, spec.Name)
		if err != nil || r.State != spdk.RaidOnline || !slices.Equal(bdevs(r), []string{leg.Bdev, "", ""}) {
			t.Errorf("%+v, %v", r, err)
		}
	}
	assemble := func(n *spdk.Node) error { _, err := n.AssembleRaid(ctx, spec); return err }
	drop := func(n *spdk.Node) error { return n.DeleteRaid(ctx, spec.Name) }
	bothWays(t, tg, assemble, drop, assembled, func() {
		t.Helper()
		if after := tg.inventory(t); !slices.Equal(before, after) {
			t.Errorf("before %q\nafter %q", before, after)
		}
	})
	ok(t, assemble(tg.Node))
	everyFault(t, tg,
		func(n *spdk.Node) error { return n.AddRaidLeg(ctx, spec.Name, second.Bdev) },
		func() {
			t.Helper()
			if r := rebuilt(t, tg, spec.Name, second.Bdev); !r.Holds(second.Bdev) {
				t.Errorf("%+v", r)
			}
		},
		func(n *spdk.Node) error { return n.RemoveRaidLeg(ctx, spec.Name, second.Bdev) })
	ok(t, tg.AddRaidLeg(ctx, spec.Name, second.Bdev))
	rebuilt(t, tg, spec.Name, second.Bdev)
	everyFault(t, tg,
		func(n *spdk.Node) error { return n.RemoveRaidLeg(ctx, spec.Name, second.Bdev) }, assembled,
		func(n *spdk.Node) error {
			err := n.AddRaidLeg(ctx, spec.Name, second.Bdev)
			rebuilt(t, tg, spec.Name, second.Bdev)
			return err
		})
}

// A raid that still has a placeholder in a slot may read from it: it must not be taken for one that runs.
func TestRaidWhoseAssemblyWasInterruptedIsNoneThatRuns(t *testing.T) {
	tg, ctx := targets(t, 1)[0], t.Context()
	leg := attach(t, tg, newReplica(t, tg, volumeSize, tg))
	spec := spdk.RaidSpec{Name: unique(), UUID: uuid.New(), Slots: 3, Legs: []string{leg.Bdev}}
	atEnd(t, "delete raid", func(ctx context.Context) error { return tg.DeleteRaid(ctx, spec.Name) })
	interrupted := 0
	for i := int64(0); ; i++ {
		f := &faulty{Caller: tg.rpc, at: i}
		_, err := spdk.NewNode("faulty", f).AssembleRaid(ctx, spec)
		if f.calls.Load() <= i {
			ok(t, err)
			break
		}
		health, err := tg.Health(ctx)
		ok(t, err)
		_, runs := health.Raids[spec.Name]
		raid, err := tg.Raid(ctx, spec.Name)
		switch {
		case errors.Is(err, spdk.ErrNotFound):
			if runs {
				t.Errorf("call %d failed: there is no raid, health has one", i)
			}
		case err != nil:
			t.Error(err)
		default:
			placeholders := slices.ContainsFunc(bdevs(raid), func(b string) bool { return b != "" && b != leg.Bdev })
			if raid.Unfinished() != placeholders || runs == placeholders {
				t.Errorf("call %d failed: raid of %q, unfinished: %t, health has it: %t", i, bdevs(raid), raid.Unfinished(), runs)
			}
			if placeholders {
				interrupted++
			}
		}
		ok(t, tg.DeleteRaid(ctx, spec.Name))
	}
	if interrupted == 0 {
		t.Error("no fault left a placeholder behind")
	}
}
