package sim

import (
	"context"
	"slices"
	"sync/atomic"

	"github.com/google/uuid"
)

// ioType is a kind of I/O that a bdev may support.
type ioType int

// I/O types in SPDK's order (include/spdk/bdev.h).
const (
	ioRead ioType = iota
	ioWrite
	ioUnmap
	ioFlush
	ioReset
	ioNVMeAdmin
	ioNVMeIO
	ioNVMeIOMD
	ioWriteZeroes
	ioZcopy
	ioGetZoneInfo
	ioZoneManagement
	ioZoneAppend
	ioCompare
	ioCompareAndWrite
	ioAbort
	ioSeekHole
	ioSeekData
	ioCopy
	ioNVMeIOVMD
	ioNVMeNSSR
	ioWriteUncorrectable
)

var ioTypeNames = []string{"read", "write", "unmap", "flush", "reset", "nvme_admin", "nvme_io", "nvme_io_md",
	"write_zeroes", "zcopy", "get_zone_info", "zone_management", "zone_append", "compare", "compare_and_write",
	"abort", "seek_hole", "seek_data", "copy", "nvme_iov_md", "nvme_nssr", "write_uncorrectable"}

// backend is what a bdev module does for one bdev. Offsets and lengths are in
// bytes and have been checked. Calls come from many goroutines and may block as
// long as their context lives.
type backend interface {
	ReadAt(ctx context.Context, p []byte, off int64) error
	WriteAt(ctx context.Context, p []byte, off int64) error
	Unmap(ctx context.Context, off, n int64) error
	WriteZeroes(ctx context.Context, off, n int64) error
	Flush(ctx context.Context) error
	// Reset is spdk_bdev_reset: it returns when I/O submitted before is over.
	Reset(ctx context.Context) error
	// supports is io_type_supported of the module's function table.
	supports(t ioType) bool
	// driverSpecific is the value of driver_specific in bdev_get_bdevs.
	driverSpecific() object
}

// bdev is a block device of the process. Names, descriptors and claim are guarded
// by process.mu.
type bdev struct {
	p         *process
	name      string
	aliases   []string
	uuid      uuid.UUID
	product   string
	module    string
	blockSize int
	numBlocks atomic.Uint64
	dev       backend
	info      bdevInfo

	lvs    lvsHolder // where the module keeps none of its own
	ioMask uint32    // I/O types supported when the bdev was registered

	removing bool
	destruct func(done func(errno)) // module's part of unregistering, after the last close
	onGone   []func(errno)
	descs    []*desc
	claim    string // claiming module, "" if none
	qos      qosLimits
	stat     ioStat
}

// bdevInfo is what bdev_get_bdevs shows besides.
type bdevInfo struct {
	numa       bool      // "any" is shown as -1
	ioUnits    [5]uint32 // preferred write alignment, granularity, optimal write, preferred unmap alignment, granularity
	memDomains []string
}

// bdevEvent is what a descriptor's owner is told.
type bdevEvent int

const (
	bdevRemoved bdevEvent = iota
	bdevResized
)

// desc is an open descriptor. Its owner is told of events on the application
// thread and must close the descriptor, then or later, after bdevRemoved.
type desc struct {
	b     *bdev
	write bool
	event func(bdevEvent)
}

// bdevRegistry holds every bdev of a process, in the order of registration.
type bdevRegistry struct {
	p     *process
	list  []*bdev
	names map[string]*bdev // names, aliases and UUIDs
	wait  []*nameWaiter

	mallocs int // malloc bdevs named so far
}

type nameWaiter struct {
	name string
	fn   func()
}

func (r *bdevRegistry) init(p *process) {
	r.p = p
	r.names = map[string]*bdev{}
}

// byName is the bdev of that name, alias or UUID (spdk_bdev_get_by_name).
func (r *bdevRegistry) byName(name string) *bdev { return r.names[name] }

// register makes b known. A name, alias or UUID taken already is errEXIST.
func (r *bdevRegistry) register(b *bdev) errno {
	b.p = r.p
	if b.name == "" || b.blockSize == 0 {
		return errINVAL
	}
	if b.uuid == uuid.Nil {
		b.uuid = uuid.New()
	}
	if r.names[b.name] != nil {
		return errEXIST
	}
	if u := b.uuid.String(); u != b.name {
		if r.names[u] != nil {
			return errEXIST
		}
		r.names[u] = b
		b.aliases = append(b.aliases, u)
	}
	r.names[b.name] = b
	r.list = append(r.list, b)
	for t := range ioTypeNames {
		if b.dev.supports(ioType(t)) {
			b.ioMask |= 1 << t
		}
	}
	b.p.examine(b)
	r.announce(b)
	return 0
}

