package userspace

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/holdfast-csi/holdfast/node/mount"
)

// entry is a line of the table of mounts.
type entry struct {
	mount.Mounted
	disk *disk
	// device says that the device itself is there, not the file system on it.
	device bool
}

// Mount implements node.Mounts. The device must have been read to hold a file system of that type.
func (m *Machine) Mount(ctx context.Context, device, target, fsType string, flags []string, readOnly bool) error {
	return m.perform(OpMount, func() error {
		if err := mount.ValidateFlags(flags); err != nil {
			return err
		}
		target, err := clean(target)
		if err != nil {
			return err
		}
		d, err := m.device(device)
		if err != nil {
			return fmt.Errorf("mount: %w", err)
		}
		if !m.uses(d) { // what is mounted already is not looked at again: its target may be dead
			found, err := probe(ctx, d)
			if err != nil {
				return fmt.Errorf("mount at %s: %w", target, err)
			}
			if found.FSType != fsType {
				return fmt.Errorf("mount %s at %s: wrong file system type %q, wanted is %q", device, target, found.FSType, fsType)
			}
		}
		e := entry{disk: d, Mounted: mount.Mounted{
			Target: target, Source: device, Root: "/", FSType: fsType, Major: blockMajor, Minor: int(d.minor), ReadOnly: readOnly, Options: flags,
		}}
		return m.add(e, func() error { return os.MkdirAll(target, 0o750) })
	})
}

// BindMount implements node.Mounts. The source is a directory where a file system is mounted.
func (m *Machine) BindMount(_ context.Context, source, target string, readOnly bool) error {
	return m.perform(OpBind, func() error {
		target, err := clean(target)
		if err != nil {
			return err
		}
		m.mu.Lock()
		from := m.topLocked(filepath.Clean(source))
		m.mu.Unlock()
		if from == nil || from.device {
			return fmt.Errorf("bind %s at %s: %w", source, target, mount.ErrNotMounted)
		}
		e := *from
		e.Target, e.ReadOnly = target, from.ReadOnly || readOnly
		return m.add(e, func() error { return os.MkdirAll(target, 0o750) })
	})
}

// BindDevice implements node.Mounts.
func (m *Machine) BindDevice(_ context.Context, device, target string) error {
	return m.perform(OpBind, func() error {
		target, err := clean(target)
		if err != nil {
			return err
		}
		d, err := m.device(device)
		if err != nil {
			return fmt.Errorf("bind: %w", err)
		}
		e := entry{disk: d, device: true, Mounted: mount.Mounted{Target: target, Source: "devtmpfs", Root: "/" + d.name, FSType: "devtmpfs"}}
		return m.add(e, func() error {
			if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
				return err
			}
			f, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY, 0o660)
			if err != nil {
				return err
			}
			return f.Close()
		})
	})
}

// add makes the mount point and enters the mount, unless it is there already. Something else there is an error.
func (m *Machine) add(e entry, makePoint func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if top := m.topLocked(e.Target); top != nil {
		if top.disk != e.disk || top.device != e.device || top.ReadOnly != e.ReadOnly {
			return fmt.Errorf("mount %s at %s: %w: %s, read-only: %t", e.Source, e.Target, mount.ErrOtherMount, top.Source, top.ReadOnly)
		}
		return nil
	}
	if err := makePoint(); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	m.table = append(m.table, e)
	return nil
}

// Unmount implements node.Mounts: absent is success. A fault before it is an umount that failed, as with EBUSY.
func (m *Machine) Unmount(_ context.Context, target string) error {
	target, err := clean(target)
	if err != nil {
		return err
	}
	m.mu.Lock()
	mounted := m.topLocked(target) != nil
	m.mu.Unlock()
	if !mounted {
		return nil
	}
	if err := m.fault(OpUnmount, Before); err != nil {
		return fmt.Errorf("unmount %s: %w: %w", target, mount.ErrStillMounted, err)
	}
	m.mu.Lock()
	m.table = slices.DeleteFunc(m.table, func(e entry) bool { return e.Target == target })
	m.mu.Unlock()
	return m.fault(OpUnmount, After)
}

// Remove implements node.Mounts.
func (m *Machine) Remove(target string) error {
	return m.perform(OpRemove, func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if top := m.topLocked(filepath.Clean(target)); top != nil {
			return fmt.Errorf("remove %s: %w: %s", target, mount.ErrStillMounted, top.Source)
		}
		if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove mount point: %w", err)
		}
		return nil
	})
}

// Mounts implements node.Mounts.
func (m *Machine) Mounts(path string) ([]mount.Mounted, error) {
	return do(m, OpMounts, func() ([]mount.Mounted, error) {
		path, err := clean(path)
		if err != nil {
			return nil, err
		}
		var at []mount.Mounted
		for _, e := range m.All() {
			if e.Target == path {
				at = append(at, e)
			}
		}
		return at, nil
	})
}

// All lists every mount of the machine in the order in which they were made.
func (m *Machine) All() []mount.Mounted {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]mount.Mounted, 0, len(m.table))
	for _, e := range m.table {
		all = append(all, e.Mounted)
	}
	return all
}

// Attached lists the NQNs of the attached devices in order.
func (m *Machine) Attached() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.disks))
}

// uses says whether a disk is mounted anywhere as a file system, or has a mapping on it.
func (m *Machine) uses(d *disk) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.usesLocked(d)
}

func (m *Machine) usesLocked(d *disk) bool {
	for _, mapping := range m.mappings {
		if mapping.luks.below == d {
			return true
		}
	}
	return slices.ContainsFunc(m.table, func(e entry) bool { return e.disk == d && !e.device })
}

// topLocked returns what is mounted at path, or nil.
func (m *Machine) topLocked(path string) *entry {
	for i := range m.table {
		if m.table[i].Target == path {
			return &m.table[i]
		}
	}
	return nil
}

func clean(path string) (string, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) == "/" {
		return "", fmt.Errorf("%w: path %q: want an absolute one below /", mount.ErrInvalid, path)
	}
	return filepath.Clean(path), nil
}
