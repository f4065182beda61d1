package mount

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// unusedTail bounds what a file system leaves unused at the end of its device: a last block group of ext4, or allocation group of xfs,
// that is too small for its own tables (lib/ext2fs/initialize.c, resize/resize2fs.c; fs/xfs/xfs_fsops.c).
const unusedTail = 16 * mib

// Resize grows the file system on device, mounted at mountPoint, to the device's size, and reads back that it has it; at full size it
// changes nothing. The device must have its new size already.
func (m *Mounter) Resize(ctx context.Context, device, mountPoint string) error {
	at, err := m.Mounts(mountPoint)
	if err != nil {
		return err
	}
	if len(at) == 0 {
		return fmt.Errorf("resize %s: %s: %w", device, mountPoint, ErrNotMounted)
	}
	top := at[len(at)-1]
	major, minor, err := m.number(device)
	if err != nil {
		return err
	}
	if top.Major != major || top.Minor != minor {
		return fmt.Errorf("resize %s: %s: %w: %s", device, mountPoint, ErrOtherMount, top.Source)
	}
	fs, ok := growers[top.FSType]
	if !ok {
		return fmt.Errorf("resize %s: %w: file system type %q: want ext4 or xfs", device, ErrInvalid, top.FSType)
	}
	if _, err = m.run(ctx, deviceKey(device), fs.grow, fs.argument(device, top.Target)); err != nil {
		return fmt.Errorf("resize the file system on %s: %w", device, err)
	}
	has, err := m.fileSystemBytes(ctx, fs, device, top.Target)
	if err != nil {
		return err
	}
	size, err := m.deviceBytes(major, minor)
	if err == nil && has+unusedTail < size {
		err = fmt.Errorf("resize the file system on %s: %s ended well, but it has %d bytes and the device %d", device, fs.grow, has, size)
	}
	return err
}

// grower says how a file system is grown while it is mounted, and how its size is read.
type grower struct {
	// grow is the command that grows it to the size of its device.
	grow string
	// byMount: the commands take the mount point, not the device.
	byMount bool
	// show is the command that tells its size, in blocks and of which size in bytes.
	show        []string
	blocks, per *regexp.Regexp
}

func (g grower) argument(device, mountPoint string) string {
	if g.byMount {
		return mountPoint
	}
	return device
}

var growers = map[string]grower{
	Ext4: {
		grow: "resize2fs", show: []string{"dumpe2fs", "-h"},
		blocks: regexp.MustCompile(`(?m)^Block count:\s+(\d+)$`), per: regexp.MustCompile(`(?m)^Block size:\s+(\d+)$`),
	},
	XFS: {
		grow: "xfs_growfs", byMount: true, show: []string{"xfs_growfs", "-n"},
		blocks: regexp.MustCompile(`(?m)^data\s+=\s+bsize=\d+\s+blocks=(\d+)`), per: regexp.MustCompile(`(?m)^data\s+=\s+bsize=(\d+)\s`),
	},
}

// fileSystemBytes reads the size of a file system from its own tools.
func (m *Mounter) fileSystemBytes(ctx context.Context, fs grower, device, mountPoint string) (int64, error) {
	args := slices.Concat(fs.show[1:], []string{fs.argument(device, mountPoint)})
	out, err := m.run(ctx, deviceKey(device), fs.show[0], args...)
	if err != nil {
		return 0, fmt.Errorf("read the size of the file system on %s: %w", device, err)
	}
	number := func(of *regexp.Regexp) int64 {
		found := of.FindStringSubmatch(out)
		if found == nil {
			return 0
		}
		n, _ := strconv.ParseInt(found[1], 10, 64) // digits; what is too large for it is no size
		return n
	}
	size := number(fs.blocks) * number(fs.per)
	if size <= 0 {
		return 0, fmt.Errorf("read the size of the file system on %s: %s says %q", device, strings.Join(fs.show, " "), out)
	}
	return size, nil
}

// deviceBytes reads the size of a block device, without opening it.
func (m *Mounter) deviceBytes(major, minor int) (int64, error) {
	attr, err := os.ReadFile(filepath.Join(m.sysRoot, "dev", "block", fmt.Sprintf("%d:%d", major, minor), "size"))
	if err != nil {
		return 0, fmt.Errorf("read the size of device %d:%d: %w", major, minor, err)
	}
	sectors, err := strconv.ParseInt(strings.TrimSpace(string(attr)), 10, 64) // always units of 512 bytes
	if err != nil {
		return 0, fmt.Errorf("read the size of device %d:%d: %w", major, minor, err)
	}
	return sectors * 512, nil
}
