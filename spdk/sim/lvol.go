package sim

import (
	"context"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// lvsHolder is a place where an lvol store may be: a disk's or a bdev's. Only one
// process at a time uses it, with process.mu held.
type lvsHolder struct{ store *lvolStore }

// lvolStore is a named blobstore and the lvols in it. The store, its lvols and
// their blobs are on disk; base, the bdevs and removing belong to the process.
type lvolStore struct {
	name  string
	uuid  uuid.UUID
	bs    *blobstore
	lvols []*lvol
	// pending are the names of lvols that are being made: they are taken (lib/lvol/lvol.c, lvs_verify_lvol_name).
	pending map[string]bool

	holder   *lvsHolder
	base     *desc
	removing bool
	unload   []func(errno)
}

// lvol is a named blob.
type lvol struct {
	store *lvolStore
	name  string
	uuid  uuid.UUID
	blob  *blob
	bdev  *bdev // nil while it has none
}

// nameMax is SPDK_LVOL_NAME_MAX and SPDK_LVS_NAME_MAX, the final zero included.
const nameMax = 64

func newLvolStore(name string, bs *blobstore) *lvolStore {
	return &lvolStore{name: name, uuid: uuid.New(), bs: bs}
}

// processEnded forgets what belonged to a process.
func (s *lvolStore) processEnded() {
	s.base, s.removing, s.unload = nil, false, nil
	for _, l := range s.lvols {
		l.bdev = nil
		l.blob.reload()
	}
}

// loadable says whether the store survives being loaded: a name of 64 bytes,
// which bdev_lvol_rename lets through, makes it unreadable for good.
func (s *lvolStore) loadable() bool {
	return !slices.ContainsFunc(s.lvols, func(l *lvol) bool { return len(l.name) >= nameMax })
}

// examine offers a new bdev to the modules: raids that wait for it, and lvol,
// which loads the store that the bdev may hold.
func (p *process) examine(b *bdev) {
	p.examineRaids(b)
	h := b.lvsHolder()
	if h.store == nil || b.claim != "" || !h.store.loadable() || p.lvsByName(h.store.name) != nil {
		return
	}
	h.store.processEnded()
	_ = p.openLvs(h, b)
}

// openLvs claims the base bdev and makes the bdevs of the lvols.
func (p *process) openLvs(h *lvsHolder, b *bdev) errno {
	s := h.store
	d, rc := p.bdevs.open(b.name, true, func(ev bdevEvent) {
		if ev == bdevRemoved {
			p.removeLvs(s, false, nil)
		}
	})
	if rc != 0 {
		return rc
	}
	if rc := b.claimFor("lvol"); rc != 0 {
		d.close()
		return rc
	}
	s.holder, s.base = h, d
	s.bs.base.Store(b)
	p.lvs = append(p.lvs, s)
	for _, l := range s.lvols {
		_ = p.createLvolBdev(l)
	}
	return 0
}

func (p *process) lvsByName(name string) *lvolStore {
	for _, s := range p.lvs {
		if s.name == name {
			return s
		}
	}
	return nil
}

// findLvs is the lvol store that exactly one of the two names: errINVAL or errNODEV.
func (p *process) findLvs(id, name *string) (*lvolStore, errno) {
	if (id == nil) == (name == nil) {
		return nil, errINVAL
	}
	for _, s := range p.lvs {
		if name != nil && s.name == *name || id != nil && strings.EqualFold(s.uuid.String(), *id) {
			return s, 0
		}
	}
	return nil, errNODEV
}

// alias is the lvol's second name.
func (l *lvol) alias() string { return l.store.name + "/" + l.name }

// createLvolBdev makes the bdev of an lvol (_create_lvol_disk).
func (p *process) createLvolBdev(l *lvol) errno {
	b := &bdev{name: l.uuid.String(), uuid: l.uuid, product: "Logical Volume", module: "lvol",
		blockSize: l.store.bs.blockSize, dev: &lvolBdev{l}}
	if base := l.store.base; base != nil {
		b.info.numa, b.info.memDomains = base.b.info.numa, base.b.info.memDomains
	}
	b.numBlocks.Store(uint64(l.blob.sizeBytes()) / uint64(b.blockSize))
	b.destruct = func(done func(errno)) {
		l.bdev = nil
		done(0)
		p.lvolClosed(l.store)
	}
	if rc := p.bdevs.register(b); rc != 0 {
		return rc
	}
	l.bdev = b
	return p.bdevs.addAlias(b, l.alias())
}

// removeLvs takes the store's lvols off the bdev layer and then lets go of the
// base bdev; destroy deletes them and the store as well.
func (p *process) removeLvs(s *lvolStore, destroy bool, done func(errno)) {
	if s.removing {
		if done != nil {
			done(errNODEV)
		}
		return
	}
	s.removing = true
	if destroy {
		s.holder.store = nil
	}
	if done != nil {
		s.unload = append(s.unload, done)
	}
	for _, l := range slices.Clone(s.lvols) {
		if l.bdev != nil {
			l.bdev.unregister(nil)
		}
	}
	p.lvolClosed(s)
}

// lvolClosed ends the removal of a store when none of its lvols is open any more.
func (p *process) lvolClosed(s *lvolStore) {
	if !s.removing || s.base == nil || slices.ContainsFunc(s.lvols, func(l *lvol) bool { return l.bdev != nil }) {
		return
	}
	p.lvs = slices.DeleteFunc(p.lvs, func(o *lvolStore) bool { return o == s })
	base := s.base
	s.base = nil
	base.b.release()
	base.close()
	for _, fn := range s.unload {
		fn(0)
	}
}

// checkName refuses a name that an lvol can't have: errINVAL, errEXIST.
func (s *lvolStore) checkName(name string) errno {
	if name == "" || len(name) >= nameMax {
		return errINVAL
	}
	if s.pending[name] || slices.ContainsFunc(s.lvols, func(l *lvol) bool { return l.name == name }) {
		return errEXIST
	}
	return 0
}

// addLvol puts a blob under a name and makes its bdev.
func (p *process) addLvol(s *lvolStore, name string, b *blob) (*lvol, errno) {
	l := &lvol{store: s, name: name, uuid: uuid.New(), blob: b}
	s.lvols = append(s.lvols, l)
	return l, p.createLvolBdev(l)
}

// lvolOf is the lvol behind a bdev name, alias or UUID; nil if there is none.
func (p *process) lvolOf(name string) *lvol {
	b := p.bdevs.byName(name)
	if b == nil {
		return nil
	}
	if lb, ok := b.dev.(*lvolBdev); ok {
		return lb.l
	}
	return nil
}

// byBlob is the name of the lvol whose blob it is, "" if none.
func (s *lvolStore) byBlob(b *blob) string {
	for _, l := range s.lvols {
		if l.blob == b {
			return l.name
		}
	}
	return ""
}

// lvolBdev is the bdev of an lvol.
type lvolBdev struct{ l *lvol }

func (v *lvolBdev) ReadAt(ctx context.Context, p []byte, off int64) error {
	return v.l.blob.readAt(ctx, p, off)
}

func (v *lvolBdev) WriteAt(ctx context.Context, p []byte, off int64) error {
	return v.l.blob.writeAt(ctx, p, off)
}

func (v *lvolBdev) Unmap(ctx context.Context, off, n int64) error {
	return v.l.blob.unmap(ctx, off, n)
}

func (v *lvolBdev) WriteZeroes(ctx context.Context, off, n int64) error {
	return v.l.blob.writeZeroes(ctx, off, n)
}

func (v *lvolBdev) Flush(context.Context) error { return nil }

// Reset fails, as lvol_reset does.
func (v *lvolBdev) Reset(context.Context) error { return errFailed }

func (v *lvolBdev) supports(t ioType) bool {
	switch t {
	case ioWrite, ioUnmap, ioWriteZeroes:
		return !v.l.blob.isReadOnly()
	case ioRead, ioReset, ioSeekData, ioSeekHole:
		return true
	default:
		return false
	}
}

func (v *lvolBdev) driverSpecific() object {
	b, s := v.l.blob, v.l.store
	if s.base == nil {
		return obj("lvol", object{})
	}
	o := obj("lvol_store_uuid", s.uuid.String(), "base_bdev", s.base.b.name,
		"thin_provision", b.isThin(), "num_allocated_clusters", b.allocated(),
		"snapshot", b.isSnapshot(), "clone", b.isClone())
	if parent := b.parentBlob(); parent != nil {
		o = o.with("base_snapshot", s.byBlob(parent))
	}
	if clones := b.cloneList(); len(clones) > 0 {
		names := []string{}
		for _, c := range clones {
			names = append(names, s.byBlob(c))
		}
		o = o.with("clones", names)
	}
	return obj("lvol", o.with("esnap_clone", false))
}
