package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	mountutils "k8s.io/mount-utils"
)

// Usage is what statfs says of a file system.
type Usage struct {
	TotalBytes, UsedBytes, AvailableBytes int64 // available to users other than root
	TotalInodes, UsedInodes, FreeInodes   int64
}

// Stats measures the file system mounted at path, within ctx even where its
// device is dead. It answers ErrNotMounted rather than measure what is below. At
// most one measurement of a file system is under way, at however many paths it is
// mounted.
func (m *Mounter) Stats(ctx context.Context, path string) (Usage, error) {
	path, top, err := m.mountPoint(path)
	if err != nil {
		return Usage{}, err
	}
	// No other device gets the number while the file system is mounted.
	what := fmt.Sprintf("statfs of device %d:%d", top.Major, top.Minor)
	return do(ctx, &m.jobs, what, what, func() (Usage, error) {
		var st unix.Statfs_t
		if err := m.statfs(path, &st); err != nil {
			return Usage{}, damaged(path, err)
		}
		return Usage{
			TotalBytes:     int64(st.Blocks) * st.Bsize,
			UsedBytes:      int64(st.Blocks-st.Bfree) * st.Bsize,
			AvailableBytes: int64(st.Bavail) * st.Bsize,
			TotalInodes:    int64(st.Files),
			UsedInodes:     int64(st.Files - st.Ffree),
			FreeInodes:     int64(st.Ffree),
		}, nil
	})
}

// Responds looks at the root of the file system mounted at path, within ctx. A
// file system that shut itself down answers ErrCorrupt.
func (m *Mounter) Responds(ctx context.Context, path string) error {
	path, _, err := m.mountPoint(path)
	if err != nil {
		return err
	}
	_, err = do(ctx, &m.jobs, "stat "+path, "stat "+path, func() (struct{}, error) {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return struct{}{}, damaged(path, err)
		}
		return struct{}{}, nil
	})
	return err
}

// ReadOnly reports whether the file system mounted at path refuses writes as a
// whole: it was mounted so, or, what the caller knows apart, it has damage or
// lost its device. It does not touch the file system.
//
// ext4 with errors=remount-ro refuses writes from its first error on. Older
// kernels show that as ro, those since 6.15 as emergency_ro or shutdown; those in
// between, stable 6.1 among them, in mountinfo not at all, but in the count of
// errors, which e2fsck clears.
func (m *Mounter) ReadOnly(path string) (bool, error) {
	_, top, err := m.mountPoint(path)
	if err != nil {
		return false, err
	}
	for _, o := range top.SuperOptions {
		if o == "ro" || o == "emergency_ro" || o == "shutdown" {
			return true, nil
		}
	}
	if top.FSType != Ext4 || !slices.Contains(top.SuperOptions, "errors=remount-ro") {
		return false, nil
	}
	count, err := os.ReadFile(filepath.Join(m.sysRoot, "fs", "ext4", m.kernelName(top), "errors_count"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the errors of the file system at %s: %w", path, err)
	}
	return strings.TrimSpace(string(count)) != "0", nil
}

// kernelName is the name of a file system's device in sysfs. What was mounted may
// go by another, as an open LUKS device does.
func (m *Mounter) kernelName(at Mounted) string {
	link, err := os.Readlink(filepath.Join(m.sysRoot, "dev", "block", fmt.Sprintf("%d:%d", at.Major, at.Minor)))
	if err != nil {
		return filepath.Base(at.Source) // the device is gone; its name is still that of the mount
	}
	return filepath.Base(link)
}

// mountPoint resolves path and returns what is uppermost of what is mounted there.
func (m *Mounter) mountPoint(path string) (resolved string, top Mounted, err error) {
	resolved, err = resolve(path)
	if err != nil {
		return "", Mounted{}, err
	}
	at, err := m.Mounts(resolved)
	if err != nil {
		return "", Mounted{}, err
	}
	if len(at) == 0 {
		return "", Mounted{}, fmt.Errorf("%s: %w", path, ErrNotMounted)
	}
	return resolved, at[len(at)-1], nil
}

// damaged marks the errors by which a mount point shows that its file system is
// not usable any more.
func damaged(path string, err error) error {
	if mountutils.IsCorruptedMnt(err) {
		return fmt.Errorf("%s: %w: %w", path, ErrCorrupt, err)
	}
	return fmt.Errorf("%s: %w", path, err)
}
