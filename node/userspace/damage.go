package userspace

import (
	"fmt"

	"github.com/holdfast-csi/holdfast/node/mount"
)

// Damage has the file system at path refuse writes from now on, as ext4 mounted with errors=remount-ro does after its first error. It
// ends when the device is disconnected.
func (m *Machine) Damage(path string) error {
	d, _, err := m.fileSystemAt(path)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.damaged = true
	return nil
}

// ReadOnly implements node.Mounts: the file system was mounted so, or has damage.
func (m *Machine) ReadOnly(path string) (bool, error) {
	return do(m, OpMounts, func() (bool, error) {
		d, readOnly, err := m.fileSystemAt(path)
		if err != nil {
			return false, err
		}
		return readOnly || d.isDamaged(), nil
	})
}

func (m *Machine) fileSystemAt(path string) (d *disk, readOnly bool, err error) {
	target, err := clean(path)
	if err != nil {
		return nil, false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.topLocked(target)
	if e == nil || e.device {
		return nil, false, fmt.Errorf("%s: %w", path, mount.ErrNotMounted)
	}
	return e.disk, e.ReadOnly, nil
}

func (d *disk) isDamaged() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.damaged
}
