package sim

import (
	"context"
	"math"
	"slices"
	"sync"
)

// raidIO is a raid's data path: writes go to every leg, reads to one.
type raidIO struct {
	r         *raid
	blockSize int
	ranges    *rangeGate

	mu      sync.Mutex
	members []*raidMember // by slot; nil is an empty one or one being rebuilt
	target  *raidMember   // the leg being rebuilt
	slot    int           // its slot
	done    int64         // bytes below are rebuilt
}

// raidMember is a leg as I/O sees it: d tells whether the leg is still the same.
type raidMember struct {
	l       *leg
	d       *desc
	reading int64 // bytes of reads in flight
}

func newRaidIO(r *raid, slots int) *raidIO {
	return &raidIO{r: r, ranges: newRangeGate(), members: make([]*raidMember, slots)}
}

// setMembers takes all configured legs.
func (x *raidIO) setMembers(legs []*leg) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, l := range legs {
		x.members[i] = &raidMember{l: l, d: l.desc}
	}
}

// drop empties a slot.
func (x *raidIO) drop(slot int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.members[slot] = nil
	if x.target != nil && x.slot == slot {
		x.target = nil
	}
}

// part is a piece of an I/O that goes to the same members as a whole.
type part struct {
	off, n  int64
	members []*raidMember
	rebuilt bool // the target of a rebuild is among the members
}

// split divides a range at the point that a rebuild has reached: what lies below
// is on its target as well. The upper part comes first, as in SPDK.
func (x *raidIO) split(off, n int64) []part {
	x.mu.Lock()
	defer x.mu.Unlock()
	var plain []*raidMember
	for _, m := range x.members {
		if m != nil {
			plain = append(plain, m)
		}
	}
	if x.target == nil || off >= x.done {
		return []part{{off: off, n: n, members: plain}}
	}
	both := slices.Concat(plain, []*raidMember{x.target})
	if off+n <= x.done {
		return []part{{off, n, both, true}}
	}
	lower := x.done - off
	return []part{{off: x.done, n: n - lower, members: plain}, {off, lower, both, true}}
}

