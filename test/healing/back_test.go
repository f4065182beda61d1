package healing

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// A raid host that holds no replica is cut off from its legs and from its host, and is back when it is on record that it is left, but before the
// machine has left it: it could have acknowledged a write in between, so that no leg is surely good. It says itself which are, in good time, and
// so it does to a node service that has only just begun.
func TestRaidHostIsBackWhileItIsLeft(t *testing.T) {
	longTest(t)
	for name, restart := range map[string]bool{"the node service goes on": false, "the node service is started again": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBubble(t, 4, cluster.Options{})
				var mu sync.Mutex
				var end func() // the cut's; nil while there is none
				var id string
				var failUntil time.Time
				m := b.machineThat("left", func(op userspace.Op, at userspace.Moment) error {
					mu.Lock()
					defer mu.Unlock()
					if op != userspace.OpConnectPath || at != userspace.After {
						return nil
					}
					if end != nil && b.Record(id).Assembly.Held {
						end()
						end, failUntil = nil, time.Now().Add(3*time.Second) // long enough for its path to be live again
					}
					if time.Now().Before(failUntil) {
						return errors.New("injected fault of the machine")
					}
					return nil
				})
				id = b.create("a", 3)
				file := m.use(id)
				l := cluster.StartLoad(b.ctx, file, 8, 2, 20*time.Millisecond)
				b.awaitShared(id, m)
				alone := b.without(b.Record(id))
				b.moveTo(id, alone)
				b.must(b.await("it has moved", func() bool { return b.Record(id).Assembly.RaidHost == alone }))
				b.awaitShared(id, m)

				mu.Lock()
				end = b.isolate(alone, "left")
				mu.Unlock()
				b.must(b.await("it is left", func() bool { return b.Record(id).Assembly.Held }))
				if restart {
					m.stop()
					m.start()
				}
				writes := l.Writes()
				b.must(b.await("writes go on", func() bool { return l.Writes() > writes+10 || l.Err() != nil }))
				b.must(l.Err())
				b.awaitShared(id, m)
				b.must(l.End())
				m.unuse(id)
				b.wantData(id, l)
				b.remove(id)
			})
		})
	}
}

// A raid host hangs while its standby's node is cut off, and goes on when it is on record that it is left. The machine can't leave it yet, so
// that it serves on, and loses the leg on the standby's node. That one is in-sync on record, and must not be part of what takes over, also where the
// raid host hangs again before the machine can leave it: the volume then waits for it.
func TestRaidHostServesOnWhileItIsLeft(t *testing.T) {
	longTest(t)
	for name, again := range map[string]bool{"to the end": false, "and hangs again": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { servesOn(t, again) })
		})
	}
}

func servesOn(t *testing.T, again bool) {
	b := newBubble(t, 3, cluster.Options{})
	m := b.machineThat("left", nil)
	id := b.create("a", 3)
	l := cluster.StartLoad(b.ctx, m.use(id), 8, 2, 20*time.Millisecond)
	b.awaitShared(id, m)
	v := b.Record(id)
	from, to := v.Assembly.RaidHost, v.Standby.RaidHost

	end := b.isolate(to, "left")
	b.Sim(from).Hang(true)
	b.must(b.await("it is left", func() bool { return b.Record(id).Assembly.Held }))
	b.Sim(from).Hang(false)
	writes := l.Writes()
	b.must(b.await("it serves on", func() bool { return l.Writes() > writes+10 || l.Err() != nil }))
	if again {
		time.Sleep(stall) // until it has lost the leg
		b.Sim(from).Hang(true)
		time.Sleep(2 * time.Second) // until the machine knows
		end()
		time.Sleep(stall / 2)
		if good := b.Record(id).InState(volume.ReplicaInSync); len(good) > 0 {
			t.Errorf("in-sync are %+v; one of them lacks what was written last", good)
		}
		b.Sim(from).Hang(false)
		writes = l.Writes()
		b.must(b.await("writes go on", func() bool { return l.Writes() > writes+10 || l.Err() != nil }))
		b.must(l.End())
	} else {
		b.must(l.End())
		end()
	}
	b.awaitShared(id, m)
	m.unuse(id)
	b.wantData(id, l)
	b.remove(id)
}
