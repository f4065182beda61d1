package sim

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
)

// errFailed is SPDK_BDEV_IO_STATUS_FAILED: an I/O that failed without an NVMe
// status of its own. Hosts see a generic Internal Error.
var errFailed = errors.New("I/O failed")

// errAborted is SPDK_BDEV_IO_STATUS_ABORTED.
var errAborted = &nvmetcp.StatusError{SCT: nvmetcp.SCTGeneric, SC: nvmetcp.SCAbortRequested}

// ioStat is a bdev's I/O statistics (struct spdk_bdev_io_stat).
type ioStat struct {
	mu                 sync.Mutex
	read, write, unmap opStat
	errors             uint64
}

type opStat struct {
	bytes, ops     uint64
	ticks          uint64
	minTick, maxTk uint64
}

func (s *opStat) add(n int64, d time.Duration) {
	t := uint64(d)
	s.bytes += uint64(n)
	s.ops++
	s.ticks += t
	s.maxTk = max(s.maxTk, t)
	if s.minTick == 0 || t < s.minTick {
		s.minTick = t
	}
}

// track counts an I/O that began at start.
func (b *bdev) track(s *opStat, n int64, start time.Time, err error) error {
	if b.p.ctx.Err() != nil {
		// The process is gone: nothing is acknowledged any more.
		return b.p.ctx.Err()
	}
	b.stat.mu.Lock()
	defer b.stat.mu.Unlock()
	if err != nil {
		b.stat.errors++
		return err
	}
	s.add(n, b.p.now().Sub(start))
	return nil
}

// check refuses ranges outside the bdev, as bdev_io_valid_blocks does.
func (b *bdev) check(off, n int64) error {
	if off < 0 || n <= 0 || off+n > b.sizeBytes() || off%int64(b.blockSize) != 0 || n%int64(b.blockSize) != 0 {
		return errINVAL
	}
	return nil
}

// ReadAt reads len(p) bytes.
func (b *bdev) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := b.check(off, int64(len(p))); err != nil {
		return err
	}
	start := b.p.now()
	if err := b.qos.take(ctx, b.p, int64(len(p)), false); err != nil {
		return err
	}
	return b.track(&b.stat.read, int64(len(p)), start, b.dev.ReadAt(ctx, p, off))
}

// WriteAt writes len(p) bytes.
func (b *bdev) WriteAt(ctx context.Context, p []byte, off int64) error {
	if err := b.check(off, int64(len(p))); err != nil {
		return err
	}
	start := b.p.now()
	if err := b.qos.take(ctx, b.p, int64(len(p)), true); err != nil {
		return err
	}
	return b.track(&b.stat.write, int64(len(p)), start, b.dev.WriteAt(ctx, p, off))
}

// Unmap deallocates a range; a module that can't fails it. What the bdev said when it was registered isn't looked at
// (spdk_bdev_unmap_blocks): a raid that was made with a bdev_null in a slot says that it can't, and can once that is gone.
func (b *bdev) Unmap(ctx context.Context, off, n int64) error {
	if err := b.check(off, n); err != nil {
		return err
	}
	start := b.p.now()
	return b.track(&b.stat.unmap, n, start, b.dev.Unmap(ctx, off, n))
}

// zeroBufferSize is ZERO_BUFFER_SIZE of lib/bdev/bdev.c.
const zeroBufferSize = 1 << 20

// WriteZeroes makes a range read as zeroes, by writing them where the module has
// no better way.
func (b *bdev) WriteZeroes(ctx context.Context, off, n int64) error {
	if err := b.check(off, n); err != nil {
		return err
	}
	if b.native(ioWriteZeroes) {
		start := b.p.now()
		return b.track(&b.stat.write, n, start, b.dev.WriteZeroes(ctx, off, n))
	}
	zeroes := make([]byte, min(n, zeroBufferSize))
	for n > 0 {
		chunk := zeroes[:min(n, int64(len(zeroes)))]
		if err := b.WriteAt(ctx, chunk, off); err != nil {
			return err
		}
		off += int64(len(chunk))
		n -= int64(len(chunk))
	}
	return nil
}

// Flush does nothing on a bdev that doesn't know flushing: it has no volatile cache.
func (b *bdev) Flush(ctx context.Context) error {
	if !b.native(ioFlush) {
		return nil
	}
	return b.dev.Flush(ctx)
}

// namespaceDevice is a bdev as the NVMe-oF target sees it.
type namespaceDevice struct{ b *bdev }

func (d namespaceDevice) BlockSize() int   { return d.b.blockSize }
func (d namespaceDevice) SizeBytes() int64 { return d.b.sizeBytes() }

func (d namespaceDevice) ReadAt(ctx context.Context, p []byte, off int64) error {
	return d.b.ReadAt(ctx, p, off)
}

func (d namespaceDevice) WriteAt(ctx context.Context, p []byte, off int64) error {
	return d.b.WriteAt(ctx, p, off)
}

// WriteZeroes ignores unmap, as lib/nvmf/ctrlr_bdev.c does.
func (d namespaceDevice) WriteZeroes(ctx context.Context, off, n int64, _ bool) error {
	return d.b.WriteZeroes(ctx, off, n)
}

func (d namespaceDevice) Unmap(ctx context.Context, off, n int64) error {
	return d.b.Unmap(ctx, off, n)
}

// CanDeallocate implements nvmetcp.Deallocator.
func (d namespaceDevice) CanDeallocate() bool { return d.b.native(ioUnmap) }

func (d namespaceDevice) Flush(ctx context.Context) error { return d.b.Flush(ctx) }
