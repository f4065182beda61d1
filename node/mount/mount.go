// Package mount owns what is done to a volume's block device and mount points on
// this machine: probing, encrypting, formatting, checking, mounting, binding,
// unmounting, growing and measuring. It is a narrow seam over
// k8s.io/mount-utils, k8s.io/utils/exec and the tools of util-linux, e2fsprogs,
// xfsprogs and cryptsetup.
//
// Three rules hold for all of it:
//
//   - What is mounted is read from mountinfo, never inferred from stat, which
//     fails or hangs where a device is dead.
//   - A device is called blank only when that was positively read.
//   - A command that was started is never killed, as a killed mkfs or resize2fs
//     does harm and one in uninterruptible sleep would not die. A context bounds
//     the wait for it; it goes on, a retry joins it, and Close waits for it.
package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	mountutils "k8s.io/mount-utils"
	utilexec "k8s.io/utils/exec"
)

// Sentinel errors; decide with errors.Is.
var (
	// ErrNotBlank: the device holds something, so it is not formatted.
	ErrNotBlank = errors.New("the device is not blank")
	// ErrOtherMount: something else is mounted at the target.
	ErrOtherMount = errors.New("something else is mounted there")
	// ErrNotMounted: nothing is mounted at the path.
	ErrNotMounted = errors.New("not mounted")
	// ErrStillMounted: mountinfo shows the target mounted after all attempts.
	ErrStillMounted = errors.New("still mounted")
	// ErrInvalid: a file system type, mount flag or path is refused.
	ErrInvalid = errors.New("invalid mount parameter")
	// ErrCorrupt: a file system check could not repair the device, or a mount
	// point answers with an I/O error.
	ErrCorrupt = errors.New("damaged file system")
)

// File system types.
const (
	Ext4 = "ext4"
	XFS  = "xfs"
)

// Options configure a Mounter. The zero value is right for a real machine.
type Options struct {
	// Exec runs commands; default the real thing.
	Exec utilexec.Interface
	// MountInfo is the file that tells what is mounted; default
	// /proc/self/mountinfo.
	MountInfo string
	// SysRoot is where sysfs is; default /sys.
	SysRoot string
	// DevRoot is where device nodes are; default /dev.
	DevRoot string
	// KeySlotMiB is the memory that it takes to derive the key of an encrypted
	// device that is made; default DefaultKeySlotMiB.
	KeySlotMiB int
}

// Mounter does mounts. It is safe for concurrent use; callers serialize
// operations on one volume.
type Mounter struct {
	exec      utilexec.Interface
	mountInfo string
	sysRoot   string
	devRoot   string
	jobs      jobs
	luks      luks
	number    func(device string) (major, minor int, err error)
	statfs    func(path string, st *unix.Statfs_t) error
}

// New returns a Mounter.
func New(o Options) *Mounter {
	if o.Exec == nil {
		o.Exec = utilexec.New()
	}
	if o.MountInfo == "" {
		o.MountInfo = "/proc/self/mountinfo"
	}
	if o.SysRoot == "" {
		o.SysRoot = "/sys"
	}
	if o.DevRoot == "" {
		o.DevRoot = "/dev"
	}
	if o.KeySlotMiB == 0 {
		o.KeySlotMiB = DefaultKeySlotMiB
	}
	return &Mounter{
		exec: o.Exec, mountInfo: o.MountInfo, sysRoot: o.SysRoot, devRoot: o.DevRoot,
		luks: luks{memoryMiB: o.KeySlotMiB, deriving: make(chan struct{}, 1)}, number: deviceNumber, statfs: unix.Statfs,
	}
}

// Close waits until no command is running any more, or ctx ends. No method may
// be called after it.
func (m *Mounter) Close(ctx context.Context) error { return m.jobs.wait(ctx) }

