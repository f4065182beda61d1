package load

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Direct is a file or block device of this machine, past its page cache. The kernel's I/O can't be given up: contexts are ignored.
type Direct struct{ file *os.File }

// OpenDirect opens a file, which is made if it does not exist, or a block device.
func OpenDirect(path string) (*Direct, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_DIRECT, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the file that the load is on: %w", err)
	}
	return &Direct{f}, nil
}

// Close closes the file.
func (d *Direct) Close() error { return d.file.Close() }

// ReadAt implements File.
func (d *Direct) ReadAt(_ context.Context, p []byte, off int64) error {
	_, err := d.file.ReadAt(p, off)
	return err
}

// WriteAt implements File.
func (d *Direct) WriteAt(_ context.Context, p []byte, off int64) error {
	_, err := d.file.WriteAt(p, off)
	return err
}

// Flush implements File.
func (d *Direct) Flush(context.Context) error { return d.file.Sync() }