// announce tells those who wait for the name, as bdev_get_bdevs with a timeout does.
func (r *bdevRegistry) announce(b *bdev) {
	var rest []*nameWaiter
	for _, w := range r.wait {
		if r.names[w.name] == b {
			w.fn()
		} else {
			rest = append(rest, w)
		}
	}
	r.wait = rest
}

func (r *bdevRegistry) addAlias(b *bdev, alias string) errno {
	if r.names[alias] != nil {
		return errEXIST
	}
	r.names[alias] = b
	b.aliases = append(b.aliases, alias)
	r.announce(b)
	return 0
}

func (r *bdevRegistry) removeAlias(b *bdev, alias string) {
	if r.names[alias] == b {
		delete(r.names, alias)
	}
	b.aliases = slices.DeleteFunc(b.aliases, func(a string) bool { return a == alias })
}

// open opens a bdev by name. write fails with errNODEV on one being removed and
// with errPERM on one that is claimed, as bdev_open does.
func (r *bdevRegistry) open(name string, write bool, event func(bdevEvent)) (*desc, errno) {
	b := r.names[name]
	if b == nil || b.removing {
		return nil, errNODEV
	}
	if write && b.claim != "" {
		return nil, errPERM
	}
	d := &desc{b: b, write: write, event: event}
	b.descs = append(b.descs, d)
	return d, 0
}

// claimFor makes module the only writer (spdk_bdev_module_claim_bdev): errPERM if
// another has it.
func (b *bdev) claimFor(module string) errno {
	if b.claim != "" {
		return errPERM
	}
	b.claim = module
	return 0
}

func (b *bdev) release() { b.claim = "" }

// close gives the descriptor back; the last one of a bdev being removed ends it.
func (d *desc) close() {
	b := d.b
	n := len(b.descs)
	b.descs = slices.DeleteFunc(b.descs, func(o *desc) bool { return o == d })
	if n != len(b.descs) && b.removing && len(b.descs) == 0 {
		b.finishRemoval()
	}
}

// unregister removes the bdev: its users are told, and done is called when all
// have closed it and its module has let go of it. A bdev being removed already is
// errNODEV, told through done.
func (b *bdev) unregister(done func(errno)) {
	if b.removing {
		if done != nil {
			done(errNODEV)
		}
		return
	}
	b.removing = true
	if done != nil {
		b.onGone = append(b.onGone, done)
	}
	for _, d := range slices.Clone(b.descs) {
		d.event(bdevRemoved)
	}
	if len(b.descs) == 0 {
		b.finishRemoval()
	}
}

func (b *bdev) finishRemoval() {
	r := &b.p.bdevs
	if !slices.Contains(r.list, b) {
		return
	}
	r.list = slices.DeleteFunc(r.list, func(o *bdev) bool { return o == b })
	for name, o := range r.names {
		if o == b {
			delete(r.names, name)
		}
	}
	finish := func(rc errno) {
		for _, fn := range b.onGone {
			fn(rc)
		}
	}
	if b.destruct == nil {
		finish(0)
		return
	}
	b.destruct(finish)
}

// resized tells the bdev's users of a new size (spdk_bdev_notify_blockcnt_change).
// A bdev that has users doesn't shrink: errBUSY.
func (b *bdev) resized(blocks uint64) errno {
	old := b.numBlocks.Load()
	if blocks == old {
		return 0
	}
	if blocks < old && len(b.descs) > 0 {
		return errBUSY
	}
	b.numBlocks.Store(blocks)
	for _, d := range slices.Clone(b.descs) {
		d.event(bdevResized)
	}
	return 0
}

// sizeBytes is the bdev's capacity.
func (b *bdev) sizeBytes() int64 { return int64(b.numBlocks.Load()) * int64(b.blockSize) }

// supports says whether the bdev takes I/O of a type. As in SPDK the answer is that
// of the time of registration; the bdev layer itself writes zeroes to a bdev that
// can only write.
func (b *bdev) supports(t ioType) bool {
	return b.native(t) || t == ioWriteZeroes && b.native(ioWrite)
}

// native is supports without what the bdev layer emulates.
func (b *bdev) native(t ioType) bool { return b.ioMask&(1<<t) != 0 }

// lvsHolder is the place for the lvol store on the bdev.
func (b *bdev) lvsHolder() *lvsHolder {
	if h, ok := b.dev.(interface{ lvsHolder() *lvsHolder }); ok {
		return h.lvsHolder()
	}
	return &b.lvs
}
