package sim

import (
	"context"
	"sync"
	"sync/atomic"
)

// blob is an array of clusters that may share those of its ancestors. io is held
// shared by I/O and exclusively by whatever changes the cluster map, so that such
// a change waits for I/O in flight and holds new I/O back, as SPDK's freeze does.
// mu guards the fields and is held for moments. A blob's locks are taken before its
// parent's.
type blob struct {
	bs *blobstore
	io ioLock

	mu       sync.Mutex
	clusters []uint32 // 0 where nothing is allocated
	thin     bool
	readOnly bool
	parent   *blob
	clones   []*blob
	snap     bool // has, or in this process had, a clone

	busy atomic.Bool // locked_operation_in_progress
}

// newBlob makes a blob of n clusters, allocated unless it is thin: errNOSPC.
func newBlob(bs *blobstore, n int, thin bool) (*blob, errno) {
	b := &blob{bs: bs, thin: thin}
	if thin {
		b.clusters = make([]uint32, n)
		return b, 0
	}
	got, rc := bs.allocate(n)
	b.clusters = got
	return b, rc
}

// allocated is the number of clusters that the blob itself holds.
func (b *blob) allocated() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, c := range b.clusters {
		if c != 0 {
			n++
		}
	}
	return n
}

func (b *blob) numClusters() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.clusters)
}

func (b *blob) sizeBytes() int64 { return int64(b.numClusters()) * b.bs.clusterSize }

// each splits a range at cluster borders: cluster index, offset within, length,
// and position within the range.
func (b *blob) each(off, n int64, fn func(i int, from, length, pos int64) error) error {
	for pos := int64(0); pos < n; {
		from := (off + pos) % b.bs.clusterSize
		length := min(b.bs.clusterSize-from, n-pos)
		if err := fn(int((off+pos)/b.bs.clusterSize), from, length, pos); err != nil {
			return err
		}
		pos += length
	}
	return nil
}

// readAt reads through the chain of ancestors; what none of them holds is zero.
func (b *blob) readAt(ctx context.Context, p []byte, off int64) error {
	return b.each(off, int64(len(p)), func(i int, from, length, pos int64) error {
		return b.readCluster(ctx, i, from, p[pos:pos+length])
	})
}

func (b *blob) readCluster(ctx context.Context, i int, from int64, p []byte) error {
	b.io.RLock()
	defer b.io.RUnlock()
	switch cluster, parent := b.at(i), b.parentBlob(); {
	case cluster != 0:
		return b.bs.base.Load().ReadAt(ctx, p, b.bs.offset(cluster)+from)
	case parent != nil:
		return parent.readCluster(ctx, i, from, p)
	default:
		clear(p)
		return nil
	}
}

// at is the blob's own cluster i, 0 if it has none.
func (b *blob) at(i int) uint32 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i < len(b.clusters) {
		return b.clusters[i]
	}
	return 0
}

// set puts a cluster in place i. The caller holds b.io exclusively.
func (b *blob) set(i int, cluster uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clusters[i] = cluster
}

// holds says whether the blob or an ancestor has data for cluster i.
func (b *blob) holds(i int) bool {
	if b.at(i) != 0 {
		return true
	}
	parent := b.parentBlob()
	return parent != nil && parent.holds(i)
}

// writeAt writes, allocating and copying clusters that the blob doesn't have.
func (b *blob) writeAt(ctx context.Context, p []byte, off int64) error {
	return b.each(off, int64(len(p)), func(i int, from, length, pos int64) error {
		return b.changeCluster(ctx, i, func(at int64) error {
			return b.bs.base.Load().WriteAt(ctx, p[pos:pos+length], at+from)
		})
	})
}

// writeZeroes allocates what it zeroes, as blobstore does.
func (b *blob) writeZeroes(ctx context.Context, off, n int64) error {
	return b.each(off, n, func(i int, from, length, _ int64) error {
		return b.changeCluster(ctx, i, func(at int64) error {
			return b.bs.base.Load().WriteZeroes(ctx, at+from, length)
		})
	})
}

