package mount

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fitrim is FITRIM, _IOWR('X', 121, struct fstrim_range) (include/uapi/linux/fs.h).
const fitrim = 0xc0185879

// trimRange is struct fstrim_range: bytes to look at, and the shortest free extent that is worth discarding. The kernel writes to length
// how much it has discarded.
type trimRange struct{ start, length, shortest uint64 }

// Trim discards all that is free in the file system mounted at path, and returns how many bytes that was. A device that can't discard is
// errors.ErrUnsupported. A read-only file system is left alone and no error.
func (m *Mounter) Trim(ctx context.Context, path string) (int64, error) {
	path, _, err := m.mountPoint(path)
	if err != nil {
		return 0, err
	}
	return do(ctx, &m.jobs, "trim "+path, "trim "+path, func() (discarded int64, err error) {
		dir, err := os.Open(path)
		if err != nil {
			return 0, damaged(path, err)
		}
		defer func() { err = errors.Join(err, dir.Close()) }()
		r := trimRange{length: math.MaxUint64}
		//nolint:gosec // x/sys has no wrapper of FITRIM; the kernel keeps no pointer to the range
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), fitrim, uintptr(unsafe.Pointer(&r)))
		switch errno {
		case 0:
			return int64(r.length), nil
		case unix.EROFS:
			return 0, nil
		case unix.EOPNOTSUPP:
			return 0, fmt.Errorf("trim %s: %w: its device can't discard", path, errors.ErrUnsupported)
		}
		return 0, fmt.Errorf("trim %s: %w", path, errno)
	})
}
