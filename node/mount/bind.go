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

	mountutils "k8s.io/mount-utils"
)

// BindMount makes the directory source appear at the directory target, which is
// made if need be. Idempotent.
func (m *Mounter) BindMount(ctx context.Context, source, target string, readOnly bool) error {
	target, err := resolve(target)
	if err != nil {
		return err
	}
	return m.bind(ctx, source, target, readOnly, nil, func() error { return os.MkdirAll(target, 0o750) })
}

// BindDevice makes a block device appear at the file target, which is made if
// need be: a raw block volume. Idempotent for the same device name; a device
// that was renamed by a reconnect is ErrOtherMount.
func (m *Mounter) BindDevice(ctx context.Context, device, target string) error {
	target, err := resolve(target)
	if err != nil {
		return err
	}
	if _, _, err := m.number(device); err != nil {
		return err
	}
	// mount(8) would take another node of an open LUKS device, by its name in /dev/mapper.
	return m.bind(ctx, device, target, false, []string{"--no-canonicalize"}, func() error {
		if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
			return err
		}
		f, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY, 0o660)
		if err != nil {
			return err
		}
		return f.Close()
	})
}

// bind binds source at target, with further arguments for mount(8). Read-only takes a second step: the kernel ignores
// ro in the call that binds. A crash in between is found by the next try.
func (m *Mounter) bind(ctx context.Context, source, target string, readOnly bool, more []string, makeTarget func() error) error {
	fail := func(err error) error { return fmt.Errorf("bind %s at %s: %w", source, target, err) }
	top, err := m.sameBind(source, target)
	if err != nil {
		return fail(err)
	}
	if top == nil {
		if err := makeTarget(); err != nil {
			return fail(err)
		}
		args := append(slices.Clone(more), mountutils.MakeMountArgs(source, target, "", []string{"bind"})...)
		if _, err := m.run(ctx, targetKey(target), "mount", args...); err != nil {
			return fail(err)
		}
		if top, err = m.sameBind(source, target); err == nil && top == nil {
			err = errors.New("mount succeeded, but mountinfo does not show it")
		}
		if err != nil {
			return fail(err)
		}
	}
	if top.ReadOnly || !readOnly {
		return nil
	}
	if _, err := m.run(ctx, targetKey(target), "mount", mountutils.MakeMountArgs("", target, "", []string{"remount", "bind", "ro"})...); err != nil {
		return fail(err)
	}
	if top, err = m.sameBind(source, target); err == nil && (top == nil || !top.ReadOnly) {
		err = errors.New("it is not read-only")
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// sameBind returns the uppermost mount at target when that is a bind of source,
// nil when nothing is mounted there, and fails for anything else.
func (m *Mounter) sameBind(source, target string) (*Mounted, error) {
	source, err := resolve(source)
	if err != nil {
		return nil, err
	}
	all, err := m.list()
	if err != nil {
		return nil, err
	}
	var top, holder *Mounted
	for i, e := range all {
		if e.Target == target {
			top = &all[i]
		}
		// The innermost mount that source is in; of those stacked, the last.
		if below(source, e.Target) && (holder == nil || len(e.Target) >= len(holder.Target)) {
			holder = &all[i]
		}
	}
	if top == nil {
		return nil, nil
	}
	if holder != nil && top.Major == holder.Major && top.Minor == holder.Minor &&
		top.Root == filepath.Join(holder.Root, strings.TrimPrefix(source, holder.Target)) {
		return top, nil
	}
	return nil, fmt.Errorf("%w: %s %s, root %s", ErrOtherMount, top.FSType, top.Source, top.Root)
}

// below reports whether path is dir or in it.
func below(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// Remove removes the file or empty directory that was a mount point; absent is
// success. It refuses while something is mounted there.
func (m *Mounter) Remove(target string) error {
	at, err := m.Mounts(target)
	if err != nil {
		return err
	}
	if len(at) > 0 {
		return fmt.Errorf("remove %s: %w: %s", target, ErrStillMounted, at[len(at)-1].Source)
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove mount point: %w", err)
	}
	return nil
}
