package nvmetcp

import "context"

// Device is the storage behind a namespace. Offsets and lengths are in bytes and
// multiples of BlockSize; the target has checked them against SizeBytes. Calls
// come from many goroutines at once, and each may block until its context ends:
// a hung disk does. An error that is, or wraps, a *StatusError reaches the host
// with that status; any other becomes a generic Internal Error (SCT 0, SC 06h).
type Device interface {
	// BlockSize is the size of a logical block in bytes: 512 or 4096.
	BlockSize() int
	// SizeBytes is the present capacity in bytes, a multiple of BlockSize.
	SizeBytes() int64
	ReadAt(ctx context.Context, p []byte, off int64) error
	WriteAt(ctx context.Context, p []byte, off int64) error
	// WriteZeroes makes the range read as zeroes; unmap says that it may be
	// deallocated as well (the DEAC bit of the command).
	WriteZeroes(ctx context.Context, off, n int64, unmap bool) error
	// Unmap deallocates the range.
	Unmap(ctx context.Context, off, n int64) error
	// Flush returns when every write that was answered is on stable storage.
	Flush(ctx context.Context) error
}

// Deallocator is a Device that may not announce that it can deallocate; the command is tried all the same, as SPDK does. One without the
// method announces it.
type Deallocator interface{ CanDeallocate() bool }

func canDeallocate(d Device) bool {
	able, ok := d.(Deallocator)
	return !ok || able.CanDeallocate()
}
