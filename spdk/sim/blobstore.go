package sim

import (
	"context"
	"sync"
	"sync/atomic"
)

// Blobstore layout (lib/blob/blobstore.c, spdk_bs_init).
const (
	mdPageSize               = 4096
	mdMaskHeader             = 5   // sizeof(struct spdk_bs_md_mask)
	defaultMDPagesPerCluster = 100 // per cent: one metadata page for each cluster
)

// blobstore hands out the clusters of a disk to blobs. It lives on the disk,
// longer than a process; base is the bdev through which the present process
// reaches it.
type blobstore struct {
	blockSize   int
	clusterSize int64
	total       int // data clusters
	growable    int64
	first       int // the first data cluster; metadata lies before
	base        atomic.Pointer[bdev]

	mu    sync.Mutex
	used  []bool
	free  int
	next  int // no cluster below is free
	limit int // clusters that may be used at most, a fault; negative is no limit
}

// newBlobstore lays a blobstore out on size bytes. mdRatio is
// num_md_pages_per_cluster_ratio in per cent. errNOMEM is SPDK's answer where the
// metadata alone would fill the disk.
func newBlobstore(size int64, blockSize int, clusterSize uint32, mdRatio uint32) (*blobstore, errno) {
	if int(clusterSize) < blockSize || int(clusterSize)%blockSize != 0 {
		return nil, errINVAL
	}
	total := size / int64(clusterSize)
	if clusterSize < mdPageSize || clusterSize%mdPageSize != 0 {
		return nil, errINVAL
	}
	mdLen := int64(mdRatio) * total / 100
	maskPages := func(bits int64) int64 { return ceilDiv(mdMaskHeader+ceilDiv(bits, 8), mdPageSize) }
	mdPages := 1 + maskPages(mdLen) + max(maskPages(total), maskPages(mdLen)) + maskPages(mdLen) + mdLen
	mdClusters := ceilDiv(mdPages, int64(clusterSize)/mdPageSize)
	if mdClusters > total || mdLen == 0 {
		return nil, errNOMEM
	}
	n := int(total - mdClusters)
	growable := (max(maskPages(total), maskPages(mdLen))*mdPageSize - mdMaskHeader) * 8 * int64(clusterSize)
	return &blobstore{growable: growable, blockSize: blockSize, clusterSize: int64(clusterSize), total: n, first: int(mdClusters),
		used: make([]bool, n), free: n, limit: -1}, 0
}

func ceilDiv(a, b int64) int64 { return (a + b - 1) / b }

// freeClusters is the number of clusters that can be handed out.
func (s *blobstore) freeClusters() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.available()
}

func (s *blobstore) available() int {
	if s.limit >= 0 {
		return max(0, min(s.free, s.limit-(s.total-s.free)))
	}
	return s.free
}

// allocate takes n clusters, all or none: errNOSPC. Clusters are numbered from 1, so
// that 0 can mean none.
func (s *blobstore) allocate(n int) ([]uint32, errno) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > s.available() {
		return nil, errNOSPC
	}
	got := make([]uint32, 0, n)
	for i := s.next; len(got) < n; i++ {
		if !s.used[i] {
			s.used[i] = true
			got = append(got, uint32(i+1))
			s.next = i + 1
		}
	}
	s.free -= n
	return got, 0
}

// release gives a cluster back.
func (s *blobstore) release(cluster uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := int(cluster - 1)
	s.used[i] = false
	s.free++
	s.next = min(s.next, i)
}

// setLimit makes the store run out of space when n clusters are in use; a
// negative n takes the fault away.
func (s *blobstore) setLimit(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = n
}

// offset is where a cluster lies on the disk.
func (s *blobstore) offset(cluster uint32) int64 {
	return int64(s.first+int(cluster)-1) * s.clusterSize
}

// unmap deallocates a range of the disk; where the base bdev can't, it does
// nothing, as blobstore does (module/blob/bdev/blob_bdev.c).
func (s *blobstore) unmap(ctx context.Context, off, n int64) error {
	base := s.base.Load()
	if !base.supports(ioUnmap) {
		return nil
	}
	return base.Unmap(ctx, off, n)
}

// touchMetadata stands for the metadata that a change of a blob writes, which the simulator keeps in memory: it ends when the disk answers.
func (s *blobstore) touchMetadata(ctx context.Context) error {
	return s.base.Load().ReadAt(ctx, make([]byte, s.blockSize), 0)
}
