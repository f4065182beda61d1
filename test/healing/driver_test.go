package healing

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// The node service is killed again and again, at whatever point it has come to, while a replica and then the raid host are lost and the
// volume is healed.
func TestNodeServiceIsKilledWhileItHeals(t *testing.T) {
	t.Parallel()
	b := newBench(t, 3)
	id := b.create("a", 16*mib, nil)
	l := b.load(b.use(id))
	b.eventually("standby", func() bool { return b.whole(id) })
	for _, node := range []string{b.otherThan(id), b.Record(id).Assembly.RaidHost} {
		l.pause()
		b.kill(node)
		for range 5 {
			b.stopNode()
			b.startNode()
			time.Sleep(time.Duration(100+rand.IntN(900)) * time.Millisecond)
		}
		b.start(node)
		for range 10 {
			b.stopNode()
			b.startNode()
			time.Sleep(time.Duration(200+rand.IntN(3000)) * time.Millisecond)
		}
		b.eventually("redundancy", func() bool { return b.whole(id) })
		t.Logf("pause %s; %s", l.pause(), b.describe(id))
	}
	l.verify()
	b.release(id, l)
}

// While no node service runs the raid host is lost: I/O waits, and goes on when there is one again.
func TestRaidHostIsLostWhileNoNodeServiceRuns(t *testing.T) {
	t.Parallel()
	b := newBench(t, 3)
	id := b.create("a", 16*mib, nil)
	l := b.load(b.use(id))
	b.eventually("standby", func() bool { return b.whole(id) })
	l.pause()
	from := b.Record(id).Assembly.RaidHost
	b.stopNode()
	b.kill(from)
	time.Sleep(5 * time.Second)
	b.startNode()
	l.pauseUntilNextWrite()
	t.Logf("pause %s; %s", l.pause(), b.describe(id))
	b.start(from)
	b.eventually("redundancy", func() bool { return b.whole(id) })
	l.verify()
	b.release(id, l)
}

// switchedStore is a store that can be out of reach: refused, or without an answer.
type switchedStore struct {
	volume.Store
	away, hangs atomic.Bool
}

// noAnswer is after what time a store that doesn't answer is an error to its users.
const noAnswer = 5 * time.Second

var errAway = errors.New("the store can't be reached")

func (s *switchedStore) pass(ctx context.Context) error {
	switch {
	case !s.away.Load():
		return nil
	case s.hangs.Load():
		select {
		case <-time.After(noAnswer):
		case <-ctx.Done():
		}
	}
	return errAway
}

func (s *switchedStore) Get(ctx context.Context, id string) (*volume.Volume, error) {
	if err := s.pass(ctx); err != nil {
		return nil, err
	}
	return s.Store.Get(ctx, id)
}

func (s *switchedStore) Update(ctx context.Context, v *volume.Volume) error {
	if err := s.pass(ctx); err != nil {
		return err
	}
	return s.Store.Update(ctx, v)
}

func (s *switchedStore) List(ctx context.Context, after string, limit int) ([]*volume.Volume, error) {
	if err := s.pass(ctx); err != nil {
		return nil, err
	}
	return s.Store.List(ctx, after, limit)
}

// The store is out of reach for a while: I/O isn't disturbed, and what fails meanwhile is healed when it is back.
func TestStoreIsAway(t *testing.T) {
	t.Parallel()
	for name, hangs := range map[string]bool{"it refuses": false, "it doesn't answer": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, 3)
			id := b.create("a", 16*mib, nil)
			l := b.load(b.use(id))
			b.eventually("standby", func() bool { return b.whole(id) })
			l.pause()
			b.store.hangs.Store(hangs)
			b.store.away.Store(true)
			time.Sleep(10 * time.Second)
			t.Logf("pause while the store is away: %s", l.pause())
			lost := b.otherThan(id)
			b.kill(lost)
			time.Sleep(10 * time.Second)
			t.Logf("pause while the store is away and a replica is killed: %s", l.pause())
			b.start(lost)
			b.store.away.Store(false)
			b.eventually("the loss is on record", func() bool { return len(b.Record(id).InState(volume.ReplicaInSync)) < 3 })
			b.eventually("redundancy", func() bool { return b.whole(id) })
			t.Logf("pause %s; %s", l.pause(), b.describe(id))
			l.verify()
			b.release(id, l)
		})
	}
}
