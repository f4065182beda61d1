package mount

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Unmount unmounts everything that is stacked at target and returns when
// mountinfo shows nothing there and no umount of it is running; absent is
// success. It never looks at target itself, which may be on a dead device, and
// never detaches lazily: that would leave the file system alive out of sight.
//
// umount(2) takes the mount out of mountinfo first and writes back after, so one
// that blocks on a dead device is out of sight as well. It goes on when ctx ends,
// and a retry joins it; after a restart of this process InUse finds it. It ends
// when the device's I/O fails: when the kernel gives the controller up, or it is
// disconnected.
func (m *Mounter) Unmount(ctx context.Context, target string) error {
	path, err := resolve(target)
	if err != nil {
		return err
	}
	if err := m.jobs.settle(ctx, targetKey(path)); err != nil {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	at, err := m.Mounts(path)
	if err != nil {
		return err
	}
	for len(at) > 0 {
		_, runErr := m.run(ctx, targetKey(path), "umount", "--no-canonicalize", path)
		if ctx.Err() != nil && runErr != nil {
			return fmt.Errorf("unmount %s: %w", path, runErr)
		}
		before := len(at)
		if at, err = m.Mounts(path); err != nil {
			return errors.Join(err, runErr)
		}
		if len(at) >= before {
			return fmt.Errorf("unmount %s: %w: %w", path, ErrStillMounted, orSilent(runErr))
		}
	}
	return nil
}

// InUse reports whether something holds the device exclusively, as a file system
// does until the last of its mounts is gone, those in other mount namespaces
// included, and its umount has ended.
func (m *Mounter) InUse(ctx context.Context, device string) (bool, error) {
	return do(ctx, &m.jobs, deviceKey(device), "open "+device, func() (bool, error) {
		fd, err := unix.Open(device, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EBUSY) {
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("open %s: %w", device, err)
		}
		return false, unix.Close(fd)
	})
}

var errSilent = errors.New("umount reported success")

// orSilent names the case that umount said nothing and yet changed nothing.
func orSilent(err error) error {
	if err == nil {
		return errSilent
	}
	return err
}
