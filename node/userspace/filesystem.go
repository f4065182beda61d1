package userspace

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"strings"

	"github.com/holdfast-csi/holdfast/node/mount"
)

// The pretend file system:
//
//	offset   bytes
//	0        4096   superblock: magic, type ("ext4" or "xfs"), size of the device, CRC-32C of all that
//	4096     4096   a table that is written before the superblock, as mkfs does
//	1 MiB           the one file's data
const (
	superblockBytes = 4096
	reservedBytes   = 1 << 20

	offType  = 16
	offSize  = 32
	offCheck = superblockBytes - 4
)

var magic = []byte("holdfast-pretend")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// What must be zero for a device to be blank: all that the file system keeps for itself and the first of what it leaves to its
// file, and the device's tail, where others keep their marks.
const (
	probedHead = reservedBytes + 64<<10
	probedTail = 64 << 10
)

func superblock(fsType string, size int64) []byte {
	b := make([]byte, superblockBytes)
	copy(b, magic)
	copy(b[offType:offSize], fsType)
	binary.LittleEndian.PutUint64(b[offSize:], uint64(size))
	binary.LittleEndian.PutUint32(b[offCheck:], crc32.Checksum(b[:offCheck], castagnoli))
	return b
}

// parseSuperblock returns the type of the file system, or "" if this is none.
func parseSuperblock(b []byte) string {
	if !bytes.HasPrefix(b, magic) || binary.LittleEndian.Uint32(b[offCheck:]) != crc32.Checksum(b[:offCheck], castagnoli) {
		return ""
	}
	return strings.TrimRight(string(b[offType:offSize]), "\x00")
}

// Probe implements node.FileSystems. It reads the device over NVMe/TCP; blank is what reads zero.
func (m *Machine) Probe(ctx context.Context, device string) (mount.Content, error) {
	return do(m, OpProbe, func() (mount.Content, error) {
		d, err := m.device(device)
		if err != nil {
			return mount.Content{}, fmt.Errorf("probe: %w", err)
		}
		return probe(ctx, d)
	})
}

func probe(ctx context.Context, d *disk) (mount.Content, error) {
	size := d.sizeBytes()
	if size < probedHead+probedTail {
		return mount.Content{}, fmt.Errorf("probe %s: it has %d bytes, which no volume has", d.path, size)
	}
	head, tail := make([]byte, probedHead), make([]byte, probedTail)
	if err := errors.Join(d.readAt(ctx, head, 0), d.readAt(ctx, tail, size-int64(len(tail)))); err != nil {
		return mount.Content{}, fmt.Errorf("probe %s: %w", d.path, err)
	}
	c := mount.Content{SizeBytes: size, FSType: parseSuperblock(head)}
	if isLUKS(head) {
		c.FSType = mount.LUKSType
	}
	if d.luks != nil { // what it reads where nothing was written means nothing
		if err := errors.Join(d.readBelow(ctx, head, 0), d.readBelow(ctx, tail, size-int64(len(tail)))); err != nil {
			return mount.Content{}, fmt.Errorf("probe below %s: %w", d.path, err)
		}
	}
	c.Blank = c.FSType == "" && zero(head) && zero(tail)
	return c, nil
}

func zero(b []byte) bool { return bytes.Count(b, []byte{0}) == len(b) }

// Format implements node.FileSystems with the rules of mount.Mounter: only a blank device, or one on which a mkfs was cut short.
func (m *Machine) Format(ctx context.Context, device string, o mount.FormatOptions) error {
	return m.perform(OpFormat, func() error {
		if o.FSType != mount.Ext4 && o.FSType != mount.XFS {
			return fmt.Errorf("%w: file system type %q: want ext4 or xfs", mount.ErrInvalid, o.FSType)
		}
		d, err := m.device(device)
		if err != nil {
			return fmt.Errorf("format: %w", err)
		}
		c, err := probe(ctx, d)
		switch {
		case err != nil:
			return fmt.Errorf("format: %w", err)
		case !c.Blank && !o.Unfinished:
			return fmt.Errorf("format %s: %w: type %q", device, mount.ErrNotBlank, c.FSType)
		case m.uses(d):
			return fmt.Errorf("format %s: %w: it is mounted", device, mount.ErrNotBlank)
		}
		return m.write(ctx, d, o.FSType)
	})
}

