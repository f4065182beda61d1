package healing

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// writers is how many writes are in flight when the raid host hangs: one to each block.
const writers = 8

// A raid host stops with writes in flight and goes on when the volume runs elsewhere and the same blocks were written again: nothing that
// it still has to write reaches a replica that counts, and nobody asks it.
func TestRaidHostThatComesBackLateNeitherWritesNorServes(t *testing.T) {
	longTest(t)
	for _, late := range []time.Duration{0, time.Second, 5 * time.Second, 40 * time.Second} {
		t.Run(late.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { comesBackLate(t, late) })
		})
	}
}

func comesBackLate(t *testing.T, late time.Duration) {
	b := newBubble(t, 3, cluster.Options{})
	id, l := b.used("a", writers, writers, 50*time.Millisecond)
	from := b.Record(id).Assembly.RaidHost
	b.Sim(from).Hang(true)
	b.must(b.await("writes wait for the raid host", func() bool { return l.InFlight() == writers }))
	b.must(b.await("the volume runs elsewhere", func() bool { a := b.Record(id).Assembly; return a.RaidHost != from && !a.Held }))
	before := l.Writes()
	b.must(b.await("the same blocks are written again", func() bool { return l.Writes() >= before+5*writers }))
	time.Sleep(late)
	b.must(b.left(id, from))
	b.wantFenced(id, from)
	b.Sim(from).Hang(false)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		b.wantData(id, l)
		b.must(b.left(id, from))
	}
	b.must(b.awaitWhole(id))
	b.must(l.End())
	b.wantData(id, l)
	b.release(id)
}

// left says whether this machine has no path to a node but to a standby that is made there anew.
func (b *bubble) left(id, from string) error {
	v := b.Record(id)
	n, err := b.Node(from)
	b.must(err)
	paths, err := b.machine.Paths(b.ctx, v.NQN())
	b.must(err)
	for _, p := range paths {
		if p.Address == n.NVMf.String() && (v.Standby == nil || v.Standby.RaidHost != from) {
			return fmt.Errorf("the machine has a path to %s: %+v", from, p)
		}
	}
	return nil
}

// wantFenced checks that no replica that counts lets a node in.
func (b *bubble) wantFenced(id, from string) {
	b.t.Helper()
	v := b.Record(id)
	seen := b.Observe(v)
	for _, r := range v.InState(volume.ReplicaInSync) {
		if hosts := seen.Nodes[r.Node].Replicas[r.ID].Hosts; slices.Contains(hosts, volume.SPDKHostNQN(from)) {
			b.t.Errorf("replica %s on %s lets %v in", r.ID, r.Node, hosts)
		}
	}
}
