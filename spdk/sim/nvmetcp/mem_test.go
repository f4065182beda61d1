package nvmetcp

import (
	"context"
	"sync"
)

// memDisk is a Device in memory with a hook before every call.
type memDisk struct {
	bs int

	mu       sync.Mutex
	data     []byte
	before   func(ctx context.Context, op string, off, n int64) error
	unmapped int64
	flushes  int
}

func newMemDisk(bs int, size int64) *memDisk { return &memDisk{bs: bs, data: make([]byte, size)} }

func (d *memDisk) setHook(f func(ctx context.Context, op string, off, n int64) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.before = f
}

func (d *memDisk) hook(ctx context.Context, op string, off, n int64) error {
	d.mu.Lock()
	f := d.before
	d.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(ctx, op, off, n)
}

func (d *memDisk) BlockSize() int { return d.bs }

func (d *memDisk) SizeBytes() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return int64(len(d.data))
}

func (d *memDisk) grow(size int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.data = append(d.data, make([]byte, size-int64(len(d.data)))...)
}

func (d *memDisk) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := d.hook(ctx, "read", off, int64(len(p))); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(p, d.data[off:])
	return nil
}

func (d *memDisk) WriteAt(ctx context.Context, p []byte, off int64) error {
	if err := d.hook(ctx, "write", off, int64(len(p))); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.data[off:], p)
	return nil
}

func (d *memDisk) WriteZeroes(ctx context.Context, off, n int64, _ bool) error {
	if err := d.hook(ctx, "zero", off, n); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.data[off : off+n])
	return nil
}

func (d *memDisk) Unmap(ctx context.Context, off, n int64) error {
	if err := d.hook(ctx, "unmap", off, n); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unmapped += n
	clear(d.data[off : off+n])
	return nil
}

func (d *memDisk) Flush(ctx context.Context) error {
	if err := d.hook(ctx, "flush", 0, 0); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flushes++
	return nil
}
