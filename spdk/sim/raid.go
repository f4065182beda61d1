package sim

import (
	"context"
	"math"
	"slices"

	"github.com/google/uuid"
)

// raidState is a raid's state as bdev_raid_get_bdevs names it.
type raidState string

const (
	raidOnline      raidState = "online"
	raidConfiguring raidState = "configuring"
	raidOffline     raidState = "offline"
)

// raid is a raid1 bdev without a superblock. Its fields are guarded by
// process.mu; I/O uses io.
type raid struct {
	p     *process
	name  string
	uuid  uuid.UUID
	state raidState
	legs  []*leg
	bdev  *bdev // nil unless online
	self  *desc // held open by the raid itself while online

	discovered  int // configured legs
	operational int // legs that should be there
	destroying  bool
	rebuild     *rebuild

	io *raidIO
}

// minOperational is raid1's base_bdevs_constraint.
const minOperational = 1

// leg is a slot of a raid and what is in it.
type leg struct {
	r    *raid
	slot int

	name       string // "" is null
	uuid       uuid.UUID
	desc       *desc
	configured bool
	target     bool // being rebuilt
	dataSize   uint64

	failed, removing bool
	removed          func(errno) // called when the removal under way is over
}

// raidOptions are those of bdev_raid_set_options.
type raidOptions struct {
	WindowKB     uint32 `json:"process_window_size_kb"`
	BandwidthMBs uint32 `json:"process_max_bandwidth_mb_sec"`
}

var defaultRaidOptions = raidOptions{WindowKB: 1024}

// raidNameMax is RAID_BDEV_SB_NAME_SIZE, the final zero included.
const raidNameMax = 64

// newRaid makes a raid in state configuring.
func (p *process) newRaid(name string, id uuid.UUID, bases []string) (*raid, errno) {
	if len(name) >= raidNameMax {
		return nil, errINVAL
	}
	if p.raidByName(name) != nil {
		return nil, errEXIST
	}
	if len(bases) < 2 {
		return nil, errINVAL
	}
	r := &raid{p: p, name: name, uuid: id, state: raidConfiguring, operational: len(bases)}
	r.io = newRaidIO(r, len(bases))
	for i, base := range bases {
		r.legs = append(r.legs, &leg{r: r, slot: i, name: base})
	}
	p.raids = append(p.raids, r)
	return r, 0
}

func (p *process) raidByName(name string) *raid {
	for _, r := range p.raids {
		if r.name == name {
			return r
		}
	}
	return nil
}

// configureAll claims the legs that exist and, when they have been read, brings
// the raid up. Legs that don't exist yet are waited for: the raid then stays
// configuring, and done is told success.
func (r *raid) configureAll(done func(errno)) {
	left, result := 1, errno(0)
	one := func(rc errno) {
		if rc != 0 {
			result = rc
		}
		if left--; left > 0 {
			return
		}
		if result != 0 {
			r.delete(nil)
		}
		done(result)
	}
	for _, l := range r.legs {
		left++
		rc := l.configure(one)
		if rc == errNODEV {
			one(0)
		} else if rc != 0 {
			one(rc)
			break
		}
	}
	one(0)
}

// configure opens and claims the bdev that the leg names, checks it, looks for a
// superblock and takes the leg in. What it returns other than 0 was not told
// through done.
func (l *leg) configure(done func(errno)) errno {
	r := l.r
	d, rc := r.p.bdevs.open(l.name, true, func(ev bdevEvent) { l.event(ev) })
	if rc != 0 {
		return rc
	}
	if l.uuid != uuid.Nil && l.uuid != d.b.uuid {
		d.close()
		return errINVAL
	}
	if rc := d.b.claimFor("raid"); rc != 0 {
		d.close()
		return rc
	}
	l.uuid = d.b.uuid
	l.desc = d
	if rc := l.check(); rc != 0 {
		l.free()
		return rc
	}
	r.p.spawn(func(ctx context.Context) {
		err := d.b.ReadAt(ctx, make([]byte, d.b.blockSize), 0)
		r.p.locked(func() {
			switch {
			case l.desc != d:
				done(errNODEV)
			case err != nil:
				l.free()
				done(errIO)
			default:
				r.take(l, done)
			}
		})
	})
	return 0
}

// check compares the leg's bdev with what the raid needs.
func (l *leg) check() errno {
	b := l.desc.b
	blocks := b.numBlocks.Load()
	switch {
	case blocks == 0:
		return errINVAL
	case l.dataSize == 0:
		l.dataSize = blocks
	case l.dataSize > blocks:
		return errINVAL
	}
	if l.r.io.blockSize == 0 {
		l.r.io.blockSize = b.blockSize
	} else if l.r.io.blockSize != b.blockSize {
		return errINVAL
	}
	return 0
}

