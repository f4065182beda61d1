package healing

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// rounds is how often the loops go round: HEALING_ROUNDS, or often enough to come back to a node.
func rounds(t *testing.T) int {
	text := os.Getenv("HEALING_ROUNDS")
	if text == "" {
		return 3
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
	b := newBench(t, 3)
	id := b.create("a", 16*mib, nil)
	l := b.load(b.use(id))
	var worst, longest time.Duration
	for round := range rounds(t) {
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
	b := newBench(t, 3)
	id := b.create("a", 16*mib, nil)
	l := b.load(b.use(id))
	var worst, longest time.Duration
	for round := range rounds(t) {
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
		t.Logf("round %d: %s was left for %s, longest pause %s, whole after %s", round+1, from, b.Record(id).Assembly.RaidHost, pause.Round(time.Millisecond), took.Round(time.Millisecond))
	}
	t.Logf("worst: longest pause %s, whole after %s", worst.Round(time.Millisecond), longest.Round(time.Millisecond))
	l.verify()
	b.release(id, l)
}