// write puts a file system on a disk, its superblock last.
func (m *Machine) write(ctx context.Context, d *disk, fsType string) error {
	f := &File{disk: d}
	if err := f.WriteAt(ctx, bytes.Repeat([]byte{0xf5}, superblockBytes), superblockBytes); err != nil {
		return fmt.Errorf("format %s: %w", d.path, err)
	}
	if err := m.fault(OpFormat, Midway); err != nil {
		return err
	}
	if err := f.WriteAt(ctx, superblock(fsType, d.sizeBytes()), 0); err != nil {
		return fmt.Errorf("format %s: %w", d.path, err)
	}
	return f.Flush(ctx)
}

// Resize implements node.FileSystems: the superblock gets the size of the device.
func (m *Machine) Resize(ctx context.Context, device, mountPoint string) error {
	return m.perform(OpResize, func() error {
		d, err := m.device(device)
		if err != nil {
			return fmt.Errorf("resize: %w", err)
		}
		m.mu.Lock()
		e := m.topLocked(filepath.Clean(mountPoint))
		m.mu.Unlock()
		switch {
		case e == nil || e.device:
			return fmt.Errorf("resize %s: %s: %w", device, mountPoint, mount.ErrNotMounted)
		case e.disk != d:
			return fmt.Errorf("resize %s: %s: %w: %s", device, mountPoint, mount.ErrOtherMount, e.Source)
		}
		f := &File{disk: d}
		if err := f.WriteAt(ctx, superblock(e.FSType, d.sizeBytes()), 0); err != nil {
			return fmt.Errorf("resize %s: %w", device, err)
		}
		return f.Flush(ctx)
	})
}

// FileSystemBytes returns the size that the file system on a device was made for or last grown to.
func (m *Machine) FileSystemBytes(ctx context.Context, device string) (int64, error) {
	d, err := m.device(device)
	if err != nil {
		return 0, err
	}
	b := make([]byte, superblockBytes)
	if err := d.readAt(ctx, b, 0); err != nil {
		return 0, fmt.Errorf("read the superblock of %s: %w", device, err)
	}
	if parseSuperblock(b) == "" {
		return 0, fmt.Errorf("%s holds no file system", device)
	}
	return int64(binary.LittleEndian.Uint64(b[offSize:])), nil
}

// Stats implements node.FileSystems. The file takes up all the space there is.
func (m *Machine) Stats(_ context.Context, path string) (mount.Usage, error) {
	return do(m, OpStats, func() (mount.Usage, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		e := m.topLocked(filepath.Clean(path))
		if e == nil || e.device {
			return mount.Usage{}, fmt.Errorf("%s: %w", path, mount.ErrNotMounted)
		}
		total := e.disk.sizeBytes()
		return mount.Usage{TotalBytes: total, UsedBytes: reservedBytes, AvailableBytes: total - reservedBytes, TotalInodes: 1, UsedInodes: 1}, nil
	})
}

// InUse implements node.FileSystems: a device is in use while something is mounted from it, or a mapping on it is open.
func (m *Machine) InUse(_ context.Context, device string) (bool, error) {
	d, err := m.device(device)
	if err != nil {
		return false, err
	}
	return m.uses(d), nil
}

// Trim implements node.FileSystems. The pretend file system doesn't know what is free in it, and discards nothing.
func (m *Machine) Trim(_ context.Context, path string) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.topLocked(filepath.Clean(path)); e == nil || e.device {
		return 0, fmt.Errorf("%s: %w", path, mount.ErrNotMounted)
	}
	return 0, nil
}
