package sim

import (
	"context"
	"errors"
	"slices"
)

func lvolMethods() map[string]method {
	return map[string]method{
		"bdev_lvol_create_lvstore": runtime((*call).lvolCreateLvstore),
		"bdev_lvol_delete_lvstore": runtime((*call).lvolDeleteLvstore),
		"bdev_lvol_rename_lvstore": runtime((*call).lvolRenameLvstore),
		"bdev_lvol_get_lvstores":   runtime((*call).lvolGetLvstores),
		"bdev_lvol_get_lvols":      runtime((*call).lvolGetLvols),
		"bdev_lvol_grow_lvstore":   runtime((*call).lvolGrowLvstore),
		"bdev_lvol_create":         runtime((*call).lvolCreate),
		"bdev_lvol_delete":         runtime((*call).lvolDelete),
		"bdev_lvol_rename":         runtime((*call).lvolRename),
		"bdev_lvol_resize":         runtime((*call).lvolResize),
		"bdev_lvol_set_read_only":  runtime((*call).lvolSetReadOnly),
	}
}

func (c *call) lvolCreateLvstore() {
	var req struct {
		BdevName    string `json:"bdev_name" rpc:"required"`
		LvsName     string `json:"lvs_name" rpc:"required"`
		ClusterSize uint32 `json:"cluster_sz"`
		ClearMethod string `json:"clear_method" enum:"unmap,write_zeroes,none"`
		MDRatio     uint32 `json:"num_md_pages_per_cluster_ratio"`
		MDPageSize  uint32 `json:"md_page_size"`
	}
	if !c.decode(&req, badParamsInternal) {
		return
	}
	if req.LvsName == "" || len(req.LvsName) >= nameMax ||
		req.MDPageSize != 0 && (req.MDPageSize < 4096 || req.MDPageSize > 65536 || req.MDPageSize&(req.MDPageSize-1) != 0) {
		c.failErrno(errINVAL)
		return
	}
	d, rc := c.p.bdevs.open(req.BdevName, true, func(bdevEvent) {})
	if rc != 0 {
		c.failErrno(rc)
		return
	}
	base := d.b
	d.close()
	if c.p.lvsByName(req.LvsName) != nil {
		c.failErrno(errEXIST)
		return
	}
	bs, rc := newBlobstore(base.sizeBytes(), base.blockSize, orDefault(req.ClusterSize, defaultClusterSize),
		orDefault(req.MDRatio, defaultMDPagesPerCluster))
	if rc == errNOMEM {
		c.fail(codeInvalidParams, rc.strerror())
		return
	}
	if rc != 0 {
		c.failErrno(rc)
		return
	}
	h := base.lvsHolder()
	h.store = newLvolStore(req.LvsName, bs)
	c.p.spawn(func(ctx context.Context) {
		err := clearBase(ctx, base, req.ClearMethod)
		c.p.locked(func() {
			if rc := errnoOf(err); rc != 0 {
				c.fail(codeInvalidParams, rc.strerror())
			} else if rc := c.p.openLvs(h, base); rc != 0 {
				c.fail(codeInvalidParams, rc.strerror())
			} else {
				c.ok(h.store.uuid.String())
			}
		})
	})
}

func orDefault(v, def uint32) uint32 {
	if v == 0 {
		return def
	}
	return v
}

// clearBase clears a bdev before an lvol store is made on it.
func clearBase(ctx context.Context, b *bdev, how string) error {
	switch {
	case how == "none" || how != "write_zeroes" && !b.supports(ioUnmap):
		return nil
	case how == "write_zeroes":
		return b.WriteZeroes(ctx, 0, b.sizeBytes())
	default:
		return b.Unmap(ctx, 0, b.sizeBytes())
	}
}

// errnoOf is the number that an I/O's error becomes in an RPC answer.
func errnoOf(err error) errno {
	var rc errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &rc):
		return rc
	default:
		return errIO
	}
}

type lvsChoice struct {
	UUID *string `json:"uuid"`
	Name *string `json:"lvs_name"`
}

// chosenLvs is the lvol store that the call is about; without one the call fails.
func (c *call) chosenLvs() *lvolStore {
	var req lvsChoice
	if !c.decode(&req, badParamsInternal) {
		return nil
	}
	s, rc := c.p.findLvs(req.UUID, req.Name)
	if rc != 0 {
		c.failErrno(rc)
		return nil
	}
	return s
}

