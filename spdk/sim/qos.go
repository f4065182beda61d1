package sim

import (
	"context"
	"sync"

	"golang.org/x/time/rate"
)

// qosLimits are a bdev's rate limits (bdev_set_qos_limit); 0 is none.
type qosLimits struct {
	mu      sync.Mutex
	limits  [4]uint64 // rw I/O per second; rw, read, write megabytes per second
	buckets [4]*rate.Limiter
}

// Names of the limits in the order of qosLimits.limits.
var qosNames = [4]string{"rw_ios_per_sec", "rw_mbytes_per_sec", "r_mbytes_per_sec", "w_mbytes_per_sec"}

const qosUnset = ^uint64(0)

// set changes the limits given; qosUnset leaves one as it is.
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
		q.buckets[i] = nil
		if l == 0 {
			continue
		}
		perSecond := float64(l)
		if i > 0 {
			perSecond *= 1 << 20
		}
		q.buckets[i] = rate.NewLimiter(rate.Limit(perSecond), int(max(perSecond/1000, 1)))
	}
}

func (q *qosLimits) get() [4]uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.limits
}

// take waits until an I/O of n bytes fits the limits.
func (q *qosLimits) take(ctx context.Context, p *process, n int64, write bool) error {
	q.mu.Lock()
	buckets := q.buckets
	q.mu.Unlock()
	for i, b := range buckets {
		if b == nil || i == 2 && write || i == 3 && !write {
			continue
		}
		tokens := int64(1)
		if i > 0 {
			tokens = n
		}
		for tokens > 0 {
			k := min(tokens, int64(b.Burst()))
			tokens -= k
			r := b.ReserveN(p.now(), int(k))
			if d := r.DelayFrom(p.now()); d > 0 {
				t := p.node.cfg.Clock.NewTimer(d)
				select {
				case <-t.C():
				case <-ctx.Done():
					t.Stop()
					return ctx.Err()
				}
			}
		}
	}
	return nil
}
