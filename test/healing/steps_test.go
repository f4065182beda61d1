package healing

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// errCrashed ends a flow whose services have crashed.
var errCrashed = errors.New("the services have crashed")

// flow is one that controller and node service go through by themselves.
type flow struct {
	nodes int
	// prepare brings a volume that is whole and under load to where the flow begins; nil is that already. lost is a node that it, or
	// begin, has killed.
	prepare func(b *bubble, id string) (lost string)
	// begin sets the flow off; nil does nothing but let time pass.
	begin func(b *bubble, id, lost string)
	// meanwhile is called again and again until the volume is whole; nil does nothing.
	meanwhile func(b *bubble, id, lost string)
	// fresh: the flow begins when the volume is staged, and nothing has happened since.
	fresh bool
	// unused: the volume is given back once it is prepared.
	unused bool
	// keys: all that is connected authenticates.
	keys bool
}

// attemptsPerVolume is how many attempts a volume serves: each of them leaves it as whole as it was.
const attemptsPerVolume = 8

// everyStep goes through a flow under load with each of its steps failing in each mode: calls to SPDK, uses of the store, operations of
// the machine. After a crash the services are begun again. Each time the volume has to become whole, without an I/O error, a stale read
// or a replica that lacks a write; and when it is given up, nothing may be left.
func everyStep(t *testing.T, f flow) {
	longTest(t)
	t.Parallel()
	cluster.EveryInBubbles(t, func(t *testing.T, steps *cluster.Steps) func(*testing.T, func(func() error) bool) {
		b := newBubble(t, f.nodes, cluster.Options{Steps: steps})
		if f.keys {
			b.parameters = withKeys
		}
		count, id := 0, ""
		t.Cleanup(func() { b.release(id) })
		return func(_ *testing.T, faulty func(func() error) bool) {
			if count%attemptsPerVolume == 0 {
				b.release(id)
				id = b.create(fmt.Sprintf("volume-%d", count), 3)
			}
			count++
			b.attempt(id, f, steps, faulty)
		}
	})
}

// release gives a volume up; "" is none.
func (b *bubble) release(id string) {
	b.t.Helper()
	if id != "" && !b.t.Failed() {
		b.must(b.unuse(id))
		b.remove(id)
	}
}

func (b *bubble) attempt(id string, f flow, steps *cluster.Steps, faulty func(func() error) bool) {
	b.t.Helper()
	if f.fresh {
		b.must(b.unuse(id))
		b.stop()
	}
	b.must(b.publish(id))
	b.must(b.stage(id))
	l := cluster.StartLoad(b.ctx, b.open(id), 8, 2, 50*time.Millisecond)
	lost := ""
	if !f.fresh {
		b.must(b.awaitWhole(id))
		b.forgive(id)
	}
	if f.prepare != nil {
		lost = f.prepare(b, id)
	}
	if f.unused {
		b.must(l.End())
		b.must(b.unuse(id))
	}
	b.must(b.goThrough(id, lost, f, steps, faulty))
	b.must(l.End())
	b.wantData(id, l)
	if f.unused {
		b.must(b.publish(id))
		b.must(b.stage(id))
	}
	file := b.open(id)
	b.must(l.Check(func(p []byte, off int64) error { return file.ReadAt(b.ctx, p, off) }))
}

// forgive has the losses of earlier attempts not count: a replica that is lost in each of them would have to wait ever longer.
func (b *bubble) forgive(id string) {
	b.t.Helper()
	_, err := volume.Modify(b.ctx, b.Store, id, func(v *volume.Volume) (bool, error) {
		for i := range v.Replicas {
			v.Replicas[i].Strikes = 0
		}
		return true, nil
	})
	b.must(err)
}

// goThrough goes through a flow with one fault until the volume is whole again.
func (b *bubble) goThrough(id, lost string, f flow, steps *cluster.Steps, faulty func(func() error) bool) error {
	through := func() bool {
		if f.meanwhile != nil {
			f.meanwhile(b, id, lost)
		}
		return b.whole(id) == nil
	}
	crashed := faulty(func() error {
		if f.fresh {
			b.start()
		}
		if f.begin != nil {
			f.begin(b, id, lost)
		}
		err := b.await("the flow is through", func() bool { return steps.Crashed() || through() })
		if err != nil {
			err = fmt.Errorf("%w: %w", err, b.whole(id))
		}
		if steps.Crashed() {
			b.stop()
			return errCrashed
		}
		return err
	})
	if crashed {
		b.start()
	}
	if err := b.await("the volume is whole", through); err != nil {
		return fmt.Errorf("%w: %w", err, b.whole(id))
	}
	return nil
}

