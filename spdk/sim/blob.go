package sim

import (
	"context"
	"sync"
	"sync/atomic"
)

// blob is an array of clusters that may share those of its ancestors. io is held
// shared by I/O and exclusively by whatever changes the cluster map, so that such
// a change waits for I/O in flight and holds new I/O back, as SPDK's freeze does.
// A blob's lock is taken before its parent's.
type blob struct {
	bs *blobstore

	io       sync.RWMutex
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
	b.io.RLock()
	defer b.io.RUnlock()
	n := 0
	for _, c := range b.clusters {
		if c != 0 {
			n++
		}
	}
	return n
}

func (b *blob) numClusters() int {
	b.io.RLock()
	defer b.io.RUnlock()
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
	switch {
	case i < len(b.clusters) && b.clusters[i] != 0:
		return b.bs.base.Load().ReadAt(ctx, p, b.bs.offset(b.clusters[i])+from)
	case b.parent != nil:
		return b.parent.readCluster(ctx, i, from, p)
	default:
		clear(p)
		return nil
	}
}

// holds says whether the blob or an ancestor has data for cluster i. The caller
// holds b.io.
func (b *blob) holds(i int) bool {
	if i < len(b.clusters) && b.clusters[i] != 0 {
		return true
	}
	if b.parent == nil {
		return false
	}
	b.parent.io.RLock()
	defer b.parent.io.RUnlock()
	return b.parent.holds(i)
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
	switch {
	case b.readOnly:
		return true, errPERM
	case i >= len(b.clusters):
		return true, errINVAL
	case b.clusters[i] == 0:
		return false, nil
	default:
		return true, write(b.bs.offset(b.clusters[i]))
	}
}

// allocateCluster gives the blob its own cluster i, with the ancestors' data in
// it. A cluster that no ancestor has is not cleared: blobstore trusts that freed
// clusters were. The caller holds b.io exclusively.
func (b *blob) allocateCluster(ctx context.Context, i int) error {
	if i >= len(b.clusters) || b.clusters[i] != 0 {
		return nil
	}
	got, rc := b.bs.allocate(1)
	if rc != 0 {
		return rc
	}
	if b.parent != nil {
		if err := b.copyUp(ctx, i, got[0]); err != nil {
			b.bs.release(got[0])
			return err
		}
	}
	b.clusters[i] = got[0]
	return nil
}

// copyUp fills cluster with what the ancestors hold at i.
func (b *blob) copyUp(ctx context.Context, i int, cluster uint32) error {
	if !b.holds(i) {
		return nil
	}
	buf := make([]byte, b.bs.clusterSize)
	if err := b.parent.readCluster(ctx, i, 0, buf); err != nil {
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
	switch {
	case b.readOnly:
		return errPERM
	case i >= len(b.clusters) || b.clusters[i] == 0:
		return nil
	}
	if err := b.bs.unmap(ctx, b.bs.offset(b.clusters[i]), b.bs.clusterSize); err != nil {
		return err
	}
	if b.thin && b.parent == nil && !b.busy.Load() {
		b.bs.release(b.clusters[i])
		b.clusters[i] = 0
	}
	return nil
}

// resize changes the number of clusters: errPERM on a read-only blob, errNOSPC where a
// thick one doesn't fit.
func (b *blob) resize(ctx context.Context, n int) error {
	b.io.Lock()
	defer b.io.Unlock()
	if b.readOnly {
		return errPERM
	}
	old := len(b.clusters)
	if n > old {
		more := make([]uint32, n-old)
		if !b.thin {
			got, rc := b.bs.allocate(n - old)
			if rc != 0 {
				return rc
			}
			more = got
		}
		b.clusters = append(b.clusters, more...)
		return nil
	}
	for _, c := range b.clusters[n:] {
		if c != 0 {
			if err := b.bs.unmap(ctx, b.bs.offset(c), b.bs.clusterSize); err != nil {
				return err
			}
			b.bs.release(c)
		}
	}
	b.clusters = b.clusters[:n:n]
	return nil
}
