package sim

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/utils/clock"
)

// DiskFault is what is wrong with a disk. The zero value is a healthy one.
type DiskFault struct {
	// ReadError and WriteError fail I/O with EIO.
	ReadError, WriteError bool
	// Hang answers no I/O, neither that already waiting nor new, until the fault
	// is lifted.
	Hang bool
	// Delay is added to every I/O.
	Delay time.Duration
}

// disk is the medium under an aio bdev. It outlives processes.
type disk struct {
	file  string
	size  int64
	store store
	clock clock.WithTicker
	lvs   lvsHolder

	mu      sync.Mutex
	fault   DiskFault
	changed chan struct{} // closed when fault changes

	reads, writes, readBytes, writeBytes atomic.Uint64
}

func newDisk(file string, size int64, st store, c clock.WithTicker) *disk {
	return &disk{file: file, size: size, store: st, clock: c, changed: make(chan struct{})}
}

// setFault replaces the disk's fault.
func (d *disk) setFault(f DiskFault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
	close(d.changed)
	d.changed = make(chan struct{})
}

// wait holds an I/O back as the fault says; it returns EIO where it fails.
func (d *disk) wait(ctx context.Context, write bool) error {
	delayed := false
	for {
		d.mu.Lock()
		f, changed := d.fault, d.changed
		d.mu.Unlock()
		switch {
		case f.Hang:
			select {
			case <-changed:
			case <-ctx.Done():
				return ctx.Err()
			}
		case f.Delay > 0 && !delayed:
			delayed = true
			t := d.clock.NewTimer(f.Delay)
			select {
			case <-t.C():
			case <-ctx.Done():
				t.Stop()
				return ctx.Err()
			}
		case write && f.WriteError, !write && f.ReadError:
			return errIO
		default:
			return nil
		}
	}
}

func (d *disk) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := d.wait(ctx, false); err != nil {
		return err
	}
	d.reads.Add(1)
	d.readBytes.Add(uint64(len(p)))
	return d.store.ReadAt(p, off)
}

func (d *disk) WriteAt(ctx context.Context, p []byte, off int64) error {
	if err := d.wait(ctx, true); err != nil {
		return err
	}
	d.writes.Add(1)
	d.writeBytes.Add(uint64(len(p)))
	return d.store.WriteAt(p, off)
}

// Zero makes a range read as zeroes and gives its space back.
func (d *disk) Zero(ctx context.Context, off, n int64) error {
	if err := d.wait(ctx, true); err != nil {
		return err
	}
	return d.store.Zero(off, n)
}

func (d *disk) close() { _ = d.store.Close() }