// kill ends a node's process.
func (b *bubble) kill(node string) string {
	b.Sim(node).Kill()
	return node
}

// restart begins it again, if it doesn't run.
func (b *bubble) restart(node string) {
	b.t.Helper()
	if !b.Sim(node).Running() {
		b.must(b.Sim(node).Restart())
	}
}

func restart(b *bubble, _, lost string) { b.restart(lost) }

// loseReplica kills a node that has a replica and nothing else of the volume, and waits until that is on record.
func loseReplica(b *bubble, id string) string {
	b.t.Helper()
	lost := b.kill(b.otherThan(id))
	b.must(b.await("the loss is on record", func() bool { return b.inState(id, volume.ReplicaOutOfSync) == 1 }))
	return lost
}

func TestEveryStepOfMakingAStandbyMayFail(t *testing.T) {
	everyStep(t, flow{nodes: 3, fresh: true})
}

// The standby is elsewhere: it is given up, another is made where the operator wants the volume to be, and made the one that runs.
func TestEveryStepOfAMoveMayFail(t *testing.T) {
	everyStep(t, flow{nodes: 3, prepare: func(b *bubble, id string) string {
		b.moveTo(id, b.otherThan(id))
		return ""
	}})
}

func TestEveryStepOfLeavingALostRaidHostMayFail(t *testing.T) {
	everyStep(t, leaveLost(false))
}

func TestEveryStepOfLeavingALostRaidHostWithKeysMayFail(t *testing.T) {
	everyStep(t, leaveLost(true))
}

func leaveLost(keys bool) flow {
	return flow{
		nodes:   3,
		keys:    keys,
		prepare: func(b *bubble, id string) string { return b.Record(id).Assembly.RaidHost },
		begin:   func(b *bubble, _, lost string) { b.kill(lost) },
		meanwhile: func(b *bubble, id, lost string) {
			if a := b.Record(id).Assembly; a.RaidHost != lost && !a.Held {
				b.restart(lost)
			}
		},
	}
}

// The process comes back at once, without its raid.
func TestEveryStepOfLeavingARaidHostThatWasStartedAgainMayFail(t *testing.T) {
	everyStep(t, flow{
		nodes:   3,
		prepare: func(b *bubble, id string) string { return b.Record(id).Assembly.RaidHost },
		begin:   func(b *bubble, _, lost string) { b.restart(b.kill(lost)) },
	})
}

func TestEveryStepOfReplacingALostStandbyMayFail(t *testing.T) {
	everyStep(t, flow{
		nodes:   3,
		prepare: func(b *bubble, id string) string { return b.Record(id).Standby.RaidHost },
		begin:   func(b *bubble, _, lost string) { b.kill(lost) },
		meanwhile: func(b *bubble, id, lost string) {
			if v := b.Record(id); v.Standby != nil && v.Standby.Running && v.Standby.RaidHost != lost {
				b.restart(lost)
			}
		},
	})
}

// When the replica is rebuilt the standby lacks it: it is given up for another.
func TestEveryStepOfARebuildMayFail(t *testing.T) {
	everyStep(t, flow{nodes: 3, prepare: loseReplica, begin: restart})
}

func TestEveryStepOfReplacingAReplicaWhoseLvolIsGoneMayFail(t *testing.T) {
	everyStep(t, flow{nodes: 3, prepare: func(b *bubble, id string) string {
		b.t.Helper()
		lost := loseReplica(b, id)
		v := b.Record(id)
		at := slices.IndexFunc(v.Replicas, func(r volume.Replica) bool { return r.Node == lost })
		n, err := b.Node(lost)
		b.must(err)
		b.restart(lost)
		b.must(n.DeleteLvol(b.ctx, v.Replicas[at].LvStore, v.LvolName(v.Replicas[at])))
		return lost
	}})
}

// The node comes back when another replica has taken the place of its own, which is then deleted.
func TestEveryStepOfReplacingAReplicaWhoseNodeStaysAwayMayFail(t *testing.T) {
	everyStep(t, flow{nodes: 4, prepare: loseReplica, meanwhile: func(b *bubble, id, lost string) {
		if b.inState(id, volume.ReplicaInSync) == 3 {
			b.restart(lost)
		}
	}})
}

func TestEveryStepOfRebuildingAVolumeThatNobodyUsesMayFail(t *testing.T) {
	everyStep(t, flow{nodes: 3, prepare: loseReplica, unused: true, begin: restart})
}
