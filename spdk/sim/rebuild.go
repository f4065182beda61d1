package sim

import (
	"context"
	"math"
	"time"
)

// rebuild copies a raid onto one of its legs, window by window, while I/O goes on
// everywhere else. Fields but offset belong to process.mu; the goroutine that
// copies reads stopping there.
type rebuild struct {
	r      *raid
	target *leg
	window int64 // bytes

	offset   int64 // bytes done
	stopping bool
	status   errno
	after    []func() // run when the rebuild has ended
}

// startRebuild begins to copy onto l, which has just been configured.
func (r *raid) startRebuild(l *leg) {
	if l.removing || !l.configured || r.operational <= minOperational {
		_ = l.remove(nil)
		return
	}
	blocks := ceilDiv(int64(r.p.raidOpts.WindowKB)<<10, int64(r.io.blockSize))
	rb := &rebuild{r: r, target: l, window: blocks * int64(r.io.blockSize)}
	r.rebuild = rb
	r.io.mu.Lock()
	r.io.target, r.io.slot, r.io.done = &raidMember{l: l, d: l.desc}, l.slot, 0
	r.io.mu.Unlock()
	bandwidth := int64(r.p.raidOpts.BandwidthMBs) << 20
	r.p.node.log.Info("Started rebuild", "raid", r.name, "target", l.name)
	r.p.spawn(func(ctx context.Context) { rb.run(ctx, bandwidth) })
}

// run copies until the end of the device, an error, or stopping.
func (rb *rebuild) run(ctx context.Context, bandwidth int64) {
	start := rb.r.p.now()
	buf := make([]byte, rb.window)
	var rc errno
	for rc == 0 {
		size := rb.r.bdevSize()
		if rb.ended() || rb.offset >= size {
			break
		}
		if bandwidth > 0 && !rb.sleep(ctx, time.Duration(float64(rb.offset)/float64(bandwidth)*float64(time.Second))-rb.r.p.now().Sub(start)) {
			return
		}
		if rb.r.p.gate.Wait(ctx) != nil {
			return
		}
		n := min(rb.window, size-rb.offset)
		lock, err := rb.r.io.ranges.lock(ctx, rb.offset, rb.offset+n)
		if err != nil {
			return
		}
		if !rb.ended() {
			rc = rb.copy(ctx, buf[:n])
		}
		rb.r.io.ranges.unlock(lock)
		if ctx.Err() != nil {
			return
		}
	}
	rb.finish(ctx, rc)
}

// sleep waits; false means that the process has ended.
func (rb *rebuild) sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := rb.r.p.node.cfg.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return true
	case <-ctx.Done():
		return false
	}
}

// copy moves one window, whose range is locked.
func (rb *rebuild) copy(ctx context.Context, buf []byte) errno {
	x := rb.r.io
	x.mu.Lock()
	target := x.target
	x.mu.Unlock()
	if target == nil {
		return errNODEV
	}
	if x.read(ctx, buf, rb.offset) != nil {
		return errIO
	}
	if target.d.b.WriteAt(ctx, buf, rb.offset) != nil {
		return errIO
	}
	rb.r.p.locked(func() { rb.offset += int64(len(buf)) })
	x.mu.Lock()
	x.done = rb.offset
	x.mu.Unlock()
	return 0
}

func (rb *rebuild) ended() bool {
	rb.r.p.mu.Lock()
	defer rb.r.p.mu.Unlock()
	return rb.stopping
}

// finish ends the rebuild while no I/O is in flight: a good target becomes a leg
// like the others, another is removed.
func (rb *rebuild) finish(ctx context.Context, rc errno) {
	r := rb.r
	lock, err := r.io.ranges.lock(ctx, 0, math.MaxInt64)
	if err != nil {
		return
	}
	var failed bool
	r.p.locked(func() {
		if rb.status == 0 {
			rb.status = rc
		}
		failed = rb.status != 0
		rb.stopping = true
		r.rebuild = nil
		rb.target.target = false
	})
	r.io.mu.Lock()
	if t := r.io.target; t != nil && !failed {
		r.io.members[r.io.slot] = t
	}
	r.io.target = nil
	r.io.mu.Unlock()
	r.io.ranges.unlock(lock)
	r.p.node.log.Info("Finished rebuild", "raid", r.name, "status", int(rb.status))
	r.p.locked(func() {
		after := func() {
			for _, fn := range rb.after {
				fn()
			}
		}
		if !failed || rb.target.remove(func(errno) { after() }) != 0 {
			after()
		}
	})
}

// stop makes the rebuild end soon; fn runs then.
func (rb *rebuild) stop(status errno, fn func()) {
	rb.stopping = true
	if rb.status == 0 {
		rb.status = status
	}
	rb.after = append(rb.after, fn)
}

// stopRebuild runs fn when no rebuild runs any more.
func (r *raid) stopRebuild(status errno, fn func()) {
	if r.rebuild == nil {
		fn()
		return
	}
	r.rebuild.stop(status, fn)
}

// legRemoved removes a leg during the rebuild. Losing the target, or the last leg
// that can be read, ends the rebuild first.
func (rb *rebuild) legRemoved(l *leg) {
	left := 0
	for _, o := range rb.r.legs {
		if o.configured && !o.removing {
			left++
		}
	}
	if l != rb.target && left > minOperational {
		l.quiesceAndRemove()
		return
	}
	rb.stop(errNODEV, l.quiesceAndRemove)
}

// bdevSize is the raid's size in bytes as its bdev has it now.
func (r *raid) bdevSize() int64 {
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	if r.bdev == nil {
		return 0
	}
	return r.bdev.sizeBytes()
}
