package healing

import (
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// rounds is how often the loops go round against real targets: HEALING_ROUNDS. In simulated time the loops below do the same.
func rounds(t *testing.T) int {
	text := os.Getenv("HEALING_ROUNDS")
	if text == "" {
		t.Skip("HEALING_ROUNDS says how often, with SPDK_RPC_SOCK and SPDK_CONTROL")
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("HEALING_ROUNDS: %v", err)
	}
	return n
}

// A replica is deleted, its node's target killed and its lvol gone, and rebuilt, again and again under load: the volume is healthy all
// along.
func TestReplicaIsDeletedAgainAndAgain(t *testing.T) {
	t.Parallel()
	n := rounds(t)
	b := newBench(t, 3)
	id := b.create("a", 16*mib, nil)
	l := b.load(b.use(id))
	var worst, longest time.Duration
	for round := range n {
		b.eventually("redundancy", func() bool { return b.whole(id) })
		l.pause()
		begin := time.Now()
		b.loseReplica(id, b.otherThan(id))
		b.eventually("redundancy", func() bool { return b.whole(id) })
		pause, took := l.pause(), time.Since(begin)
		worst, longest = max(worst, pause), max(longest, took)
		t.Logf("round %d: longest pause %s, whole after %s", round+1, pause.Round(time.Millisecond), took.Round(time.Millisecond))
	}
	t.Logf("worst: longest pause %s, whole after %s", worst.Round(time.Millisecond), longest.Round(time.Millisecond))
	l.verify()
	b.release(id, l)
}

// The raid host is killed and started again, again and again under load.
func TestRaidHostIsKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	n := rounds(t)
	b := newBench(t, 3)
	id := b.create("a", 16*mib, nil)
	l := b.load(b.use(id))
	var worst, longest time.Duration
	for round := range n {
		b.eventually("redundancy", func() bool { return b.whole(id) })
		l.pause()
		begin, from := time.Now(), b.Record(id).Assembly.RaidHost
		b.kill(from)
		b.eventually("the volume runs elsewhere", func() bool { v := b.Record(id); return v.Assembly.RaidHost != from && !v.Assembly.Held })
		l.pauseUntilNextWrite()
		pause := l.pause()
		b.start(from)
		b.eventually("redundancy", func() bool { return b.whole(id) })
		took := time.Since(begin)
		worst, longest = max(worst, pause, l.pause()), max(longest, took)
		b.modify(id, func(v *volume.Volume) { // or a node that is killed again and again had to wait longer and longer
			for i := range v.Replicas {
				v.Replicas[i].Strikes = 0
			}
		})
		t.Logf("round %d: %s was left for %s, longest pause %s, whole after %s", round+1, from, b.Record(id).Assembly.RaidHost, pause.Round(time.Millisecond), took.Round(time.Millisecond))
	}
	t.Logf("worst: longest pause %s, whole after %s", worst.Round(time.Millisecond), longest.Round(time.Millisecond))
	l.verify()
	b.release(id, l)
}

// simulated runs a loop of n rounds under load in simulated time. After each round the volume is whole, and at the end each replica
// holds what was acknowledged.
func simulated(t *testing.T, n int, round func(b *bubble, id string)) {
	longTest(t)
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 3, cluster.Options{})
		id, l := b.used("a", 64, 4, 100*time.Millisecond)
		for range n {
			b.must(b.awaitWhole(id))
			round(b, id)
			b.must(l.Err())
		}
		b.wantWholeToTheEnd(id, l)
	})
}

func TestReplicaIsDeletedFiftyTimes(t *testing.T) {
	simulated(t, 50, func(b *bubble, id string) {
		node, v := b.otherThan(id), b.Record(id)
		b.Sim(node).Kill()
		b.must(b.await("the loss is on record", func() bool { return b.inState(id, volume.ReplicaOutOfSync) == 1 }))
		b.must(b.Sim(node).Restart())
		n, err := b.Node(node)
		b.must(err)
		for _, r := range v.Replicas {
			if r.Node == node {
				b.must(b.again(func() error { return n.DeleteLvol(b.ctx, r.LvStore, v.LvolName(r)) }))
			}
		}
	})
}

func TestRaidHostIsKilledTwentyTimes(t *testing.T) {
	simulated(t, 20, func(b *bubble, id string) {
		from := b.Record(id).Assembly.RaidHost
		b.Sim(from).Kill()
		b.must(b.await("the volume runs elsewhere", func() bool { v := b.Record(id); return v.Assembly.RaidHost != from && !v.Assembly.Held }))
		b.must(b.Sim(from).Restart())
	})
}
