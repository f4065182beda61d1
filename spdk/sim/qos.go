package sim

import (
	"context"
	"slices"
	"sync"
	"time"
)

// qosLimits are a bdev's rate limits (bdev_set_qos_limit); 0 is none.
//
// As in SPDK (lib/bdev/bdev.c, bdev_qos_rw_queue_io and bdev_channel_poll_qos) an I/O goes on while anything is left of each quota that
// counts it, however large it is, and what it takes too much the next ones wait for; of an idle time no more than a timeslice is saved up.
type qosLimits struct {
	mu      sync.Mutex
	limits  [4]uint64 // rw I/O per second; rw, read, write megabytes per second
	free    [4]time.Time
	changed chan struct{} // closed by set; nil while no I/O waits
}

// Names of the limits in the order of qosLimits.limits.
var qosNames = [4]string{"rw_ios_per_sec", "rw_mbytes_per_sec", "r_mbytes_per_sec", "w_mbytes_per_sec"}

const qosUnset = ^uint64(0)

// qosTimeslice is SPDK_BDEV_QOS_TIMESLICE_IN_USEC.
const qosTimeslice = time.Millisecond

// set changes the limits given; qosUnset leaves one as it is. I/O that waits is looked at anew.
func (q *qosLimits) set(limits [4]uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, l := range limits {
		if l == qosUnset {
			continue
		}
		if i == 0 {
			// SPDK rounds the number of I/O up to a multiple of 1000.
			l = (l + 999) / 1000 * 1000
		}
		q.limits[i] = l
	}
	q.free = [4]time.Time{}
	if q.changed != nil {
		close(q.changed)
		q.changed = nil
	}
}

func (q *qosLimits) get() [4]uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.limits
}

// reserve returns when an I/O of n bytes may go on, by the limits of now, and what tells that they have changed. Those after it wait for what
// it takes.
func (q *qosLimits) reserve(now time.Time, n int64, write bool) (at time.Time, changed <-chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	at = now
	for i, l := range q.limits {
		if l > 0 && counts(i, write) && q.free[i].After(at) {
			at = q.free[i]
		}
	}
	for i, l := range q.limits {
		if l == 0 || !counts(i, write) {
			continue
		}
		cost := float64(n) / float64(l<<20)
		if i == 0 {
			cost = 1 / float64(l)
		}
		saved := slices.MaxFunc([]time.Time{q.free[i], now.Add(-qosTimeslice)}, time.Time.Compare)
		q.free[i] = saved.Add(time.Duration(cost * float64(time.Second)))
	}
	if q.changed == nil {
		q.changed = make(chan struct{})
	}
	return at, q.changed
}

// counts says whether a limit counts reads or writes.
func counts(limit int, write bool) bool { return limit != 2 && limit != 3 || (limit == 3) == write }

// take waits until an I/O of n bytes fits the limits.
func (q *qosLimits) take(ctx context.Context, p *process, n int64, write bool) error {
	for q.get() != [4]uint64{} {
		at, changed := q.reserve(p.now(), n, write)
		d := at.Sub(p.now())
		if d <= 0 {
			return nil
		}
		t := p.node.cfg.Clock.NewTimer(d)
		select {
		case <-t.C():
			return nil
		case <-changed:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
	return nil
}
