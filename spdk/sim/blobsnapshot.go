package sim

import (
	"context"
	"slices"
)

// snapshot moves the blob's clusters into a new read-only blob that becomes its
// parent; the blob itself is thin from then on and holds nothing. It waits for no write in flight, which may so land in the snapshot
// (lib/blob/blobstore.c, blob_freeze_io: what comes meanwhile waits, what executes goes on).
func (b *blob) snapshot() *blob {
	b.io.RLock()
	defer b.io.RUnlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &blob{bs: b.bs, clusters: b.clusters, thin: b.thin, readOnly: true, parent: b.parent, clones: []*blob{b}, snap: true}
	if s.parent != nil {
		s.parent.replaceClone(b, s)
	}
	b.clusters = make([]uint32, len(s.clusters))
	b.thin = true
	b.parent = s
	return s
}

// clone makes a blob that starts with this read-only one's content.
func (b *blob) clone() *blob {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := &blob{bs: b.bs, clusters: make([]uint32, len(b.clusters)), thin: true, parent: b}
	b.clones = append(b.clones, c)
	b.snap = true
	return c
}

func (b *blob) replaceClone(old, new *blob) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(b.clones, old); i >= 0 {
		b.clones[i] = new
	}
}

func (b *blob) dropClone(c *blob) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clones = slices.DeleteFunc(b.clones, func(o *blob) bool { return o == c })
}

func (b *blob) cloneList() []*blob {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.clones)
}

// isSnapshot is spdk_blob_is_snapshot: the blob is on the list of those that have
// clones. A blob whose last clone is gone stays on it until the next load.
func (b *blob) isSnapshot() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.snap
}

// reload is what loading the blobstore again makes of the blob.
func (b *blob) reload() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.snap = len(b.clones) > 0
	b.busy.Store(false)
}

func (b *blob) isClone() bool { return b.parentBlob() != nil }

func (b *blob) parentBlob() *blob {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.parent
}

func (b *blob) isThin() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.thin
}

func (b *blob) isReadOnly() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.readOnly
}

func (b *blob) setReadOnly() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.readOnly = true
}

// delete gives the blob's clusters back, or, if it has one clone, to that clone,
// which also gets its parent.
func (b *blob) delete(ctx context.Context) error {
	if clones := b.cloneList(); len(clones) == 1 {
		return clones[0].adopt(ctx, b)
	}
	b.io.Lock()
	defer b.io.Unlock()
	for i := range b.numClusters() {
		c := b.at(i)
		if c == 0 {
			continue
		}
		if err := b.bs.unmap(ctx, b.bs.offset(c), b.bs.clusterSize); err != nil {
			return err
		}
		b.bs.release(c)
		b.set(i, 0)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.parent != nil {
		b.parent.dropClone(b)
		b.parent = nil
	}
	return nil
}

// adopt takes over the clusters and the parent of snapshot s, the blob's parent. Those that the blob doesn't need are cleared and given back
// (lib/blob/blobstore.c, delete_snapshot_sync_clone_cpl, blob_persist_clear_clusters).
func (b *blob) adopt(ctx context.Context, s *blob) error {
	b.io.Lock()
	defer b.io.Unlock()
	s.io.Lock()
	defer s.io.Unlock()
	for i := range s.numClusters() {
		if c := s.at(i); c != 0 && (i >= b.numClusters() || b.at(i) != 0) {
			if err := b.bs.unmap(ctx, b.bs.offset(c), b.bs.clusterSize); err != nil {
				return err
			}
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, c := range s.clusters {
		switch {
		case c == 0:
		case i < len(b.clusters) && b.clusters[i] == 0:
			b.clusters[i] = c
		default:
			b.bs.release(c)
		}
	}
	b.parent = s.parent
	if b.parent != nil {
		b.parent.replaceClone(s, b)
	}
	s.clusters, s.parent, s.clones = nil, nil, nil
	return nil
}

// inflate makes the blob independent: with all set every cluster is allocated and
// the blob is thick (bdev_lvol_inflate); otherwise only its parent's own clusters
// are copied and the grandparent takes the parent's place
// (bdev_lvol_decouple_parent). errNOSPC if not everything fits.
func (b *blob) inflate(ctx context.Context, all bool) error {
	b.io.Lock()
	defer b.io.Unlock()
	old := b.parentBlob()
	if old == nil && !all {
		return errINVAL
	}
	if !b.isThin() && old == nil {
		return nil
	}
	var need []int
	for i := range b.numClusters() {
		if b.at(i) == 0 && (all || old.own(i)) {
			need = append(need, i)
		}
	}
	if len(need) > b.bs.freeClusters() {
		return errNOSPC
	}
	for _, i := range need {
		if err := b.allocateCluster(ctx, i); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if old == nil {
		b.thin = false
		return nil
	}
	old.dropClone(b)
	b.parent = nil
	if grand := old.parentBlob(); !all && grand != nil {
		b.parent = grand
		grand.addClone(b)
	}
	if all {
		b.thin = false
	}
	return nil
}

func (b *blob) own(i int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return i < len(b.clusters) && b.clusters[i] != 0
}

func (b *blob) addClone(c *blob) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clones = append(b.clones, c)
	b.snap = true
}

// setParent makes snapshot s the parent of a blob that has the same size.
func (b *blob) setParent(s *blob) errno {
	b.io.Lock()
	defer b.io.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.parent == s:
		return errEXIST
	case len(b.clusters) != s.numClusters():
		return errINVAL
	case !b.thin:
		return errINVAL
	}
	if b.parent != nil {
		b.parent.dropClone(b)
	}
	b.parent = s
	s.addClone(b)
	return 0
}
