package sim

import (
	"context"
	"slices"
	"sync"
)

// span is a range of bytes.
type span struct{ off, end int64 }

func (s *span) overlaps(o *span) bool { return s.off < o.end && o.off < s.end }

// rangeGate orders I/O against whoever locks a range (spdk_bdev_quiesce_range):
// I/O that overlaps a locked range waits, reads included, and a lock is held only
// once the I/O that began before it is over.
type rangeGate struct {
	mu       sync.Mutex
	inflight map[*span]struct{}
	locks    []*span
	changed  chan struct{} // closed when an I/O ends or a lock goes
}

func newRangeGate() *rangeGate {
	return &rangeGate{inflight: map[*span]struct{}{}, changed: make(chan struct{})}
}

// begin lets an I/O through, or returns the context's error.
func (g *rangeGate) begin(ctx context.Context, off, n int64) (*span, error) {
	s := &span{off, off + n}
	g.mu.Lock()
	for slices.ContainsFunc(g.locks, s.overlaps) {
		if err := g.wait(ctx); err != nil {
			g.mu.Unlock()
			return nil, err
		}
	}
	g.inflight[s] = struct{}{}
	g.mu.Unlock()
	return s, nil
}

// end tells that an I/O is over.
func (g *rangeGate) end(s *span) {
	g.mu.Lock()
	delete(g.inflight, s)
	g.notify()
	g.mu.Unlock()
}

// lock holds new I/O in a range back and waits for that in flight and for other
// locks.
func (g *rangeGate) lock(ctx context.Context, off, end int64) (*span, error) {
	s := &span{off, end}
	g.mu.Lock()
	defer g.mu.Unlock()
	for slices.ContainsFunc(g.locks, s.overlaps) {
		if err := g.wait(ctx); err != nil {
			return nil, err
		}
	}
	g.locks = append(g.locks, s)
	for g.busy(s) {
		if err := g.wait(ctx); err != nil {
			g.drop(s)
			return nil, err
		}
	}
	return s, nil
}

// unlock lets I/O into the range again.
func (g *rangeGate) unlock(s *span) {
	g.mu.Lock()
	g.drop(s)
	g.mu.Unlock()
}

func (g *rangeGate) drop(s *span) {
	g.locks = slices.DeleteFunc(g.locks, func(o *span) bool { return o == s })
	g.notify()
}

func (g *rangeGate) busy(s *span) bool {
	for o := range g.inflight {
		if o.overlaps(s) {
			return true
		}
	}
	return false
}

func (g *rangeGate) notify() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// wait gives the mutex up until something changes.
func (g *rangeGate) wait(ctx context.Context) error {
	changed := g.changed
	g.mu.Unlock()
	defer g.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
