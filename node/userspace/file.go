package userspace

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"syscall"
)

// File is an attached device, or the space that the pretend file system leaves on it. Like a file opened with O_DIRECT it takes
// whole blocks only. Its methods may be called by many goroutines at once. When the device is disconnected they fail.
type File struct {
	disk     *disk
	from     int64 // bytes of the device before the file's first
	readOnly bool
}

// Open opens what is at path: the placeholder of a device, a raw block volume's target, or a directory where the pretend file
// system is mounted, whose one file this is.
func (m *Machine) Open(path string) (*File, error) {
	path = filepath.Clean(path)
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.topLocked(path); e != nil {
		f := &File{disk: e.disk, readOnly: e.ReadOnly}
		if !e.device {
			f.from = reservedBytes
		}
		return f, nil
	}
	if d := m.byPathLocked(path); d != nil {
		return &File{disk: d}, nil
	}
	return nil, fmt.Errorf("open %s: no volume is there; attach, mount or publish it first", path)
}

// byPathLocked returns the disk with that placeholder, or nil.
func (m *Machine) byPathLocked(path string) *disk {
	for _, devices := range []map[string]*disk{m.disks, m.mappings} {
		for _, d := range devices {
			if d.path == path {
				return d
			}
		}
	}
	return nil
}

// device returns the disk with that placeholder.
func (m *Machine) device(path string) (*disk, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := m.byPathLocked(path); d != nil {
		return d, nil
	}
	return nil, fmt.Errorf("device %s: %w", path, syscall.ENXIO)
}

// SizeBytes is the file's size.
func (f *File) SizeBytes() int64 { return max(0, f.disk.sizeBytes()-f.from) }

// BlockSize is the unit of offsets and lengths in bytes.
func (f *File) BlockSize() int { return f.disk.blockSize() }

// ReadAt fills p from byte off. While no path is live it waits, as the kernel does, until one is or all are given up.
func (f *File) ReadAt(ctx context.Context, p []byte, off int64) error {
	if off < 0 || off+int64(len(p)) > f.SizeBytes() {
		return fmt.Errorf("read %d bytes at %d of %s: %w", len(p), off, f.disk.name, io.ErrUnexpectedEOF)
	}
	return f.disk.readAt(ctx, p, f.from+off)
}

// WriteAt stores p at byte off, and waits as ReadAt does.
func (f *File) WriteAt(ctx context.Context, p []byte, off int64) error {
	switch {
	case f.readOnly || f.disk.isReadOnly() || f.from > 0 && f.disk.isDamaged():
		return fmt.Errorf("write to %s: %w", f.disk.name, syscall.EROFS)
	case off < 0 || off+int64(len(p)) > f.SizeBytes():
		return fmt.Errorf("write %d bytes at %d of %s: %w", len(p), off, f.disk.name, syscall.ENOSPC)
	}
	return f.disk.writeAt(ctx, p, f.from+off)
}

// Flush returns when every write that was answered is on stable storage.
func (f *File) Flush(ctx context.Context) error { return f.disk.flush(ctx) }