// changeCluster runs write with the disk offset of cluster i, which it allocates
// first where the blob has none.
func (b *blob) changeCluster(ctx context.Context, i int, write func(at int64) error) error {
	for {
		if done, err := b.changeAllocated(i, write); done {
			return err
		}
		b.io.Lock()
		err := b.allocateCluster(ctx, i)
		b.io.Unlock()
		if err != nil {
			return err
		}
	}
}

func (b *blob) changeAllocated(i int, write func(at int64) error) (done bool, err error) {
	b.io.RLock()
	defer b.io.RUnlock()
	switch cluster := b.at(i); {
	case b.isReadOnly():
		return true, errPERM
	case i >= b.numClusters():
		return true, errINVAL
	case cluster == 0:
		return false, nil
	default:
		return true, write(b.bs.offset(cluster))
	}
}

// allocateCluster gives the blob its own cluster i, with the ancestors' data in
// it. A cluster that no ancestor has is not cleared: blobstore trusts that freed
// clusters were. The caller holds b.io exclusively.
func (b *blob) allocateCluster(ctx context.Context, i int) error {
	if i >= b.numClusters() || b.at(i) != 0 {
		return nil
	}
	got, rc := b.bs.allocate(1)
	if rc != 0 {
		return rc
	}
	if b.parentBlob() != nil {
		if err := b.copyUp(ctx, i, got[0]); err != nil {
			b.bs.release(got[0])
			return err
		}
	}
	b.set(i, got[0])
	return nil
}

// copyUp fills cluster with what the ancestors hold at i.
func (b *blob) copyUp(ctx context.Context, i int, cluster uint32) error {
	if !b.holds(i) {
		return nil
	}
	buf := make([]byte, b.bs.clusterSize)
	if err := b.parentBlob().readCluster(ctx, i, 0, buf); err != nil {
		return err
	}
	return b.bs.base.Load().WriteAt(ctx, buf, b.bs.offset(cluster))
}

// unmap deallocates a range. Whole clusters of a thin blob that has no parent are
// given back; what the blob doesn't hold itself is left as it is.
func (b *blob) unmap(ctx context.Context, off, n int64) error {
	return b.each(off, n, func(i int, from, length, _ int64) error {
		if length == b.bs.clusterSize {
			return b.unmapCluster(ctx, i)
		}
		done, err := b.changeAllocated(i, func(at int64) error { return b.bs.unmap(ctx, at+from, length) })
		if !done {
			return nil
		}
		return err
	})
}

func (b *blob) unmapCluster(ctx context.Context, i int) error {
	b.io.Lock()
	defer b.io.Unlock()
	cluster := b.at(i)
	switch {
	case b.isReadOnly():
		return errPERM
	case cluster == 0:
		return nil
	}
	if err := b.bs.unmap(ctx, b.bs.offset(cluster), b.bs.clusterSize); err != nil {
		return err
	}
	if b.isThin() && !b.isClone() && !b.busy.Load() {
		b.bs.release(cluster)
		b.set(i, 0)
	}
	return nil
}

// resize changes the number of clusters: errPERM on a read-only blob, errNOSPC where a
// thick one doesn't fit.
func (b *blob) resize(ctx context.Context, n int) error {
	b.io.Lock()
	defer b.io.Unlock()
	if b.isReadOnly() {
		return errPERM
	}
	old := b.numClusters()
	if n > old {
		return b.grow(n - old)
	}
	for i := n; i < old; i++ {
		if c := b.at(i); c != 0 {
			if err := b.bs.unmap(ctx, b.bs.offset(c), b.bs.clusterSize); err != nil {
				return err
			}
			b.bs.release(c)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clusters = b.clusters[:n:n]
	return nil
}

// grow adds clusters, allocated unless the blob is thin. The caller holds b.io exclusively.
func (b *blob) grow(by int) error {
	more := make([]uint32, by)
	if !b.isThin() {
		got, rc := b.bs.allocate(by)
		if rc != 0 {
			return rc
		}
		more = got
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clusters = append(b.clusters, more...)
	return nil
}
