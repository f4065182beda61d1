package healing

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// A part that works is cut off from one that it needs, and nobody else notices.
var cuts = map[string]struct {
	nodes int
	// idle: nothing is in flight when it begins. SPDK answers what comes in while a connection that it ends is being drained with a
	// command sequence error, which a host tries again five times at once and then fails (docs/spdk.md).
	idle bool
	// begin cuts, and returns what ends it; nil if the driver is to put it right.
	begin func(b *bubble, id string) (end func())
}{
	"the raid host's target forgets the host": {3, true, func(b *bubble, id string) func() {
		v := b.Record(id)
		b.fence(v.Assembly.RaidHost, v.NQN(), volume.HostNQN(host))
		return nil
	}},
	"a replica's target forgets the raid host": {3, false, func(b *bubble, id string) func() {
		v := b.Record(id)
		for _, r := range v.Replicas {
			if r.Node == b.otherThan(id) {
				b.fence(r.Node, v.ReplicaNQN(r), volume.SPDKHostNQN(v.Assembly.RaidHost))
			}
		}
		return nil
	}},
	// Its raid is about to lose its last leg, and the host its namespace.
	"a raid host without a replica loses sight of all of them": {4, false, func(b *bubble, id string) func() {
		v, alone := b.Record(id), b.moveAway(id)
		cut := func(cut bool) {
			for _, r := range v.Replicas {
				b.Network.Cut(alone, r.Node, cut)
			}
		}
		cut(true)
		return func() { cut(false) }
	}},
}

func TestPartsThatWorkLoseEachOther(t *testing.T) {
	longTest(t)
	for name, c := range cuts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBubble(t, c.nodes, cluster.Options{})
				id := b.create("a", 3)
				b.must(b.publish(id))
				b.must(b.stage(id))
				load := func() *cluster.Load { return cluster.StartLoad(b.ctx, b.open(id), 64, 4, 20*time.Millisecond) }
				var l *cluster.Load
				if !c.idle {
					l = load()
				}
				b.must(b.awaitWhole(id))
				end := c.begin(b, id)
				if c.idle {
					l = load()
				}
				time.Sleep(2 * stall)
				writes := l.Writes()
				b.must(b.await("writes go on", func() bool { return l.Writes() > writes+10 || l.Err() != nil }))
				b.must(l.Err())
				if end != nil {
					end()
				}
				b.wantWholeToTheEnd(id, l)
			})
		})
	}
}

// fence takes a host off a subsystem's list behind the driver's back.
func (b *bubble) fence(on, nqn, hostNQN string) {
	b.t.Helper()
	node, err := b.Node(on)
	b.must(err)
	b.must(node.FenceHost(b.ctx, nqn, hostNQN))
}

// moveTo has an operator want a volume to run elsewhere.
func (b *bubble) moveTo(id, node string) {
	b.t.Helper()
	_, err := volume.Modify(b.ctx, b.Store, id, func(v *volume.Volume) (bool, error) { v.MoveTo = node; return true, nil })
	b.must(err)
}

// moveAway has the volume run on a node that holds no replica of it, which it returns.
func (b *bubble) moveAway(id string) string {
	b.t.Helper()
	alone := b.without(b.Record(id))
	b.moveTo(id, alone)
	b.must(b.await("it has moved", func() bool { return b.Record(id).Assembly.RaidHost == alone }))
	b.must(b.awaitWhole(id))
	return alone
}

// without returns a node that holds no replica of the volume.
func (b *bubble) without(v *volume.Volume) string {
	b.t.Helper()
	for _, name := range b.Names() {
		holds := false
		for _, r := range v.Replicas {
			holds = holds || r.Node == name
		}
		if !holds {
			return name
		}
	}
	b.t.Fatal("every node holds a replica")
	return ""
}