// run lets an I/O through the range locks and runs it for as long as the process
// lives, whatever becomes of the caller: legs must not be given up because a host
// went away. fn must not touch the caller's buffers after the caller has left.
func (x *raidIO) run(ctx context.Context, off, n int64, fn func(ctx context.Context) error) error {
	p := x.r.p
	s, err := x.ranges.begin(ctx, off, n)
	if err != nil {
		return err
	}
	result := make(chan error, 1)
	started := p.spawn(func(pctx context.Context) {
		err := fn(pctx)
		x.ranges.end(s)
		result <- err
	})
	if !started {
		x.ranges.end(s)
		// The process is ending: it answers nothing, neither well nor badly.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.ctx.Done():
			return p.ctx.Err()
		}
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// each writes to every member of every part and waits for all. It succeeds where
// one did; the others are ejected.
func (x *raidIO) each(ctx context.Context, off, n int64, write func(ctx context.Context, b *bdev, off, n int64) error) error {
	for _, pt := range x.split(off, n) {
		errs := make([]error, len(pt.members))
		var wg sync.WaitGroup
		for i, m := range pt.members {
			if i == len(pt.members)-1 {
				errs[i] = write(ctx, m.d.b, pt.off, pt.n)
				break
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				errs[i] = write(ctx, m.d.b, pt.off, pt.n)
			}()
		}
		wg.Wait()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := x.judge(ctx, pt, errs); err != nil {
			return err
		}
	}
	return nil
}

// judge is what becomes of a part whose members have answered a write. Where a
// rebuild has been, SPDK takes the copy of the channel that the write went by for a
// channel, to find the leg that failed (raid1_write_bdev_io_completion).
func (x *raidIO) judge(ctx context.Context, pt part, errs []error) error {
	good := false
	for i, m := range pt.members {
		if errs[i] == nil {
			good = true
			continue
		}
		if n := x.r.p.node; pt.rebuilt && !n.cfg.SurviveRebuildErrors {
			n.crash(x.r.p, "leg "+m.d.b.name+" failed a write to the rebuilt part of raid "+x.r.name)
			<-ctx.Done()
			return ctx.Err()
		}
		m.l.fail(m.d)
	}
	if !good {
		return errFailed
	}
	return nil
}

func (x *raidIO) WriteAt(ctx context.Context, p []byte, off int64) error {
	data := append([]byte(nil), p...)
	return x.run(ctx, off, int64(len(p)), func(ctx context.Context) error {
		return x.each(ctx, off, int64(len(data)), func(ctx context.Context, b *bdev, o, n int64) error {
			return b.WriteAt(ctx, data[o-off:o-off+n], o)
		})
	})
}

func (x *raidIO) Unmap(ctx context.Context, off, n int64) error {
	return x.run(ctx, off, n, func(ctx context.Context) error {
		return x.each(ctx, off, n, func(ctx context.Context, b *bdev, o, n int64) error { return b.Unmap(ctx, o, n) })
	})
}

func (x *raidIO) Flush(ctx context.Context) error {
	return x.run(ctx, 0, math.MaxInt64, func(ctx context.Context) error {
		return x.each(ctx, 0, math.MaxInt64, func(ctx context.Context, b *bdev, _, _ int64) error { return b.Flush(ctx) })
	})
}

func (x *raidIO) ReadAt(ctx context.Context, p []byte, off int64) error {
	data := make([]byte, len(p))
	err := x.run(ctx, off, int64(len(p)), func(ctx context.Context) error {
		return x.read(ctx, data, off)
	})
	if err == nil {
		copy(p, data)
	}
	return err
}

// read fills data from one member of each part.
func (x *raidIO) read(ctx context.Context, data []byte, off int64) error {
	for _, pt := range x.split(off, int64(len(data))) {
		if err := x.readPart(ctx, pt, data[pt.off-off:pt.off-off+pt.n]); err != nil {
			return err
		}
	}
	return nil
}

// readPart reads from the member with the least reads in flight. If that fails,
// the others are tried in slot order and what they give is written back; a member
// that fails the write too, or the first one when none can read, is ejected.
func (x *raidIO) readPart(ctx context.Context, pt part, data []byte) error {
	first := x.leastReading(pt)
	if first == nil {
		return errFailed
	}
	err := first.d.b.ReadAt(ctx, data, pt.off)
	x.mu.Lock()
	first.reading -= pt.n
	x.mu.Unlock()
	if err == nil || ctx.Err() != nil {
		return err
	}
	for _, m := range pt.members {
		if m == first || m.d.b.ReadAt(ctx, data, pt.off) != nil {
			continue
		}
		if first.d.b.WriteAt(ctx, data, pt.off) != nil && ctx.Err() == nil {
			first.l.fail(first.d)
		}
		return nil
	}
	if ctx.Err() == nil {
		first.l.fail(first.d)
	}
	return errFailed
}

func (x *raidIO) leastReading(pt part) *raidMember {
	x.mu.Lock()
	defer x.mu.Unlock()
	var best *raidMember
	for _, m := range pt.members {
		if best == nil || m.reading < best.reading {
			best = m
		}
	}
	if best != nil {
		best.reading += pt.n
	}
	return best
}

// WriteZeroes is not raid1's: the bdev layer writes zeroes instead.
func (x *raidIO) WriteZeroes(context.Context, int64, int64) error { return errNOTSUP }

// Reset resets every leg.
func (x *raidIO) Reset(ctx context.Context) error {
	for _, pt := range x.split(0, 1) {
		for _, m := range pt.members {
			if err := m.d.b.dev.Reset(ctx); err != nil {
				return errFailed
			}
		}
	}
	return nil
}

func (x *raidIO) supports(t ioType) bool {
	switch t {
	case ioRead, ioWrite:
		return true
	case ioFlush, ioReset, ioUnmap:
		for _, l := range x.r.legs {
			if l.desc != nil && !l.desc.b.supports(t) {
				return false
			}
		}
		return true
	default:
		return false
	}
}

func (x *raidIO) driverSpecific() object { return obj("raid", x.r.info()) }
