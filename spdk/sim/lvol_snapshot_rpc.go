package sim

import (
	"context"
)

func lvolSnapshotMethods() map[string]method {
	return map[string]method{
		"bdev_lvol_snapshot":           runtime((*call).lvolSnapshot),
		"bdev_lvol_clone":              runtime((*call).lvolClone),
		"bdev_lvol_inflate":            runtime((*call).lvolInflate),
		"bdev_lvol_decouple_parent":    runtime((*call).lvolDecoupleParent),
		"bdev_lvol_set_parent":         runtime((*call).lvolSetParent),
		"bdev_lvol_start_shallow_copy": runtime((*call).lvolStartShallowCopy),
		"bdev_lvol_check_shallow_copy": runtime((*call).lvolCheckShallowCopy),
	}
}

func (c *call) lvolSnapshot() {
	var req struct {
		Lvol     string `json:"lvol_name" rpc:"required"`
		Snapshot string `json:"snapshot_name" rpc:"required"`
	}
	if !c.decode(&req, badParamsInternal) {
		return
	}
	l := c.lvolNamed(req.Lvol)
	if l == nil {
		return
	}
	rc := l.store.checkName(req.Snapshot)
	switch {
	case rc != 0:
	case l.blob.isReadOnly():
		rc = errINVAL
	case !l.blob.busy.CompareAndSwap(false, true):
		rc = errBUSY
	}
	if rc != 0 {
		c.fail(codeInvalidParams, rc.strerror())
		return
	}
	if l.store.pending == nil {
		l.store.pending = map[string]bool{}
	}
	l.store.pending[req.Snapshot] = true
	c.p.spawn(func(ctx context.Context) {
		rc := errnoOf(l.store.bs.touchMetadata(ctx))
		var b *blob
		if rc == 0 {
			b = l.blob.snapshot()
		}
		l.blob.busy.Store(false)
		c.p.locked(func() {
			delete(l.store.pending, req.Snapshot)
			if rc != 0 {
				c.fail(codeInvalidParams, rc.strerror())
				return
			}
			c.answerLvol(c.p.addLvol(l.store, req.Snapshot, b))
		})
	})
}

func (c *call) lvolClone() {
	var req struct {
		Snapshot string `json:"snapshot_name" rpc:"required"`
		Clone    string `json:"clone_name" rpc:"required"`
	}
	if !c.decode(&req, badParamsInternal) {
		return
	}
	l := c.lvolNamed(req.Snapshot)
	if l == nil {
		return
	}
	rc := l.store.checkName(req.Clone)
	switch {
	case rc != 0:
	case !l.blob.isReadOnly():
		rc = errINVAL
	case l.blob.busy.Load():
		rc = errBUSY
	}
	if rc != 0 {
		c.fail(codeInvalidParams, rc.strerror())
		return
	}
	c.answerLvol(c.p.addLvol(l.store, req.Clone, l.blob.clone()))
}

func (c *call) lvolInflate() { c.inflate(true) }

func (c *call) lvolDecoupleParent() { c.inflate(false) }

func (c *call) inflate(all bool) {
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
	if !l.blob.busy.CompareAndSwap(false, true) {
		c.fail(codeInvalidParams, errBUSY.strerror())
		return
	}
	c.p.spawn(func(ctx context.Context) {
		rc := errnoOf(l.blob.inflate(ctx, all))
		l.blob.busy.Store(false)
		c.done(rc, codeInvalidParams)
	})
}

func (c *call) lvolSetParent() {
	var req struct {
		Lvol   string `json:"lvol_name" rpc:"required"`
		Parent string `json:"parent_name" rpc:"required"`
	}
	if !c.decode(&req, badParamsInternal) {
		return
	}
	l := c.lvolNamed(req.Lvol)
	if l == nil {
		return
	}
	parent := c.lvolNamed(req.Parent)
	if parent == nil {
		return
	}
	switch {
	case l == parent || l.store != parent.store || !parent.blob.isSnapshot() && l.blob.parentBlob() != parent.blob:
		c.fail(codeInvalidParams, errINVAL.strerror())
	default:
		c.done(l.blob.setParent(parent.blob), codeInvalidParams)
	}
}