func (c *call) lvolDeleteLvstore() {
	s := c.chosenLvs()
	if s == nil {
		return
	}
	c.p.removeLvs(s, true, func(rc errno) { c.done(rc, codeInvalidParams) })
}

func (c *call) lvolRenameLvstore() {
	var req struct {
		Old string `json:"old_name" rpc:"required"`
		New string `json:"new_name" rpc:"required"`
	}
	if !c.decode(&req, badParamsInternal) {
		return
	}
	s := c.p.lvsByName(req.Old)
	switch {
	case s == nil:
		c.fail(int(errNOENT), "Lvol store "+req.Old+" not found")
	case req.Old == req.New:
		c.ok(true)
	case c.p.lvsByName(req.New) != nil:
		c.fail(codeInvalidParams, errEXIST.strerror())
	default:
		s.name = req.New
		for _, l := range s.lvols {
			if l.bdev != nil {
				c.p.bdevs.removeAlias(l.bdev, req.Old+"/"+l.name)
				_ = c.p.bdevs.addAlias(l.bdev, l.alias())
			}
		}
		c.ok(true)
	}
}

// lvolGrowLvstore reads the super block. There is never anything to grow: disks keep their size.
func (c *call) lvolGrowLvstore() {
	s := c.chosenLvs()
	if s == nil {
		return
	}
	base := s.base.b
	c.p.spawn(func(ctx context.Context) {
		err := base.ReadAt(ctx, make([]byte, mdPageSize), 0)
		c.p.locked(func() { c.done(errnoOf(err), codeInvalidParams) })
	})
}

func (s *lvolStore) describe() object {
	return obj("uuid", s.uuid.String(), "name", s.name, "base_bdev", s.base.b.name,
		"total_data_clusters", s.bs.total, "free_clusters", s.bs.freeClusters(),
		"block_size", s.bs.blockSize, "cluster_size", s.bs.clusterSize,
		"max_growable_size", s.bs.growable)
}

func (c *call) lvolGetLvstores() {
	var req lvsChoice
	if !c.decodeIfAny(&req, badParamsInternal) {
		return
	}
	stores := c.p.lvs
	if c.params != nil {
		s, rc := c.p.findLvs(req.UUID, req.Name)
		if rc != 0 {
			c.failErrno(rc)
			return
		}
		stores = []*lvolStore{s}
	}
	list := []object{}
	for _, s := range stores {
		list = append(list, s.describe())
	}
	c.ok(list)
}

func (c *call) lvolGetLvols() {
	var req struct {
		UUID *string `json:"lvs_uuid"`
		Name *string `json:"lvs_name"`
	}
	if !c.decodeIfAny(&req, badParamsInternal) {
		return
	}
	stores := c.p.lvs
	if c.params != nil {
		s, rc := c.p.findLvs(req.UUID, req.Name)
		if rc != 0 {
			c.failErrno(rc)
			return
		}
		stores = []*lvolStore{s}
	}
	list := []object{}
	for _, s := range stores {
		for _, l := range s.lvols {
			if l.bdev == nil {
				continue
			}
			list = append(list, obj("alias", l.alias(), "uuid", l.uuid.String(), "name", l.name,
				"is_thin_provisioned", l.blob.isThin(), "is_snapshot", l.blob.isSnapshot(),
				"is_clone", l.blob.isClone(), "is_esnap_clone", false, "is_degraded", false,
				"num_allocated_clusters", l.blob.allocated(),
				"lvs", obj("name", s.name, "uuid", s.uuid.String())))
		}
	}
	c.ok(list)
}

// clustersFor is the number of clusters that size_in_mib takes. SPDK multiplies
// in 64 bits: a size from 2^44 MiB on overflows.
func (s *blobstore) clustersFor(mib uint64) uint64 {
	size := mib * (1 << 20)
	return (size + uint64(s.clusterSize) - 1) / uint64(s.clusterSize)
}

