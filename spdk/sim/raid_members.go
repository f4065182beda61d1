package sim

import (
	"context"
	"math"

	"github.com/google/uuid"
)

// add puts a bdev into an empty slot. On an online raid that starts a rebuild;
// while one runs it is errPERM. What it returns other than 0 was not told through
// done.
func (r *raid) add(name string, done func(errno)) errno {
	if r.rebuild != nil {
		return errPERM
	}
	slot := r.slotFor(name)
	if slot == nil {
		return errINVAL
	}
	slot.name = name
	rc := slot.configure(done)
	if rc != 0 && (rc != errNODEV || r.state != raidConfiguring) {
		slot.name = ""
	}
	return rc
}

func (r *raid) slotFor(name string) *leg {
	if b := r.p.bdevs.byName(name); b != nil && r.state == raidConfiguring {
		for _, l := range r.legs {
			if l.name == "" && l.uuid == b.uuid {
				return l
			}
		}
	}
	for _, l := range r.legs {
		if l.name == "" && l.uuid == uuid.Nil {
			return l
		}
	}
	return nil
}

// legByBdev is the leg that has the bdev open.
func (p *process) legByBdev(b *bdev) *leg {
	for _, r := range p.raids {
		for _, l := range r.legs {
			if l.desc != nil && l.desc.b == b {
				return l
			}
		}
	}
	return nil
}

// fail ejects a leg whose I/O failed. It is called by I/O, which doesn't wait for
// it: as in SPDK writes are acknowledged before the leg is known to be gone.
func (l *leg) fail(d *desc) {
	l.r.p.spawn(func(context.Context) {
		l.r.p.locked(func() {
			if l.desc != d || l.failed {
				return
			}
			l.failed = true
			l.r.p.node.log.Info("Failing base bdev", "raid", l.r.name, "slot", l.slot, "bdev", l.name)
			if rc := l.remove(func(rc errno) { l.failed = l.failed && rc == 0 }); rc != 0 {
				l.failed = false
			}
		})
	})
}

// remove takes a leg out: I/O is held back, the leg's bdev reset, the slot
// emptied. Losing the last leg ends the raid. errNODEV if the slot is empty or being
// emptied; done is told the end otherwise.
func (l *leg) remove(done func(errno)) errno {
	if done == nil {
		done = func(errno) {}
	}
	r := l.r
	if l.removing || !l.configured {
		return errNODEV
	}
	l.removing = true
	if r.state != raidOnline {
		l.free()
		l.removing = false
		if r.discovered == 0 && r.state == raidOffline {
			r.forget()
		}
		done(0)
		return 0
	}
	l.removed = done
	if r.rebuild != nil {
		r.rebuild.legRemoved(l)
	} else {
		l.quiesceAndRemove()
	}
	return 0
}

// quiesceAndRemove empties the slot while no I/O is in flight.
func (l *leg) quiesceAndRemove() {
	r, d := l.r, l.desc
	r.p.spawn(func(ctx context.Context) {
		lock, err := r.io.ranges.lock(ctx, 0, math.MaxInt64)
		if err != nil {
			return
		}
		// The answer to the reset doesn't matter: the leg is removed anyway.
		_ = d.b.dev.Reset(ctx)
		if r.p.gate.Wait(ctx) != nil {
			return
		}
		r.p.locked(func() {
			if l.desc == d {
				if l.configured {
					l.deconfigure()
				}
				r.io.drop(l.slot)
				l.free()
			}
		})
		r.io.ranges.unlock(lock)
		r.p.locked(l.removeDone)
	})
}

// removeDone counts the leg out; too few left end the raid.
func (l *leg) removeDone() {
	r, done := l.r, l.removed
	l.removing, l.removed = false, nil
	r.operational--
	if done == nil {
		done = func(errno) {}
	}
	if r.operational < minOperational {
		r.deconfigure(done)
		return
	}
	done(0)
}