// shallowCopies are the operations that bdev_lvol_start_shallow_copy started and
// bdev_lvol_check_shallow_copy hasn't seen the end of.
type shallowCopies struct {
	last uint32
	ops  map[uint32]*shallowCopy
}

// shallowCopy copies the clusters that a read-only lvol itself holds to a bdev.
// Its fields are guarded by process.mu.
type shallowCopy struct {
	copied, total int
	result        errno
}

func (c *call) lvolStartShallowCopy() {
	var req struct {
		Src string `json:"src_lvol_name" rpc:"required"`
		Dst string `json:"dst_bdev_name" rpc:"required"`
	}
	if !c.decode(&req, badParamsInternal) {
		return
	}
	l := c.lvolNamed(req.Src)
	if l == nil {
		return
	}
	p := c.p
	p.copies.last++
	id := p.copies.last
	dst, rc := p.openShallowDestination(req.Dst)
	if rc != 0 {
		c.fail(codeInvalidParams, rc.strerror())
		return
	}
	op := &shallowCopy{total: l.blob.allocated()}
	if p.copies.ops == nil {
		p.copies.ops = map[uint32]*shallowCopy{}
	}
	p.copies.ops[id] = op
	switch {
	case !l.blob.isReadOnly():
		op.result = errPERM
	case l.blob.sizeBytes() > dst.b.sizeBytes() || l.store.bs.blockSize%dst.b.blockSize != 0:
		op.result = errINVAL
	case !l.blob.busy.CompareAndSwap(false, true):
		op.result = errBUSY
	}
	if op.result != 0 {
		dst.b.release()
		dst.close()
	} else {
		p.spawn(func(ctx context.Context) { p.copyShallow(ctx, op, l.blob, dst) })
	}
	c.ok(obj("operation_id", id))
}

// openShallowDestination opens and claims the bdev that is written to.
func (p *process) openShallowDestination(name string) (*desc, errno) {
	d, rc := p.bdevs.open(name, true, func(bdevEvent) {})
	if rc != 0 {
		return nil, rc
	}
	if rc := d.b.claimFor("lvol"); rc != 0 {
		d.close()
		return nil, rc
	}
	return d, 0
}

func (p *process) copyShallow(ctx context.Context, op *shallowCopy, b *blob, dst *desc) {
	buf := make([]byte, b.bs.clusterSize)
	var err error
	for i := range b.numClusters() {
		if p.gate.Wait(ctx) != nil {
			return
		}
		if !b.own(i) {
			continue
		}
		if err = b.readCluster(ctx, i, 0, buf); err == nil {
			err = dst.b.WriteAt(ctx, buf, int64(i)*b.bs.clusterSize)
		}
		if err != nil {
			break
		}
		p.locked(func() { op.copied++ })
	}
	b.busy.Store(false)
	p.locked(func() {
		op.result = errnoOf(err)
		dst.b.release()
		dst.close()
	})
}

func (c *call) lvolCheckShallowCopy() {
	var req struct {
		ID uint32 `json:"operation_id" rpc:"required"`
	}
	if !c.decode(&req, badParamsInternal) {
		return
	}
	op := c.p.copies.ops[req.ID]
	if op == nil {
		c.failErrno(errNODEV)
		return
	}
	o := obj("copied_clusters", op.copied, "total_clusters", op.total)
	switch {
	case op.result == 0 && op.copied < op.total:
		c.ok(o.with("state", "in progress"))
		return
	case op.result == 0:
		o = o.with("state", "complete")
	default:
		o = o.with("state", "error").with("error", op.result.strerror())
	}
	delete(c.p.copies.ops, req.ID)
	c.ok(o)
}