func (c *call) lvolCreate() {
	var req struct {
		LvolName    string  `json:"lvol_name" rpc:"required"`
		SizeMiB     uint64  `json:"size_in_mib" rpc:"required"`
		Thin        bool    `json:"thin_provision"`
		UUID        *string `json:"uuid"`
		LvsName     *string `json:"lvs_name"`
		ClearMethod string  `json:"clear_method" enum:"default,none,unmap,write_zeroes"`
	}
	if !c.decode(&req, badParamsInternal) {
		return
	}
	s, rc := c.p.findLvs(req.UUID, req.LvsName)
	if rc == 0 {
		rc = s.checkName(req.LvolName)
	}
	if rc != 0 {
		c.failErrno(rc)
		return
	}
	n := s.bs.clustersFor(req.SizeMiB)
	if n > 1<<30 {
		c.fail(codeInvalidParams, errNOMEM.strerror())
		return
	}
	b, rc := newBlob(s.bs, int(n), req.Thin)
	if rc != 0 {
		c.fail(codeInvalidParams, rc.strerror())
		return
	}
	c.answerLvol(c.p.addLvol(s, req.LvolName, b))
}

// answerLvol answers with a new lvol's name.
func (c *call) answerLvol(l *lvol, rc errno) {
	if rc != 0 {
		c.fail(codeInvalidParams, rc.strerror())
		return
	}
	c.ok(l.uuid.String())
}

// lvolNamed is the lvol of that bdev name; it answers errNODEV if there is none.
func (c *call) lvolNamed(name string) *lvol {
	l := c.p.lvolOf(name)
	if l == nil {
		c.failErrno(errNODEV)
	}
	return l
}

func (c *call) lvolDelete() {
	var req struct {
		Name string `json:"name" rpc:"required"`
	}
	if !c.decode(&req, badParamsInternal) {
		return
	}
	l := c.lvolNamed(req.Name)
	if l == nil {
		return
	}
	if l.store.removing {
		c.fail(codeInternalError, errNODEV.strerror())
		return
	}
	if len(l.blob.cloneList()) > 1 {
		c.fail(codeInternalError, errPERM.strerror())
		return
	}
	l.bdev.unregister(func(rc errno) {
		if rc != 0 {
			c.fail(codeInternalError, rc.strerror())
			return
		}
		c.p.spawn(func(ctx context.Context) {
			err := l.blob.delete(ctx)
			c.p.locked(func() {
				// It is forgotten also when its blob can't be deleted (lib/lvol/lvol.c, lvol_delete_blob_cb).
				l.store.lvols = slices.DeleteFunc(l.store.lvols, func(o *lvol) bool { return o == l })
				if rc := errnoOf(err); rc != 0 {
					c.fail(codeInternalError, rc.strerror())
					return
				}
				c.ok(true)
			})
		})
	})
}

func (c *call) lvolRename() {
	var req struct {
		Old string `json:"old_name" rpc:"required"`
		New string `json:"new_name" rpc:"required"`
	}
	if !c.decode(&req, badParamsInternal) {
		return
	}
	l := c.lvolNamed(req.Old)
	if l == nil {
		return
	}
	alias := l.alias()
	if rc := c.p.bdevs.addAlias(l.bdev, l.store.name+"/"+req.New); rc != 0 {
		c.fail(codeInvalidParams, rc.strerror())
		return
	}
	c.p.bdevs.removeAlias(l.bdev, alias)
	l.name = req.New
	c.ok(true)
}

func (c *call) lvolResize() {
	var req struct {
		Name    string `json:"name" rpc:"required"`
		SizeMiB uint64 `json:"size_in_mib" rpc:"required"`
	}
	if !c.decode(&req, badParamsInternal) {
		return
	}
	l := c.lvolNamed(req.Name)
	if l == nil {
		return
	}
	if l.blob.isReadOnly() {
		c.fail(codeInvalidParams, errPERM.strerror())
		return
	}
	n := l.store.bs.clustersFor(req.SizeMiB)
	if n > 1<<30 {
		c.fail(codeInvalidParams, errNOMEM.strerror())
		return
	}
	c.p.spawn(func(ctx context.Context) {
		err := l.blob.resize(ctx, int(n))
		c.p.locked(func() {
			rc := errnoOf(err)
			if rc == 0 && l.bdev != nil {
				rc = l.bdev.resized(uint64(l.blob.sizeBytes()) / uint64(l.bdev.blockSize))
			}
			c.done(rc, codeInvalidParams)
		})
	})
}

func (c *call) lvolSetReadOnly() {
	var req struct {
		Name string `json:"name" rpc:"required"`
	}
	if !c.decode(&req, badParamsInternal) {
		return
	}
	l := c.lvolNamed(req.Name)
	if l == nil {
		return
	}
	c.p.spawn(func(context.Context) {
		l.blob.setReadOnly()
		c.ok(true)
	})
}