// take makes a leg part of the raid: the last one missing brings the raid up, one
// more on an online raid starts a rebuild.
func (r *raid) take(l *leg, done func(errno)) {
	rebuilding := r.discovered == r.operational && r.state == raidOnline
	l.target = rebuilding
	l.configured = true
	r.discovered++
	switch {
	case rebuilding:
		r.operational++
		r.startRebuild(l)
		done(0)
	case r.discovered == r.operational:
		done(r.online())
	default:
		done(0)
	}
}

// online registers the raid's bdev. Its size is that of the smallest leg.
func (r *raid) online() errno {
	size := uint64(math.MaxUint64)
	for _, l := range r.legs {
		size = min(size, l.dataSize)
	}
	for _, l := range r.legs {
		l.dataSize = size
	}
	b := &bdev{name: r.name, uuid: r.uuid, product: "Raid Volume", module: "raid", blockSize: r.io.blockSize, dev: r.io}
	b.numBlocks.Store(size)
	b.destruct = r.destruct
	r.io.setMembers(r.legs)
	if rc := r.p.bdevs.register(b); rc != 0 {
		return rc
	}
	r.state, r.bdev, r.uuid = raidOnline, b, b.uuid
	self, rc := r.p.bdevs.open(r.name, false, func(ev bdevEvent) {
		if ev == bdevRemoved {
			r.stopRebuild(errCANCELED, func() { r.self.close() })
		}
	})
	r.self = self
	return rc
}

// event is what the leg's bdev tells.
func (l *leg) event(ev bdevEvent) {
	switch ev {
	case bdevRemoved:
		_ = l.remove(nil)
	case bdevResized:
		l.r.resize()
	}
}

// resize follows the legs' sizes: the raid is as large as its smallest leg. It
// can't shrink while it is open.
func (r *raid) resize() {
	if r.bdev == nil {
		return
	}
	size := uint64(math.MaxUint64)
	for _, l := range r.legs {
		if l.desc != nil {
			size = min(size, l.desc.b.numBlocks.Load())
		}
	}
	if size == r.bdev.numBlocks.Load() || r.bdev.resized(size) != 0 {
		return
	}
	for _, l := range r.legs {
		l.dataSize = size
	}
}

// free gives the leg's bdev back and empties the slot.
func (l *leg) free() {
	l.name = ""
	if l.r.state != raidConfiguring {
		l.uuid = uuid.Nil
	}
	l.failed = false
	if l.desc == nil {
		return
	}
	d := l.desc
	l.desc = nil
	if l.configured {
		l.deconfigure()
	}
	d.b.release()
	d.close()
}

func (l *leg) deconfigure() {
	l.r.discovered--
	l.configured, l.target = false, false
}

// delete ends the raid; done is told when its bdev is gone. One being deleted
// already is errALREADY.
func (r *raid) delete(done func(errno)) {
	if done == nil {
		done = func(errno) {}
	}
	if r.destroying {
		done(errALREADY)
		return
	}
	r.destroying = true
	for _, l := range r.legs {
		l.removing = true
		if r.state != raidOnline {
			l.free()
		}
	}
	if r.discovered == 0 {
		r.forget()
		done(0)
		return
	}
	r.deconfigure(done)
}

// deconfigure takes an online raid's bdev away.
func (r *raid) deconfigure(done func(errno)) {
	if r.state != raidOnline {
		if done != nil {
			done(0)
		}
		return
	}
	r.state = raidOffline
	r.bdev.unregister(done)
}

// destruct ends the raid's bdev after its last user: I/O still in flight is waited
// for, then the legs are given back.
func (r *raid) destruct(done func(errno)) {
	r.p.spawn(func(ctx context.Context) {
		if _, err := r.io.ranges.lock(ctx, 0, math.MaxInt64); err != nil {
			return
		}
		r.p.locked(func() {
			r.bdev = nil
			for _, l := range r.legs {
				if l.removing {
					l.free()
				}
			}
			if r.discovered == 0 {
				r.forget()
			}
			done(0)
		})
	})
}

func (r *raid) forget() {
	r.p.raids = slices.DeleteFunc(r.p.raids, func(o *raid) bool { return o == r })
}

// examineRaids offers a new bdev to the raids that wait for it.
func (p *process) examineRaids(b *bdev) {
	for _, r := range p.raids {
		if r.state != raidConfiguring || r.destroying {
			continue
		}
		for _, l := range r.legs {
			if l.desc == nil && (l.name != "" && l.name == b.name || l.uuid != uuid.Nil && l.uuid == b.uuid) {
				l.name = b.name
				_ = l.configure(func(errno) {})
				return
			}
		}
	}
}