// Mount mounts device, which must hold a file system of type fsType (ext4 or
// xfs), at the directory target, which is made if need be. It is idempotent:
// the same device there already is success.
//
// ext4 is checked first (e2fsck -p), unless readOnly or mounted elsewhere, and
// is mounted with errors=remount-ro, so that damage shows, unless flags say
// otherwise. xfs is mounted with nouuid: a clone shares its source's UUID.
func (m *Mounter) Mount(ctx context.Context, device, target, fsType string, flags []string, readOnly bool) error {
	if fsType != Ext4 && fsType != XFS {
		return fmt.Errorf("%w: file system type %q: want ext4 or xfs", ErrInvalid, fsType)
	}
	if err := ValidateFlags(flags); err != nil {
		return err
	}
	target, err := resolve(target)
	if err != nil {
		return err
	}
	major, minor, err := m.number(device)
	if err != nil {
		return err
	}
	options := mountOptions(fsType, flags, readOnly)
	mounted, err := m.sameMount(target, device, fsType, major, minor, slices.Contains(options, "ro"))
	if err != nil || mounted {
		return err
	}
	if err := os.MkdirAll(target, 0o750); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	if fsType == Ext4 && !readOnly {
		if err := m.check(ctx, device, major, minor); err != nil {
			return err
		}
	}
	if _, err := m.run(ctx, targetKey(target), "mount", mountutils.MakeMountArgs(device, target, fsType, options)...); err != nil {
		return fmt.Errorf("mount %s at %s: %w", device, target, err)
	}
	mounted, err = m.sameMount(target, device, fsType, major, minor, slices.Contains(options, "ro"))
	if err == nil && !mounted {
		err = fmt.Errorf("mount %s at %s: mount succeeded, but mountinfo does not show it", device, target)
	}
	return err
}

// sameMount reports whether the uppermost mount at target is that device's file
// system, and fails when it is something else.
func (m *Mounter) sameMount(target, device, fsType string, major, minor int, readOnly bool) (bool, error) {
	at, err := m.Mounts(target)
	if err != nil || len(at) == 0 {
		return false, err
	}
	top := at[len(at)-1]
	if top.Major != major || top.Minor != minor || top.FSType != fsType || top.Root != "/" {
		return false, fmt.Errorf("mount %s at %s: %w: %s %s", device, target, ErrOtherMount, top.FSType, top.Source)
	}
	// A file system that damage made read-only still has its mount point rw.
	if top.ReadOnly != readOnly {
		return false, fmt.Errorf("mount %s at %s: %w: the same device, but read-only is %v", device, target, ErrOtherMount, top.ReadOnly)
	}
	return true, nil
}

func mountOptions(fsType string, flags []string, readOnly bool) []string {
	options := slices.Clone(flags)
	if fsType == XFS && !slices.Contains(options, "nouuid") {
		options = append(options, "nouuid")
	}
	if fsType == Ext4 && !slices.ContainsFunc(options, func(f string) bool { return strings.HasPrefix(f, "errors=") }) {
		options = append(options, "errors=remount-ro")
	}
	if readOnly && !slices.Contains(options, "ro") {
		options = append(options, "ro")
	}
	return options
}

// forbiddenFlags change what is mounted, or where, instead of how.
var forbiddenFlags = []string{
	"bind", "rbind", "move", "remount", "loop", "offset", "sizelimit",
	"shared", "rshared", "private", "rprivate", "slave", "rslave", "unbindable", "runbindable",
	"user", "users", "owner", "group", "helper", "uhelper", "ro", "rw", "X-mount.subdir", "x-mount.mkdir", "X-mount.mkdir",
}

// quoted is a value in quotes, in which mount(8) takes a comma for itself, as the
// SELinux contexts that kubelet passes have them.
var quoted = regexp.MustCompile(`="[^"\s]*"$`)

// ValidateFlags refuses mount flags that are malformed or that would change more
// than how the volume's own file system behaves. Read-only is a parameter, not a
// flag. The error wraps ErrInvalid.
func ValidateFlags(flags []string) error {
	for _, f := range flags {
		if f == "" || strings.ContainsAny(quoted.ReplaceAllString(f, ""), ", \t\r\n\\\"\x00") {
			return fmt.Errorf("%w: mount flag %q: want one option without commas or white space", ErrInvalid, f)
		}
		name, _, _ := strings.Cut(f, "=")
		if slices.Contains(forbiddenFlags, name) {
			return fmt.Errorf("%w: mount flag %q is not allowed for a volume", ErrInvalid, f)
		}
	}
	return nil
}

// deviceNumber reads the number of a block device's node, which does not touch
// the device itself.
func deviceNumber(device string) (major, minor int, err error) {
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return 0, 0, fmt.Errorf("look at device %s: %w", device, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, 0, fmt.Errorf("%w: %s is not a block device", ErrInvalid, device)
	}
	return int(unix.Major(st.Rdev)), int(unix.Minor(st.Rdev)), nil
}
