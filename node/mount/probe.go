package mount

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Content is what a device holds.
type Content struct {
	FSType    string // or another signature that blkid knows, e.g. LUKSType; empty for none
	UUID      string
	Label     string
	PartTable string // partition table type, e.g. gpt; empty for none
	SizeBytes int64
	// Blank: no signature is known, and everything that was read is zero. It is
	// never inferred from an error. A device that is neither Blank nor has a type
	// holds data of unknown kind.
	Blank bool
}

// Probe reads what device holds. Any doubt is an error: blkid answers 2 for a
// blank device, but also for one that it can't read, so Blank needs our own read
// as well.
//
// An open LUKS device never reads zero where nothing was written. It is blank
// when the data part of the device below reads zero.
func (m *Mounter) Probe(ctx context.Context, device string) (Content, error) {
	below, err := m.encrypted(device)
	if err != nil {
		return Content{}, fmt.Errorf("probe %s: %w", device, err)
	}
	read, from := device, int64(0)
	if below != "" {
		read, from = below, volume.LUKSHeaderBytes
	}
	size, zero, err := m.readZeroes(ctx, read, from)
	if err != nil {
		return Content{}, fmt.Errorf("probe %s: %w", device, err)
	}
	c := Content{SizeBytes: size}
	if below != "" && zero {
		c.Blank = true // what it reads means nothing
		return c, nil
	}
	out, err := m.run(ctx, deviceKey(device), "blkid", "-p", "-o", "export", device)
	switch status := exitStatus(err); {
	case err == nil:
		c.parse(out)
		if c.FSType == "" && c.PartTable == "" {
			return Content{}, fmt.Errorf("probe %s: blkid found something without a type: %q", device, out)
		}
		if zero {
			return Content{}, fmt.Errorf("probe %s: blkid found %s%s where only zeroes were read", device, c.FSType, c.PartTable)
		}
	case status == 2:
		c.Blank = zero // of an open LUKS device it was seen above that something was written
	default:
		return Content{}, fmt.Errorf("probe %s: %w", device, err)
	}
	return c, nil
}

// parse reads blkid's export format: KEY=value lines.
func (c *Content) parse(out string) {
	for _, line := range strings.Split(out, "\n") {
		switch key, value, _ := strings.Cut(strings.TrimSpace(line), "="); key {
		case "TYPE":
			c.FSType = value
		case "UUID":
			c.UUID = value
		case "LABEL":
			c.Label = value
		case "PTTYPE":
			c.PartTable = value
		}
	}
}

const (
	kib = int64(1) << 10
	mib = int64(1) << 20

	directAlign = 4096 // satisfies O_DIRECT for any block size
	windowBytes = 64 * kib
)

// span is a range of bytes of a device.
type span struct{ from, to int64 }

// spans are the places that must all be zero in a blank device: its head and
// tail, where superblocks, partition tables and raid or volume manager labels
// are, and where file systems keep further copies, should the head have been
// wiped: ext4's first backup for blocks of 1, 2 and 4 KiB, btrfs' mirror, and
// the allocation groups of xfs, which are quarters of the device.
func spans(size int64) []span {
	at := []span{{0, 4 * mib}, {size - mib, size}}
	for _, from := range []int64{8 * mib, 32 * mib, 64 * mib, 128 * mib, size / 4, size / 2, size / 4 * 3} {
		at = append(at, span{from, from + windowBytes})
	}
	var clipped []span
	for _, s := range at {
		s.from = max(s.from, 0) / directAlign * directAlign
		s.to = min(s.to, size)
		if s.from < s.to {
			clipped = append(clipped, s)
		}
	}
	return clipped
}

type zeroes struct {
	size int64
	zero bool
}

func (m *Mounter) readZeroes(ctx context.Context, device string, from int64) (size int64, zero bool, err error) {
	what := fmt.Sprintf("read %s from %d", device, from)
	z, err := do(ctx, &m.jobs, deviceKey(device), what, func() (zeroes, error) { return readZeroes(device, from) })
	return z.size, z.zero, err
}

// readZeroes reads the spans of a device, or of what follows its first bytes,
// past the page cache, which may hold what was there before, and reports whether
// all is zero.
func readZeroes(device string, from int64) (zeroes, error) {
	st, err := os.Stat(device)
	if err != nil {
		return zeroes{}, err
	}
	flags := os.O_RDONLY
	if st.Mode()&os.ModeDevice != 0 {
		flags |= unix.O_DIRECT
	}
	f, err := os.OpenFile(device, flags, 0)
	if err != nil {
		return zeroes{}, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return zeroes{}, fmt.Errorf("read its size: %w", err)
	}
	size -= from
	if size < mib {
		return zeroes{}, fmt.Errorf("it has %d bytes, which no volume has", size)
	}
	// Pages of our own: O_DIRECT wants the memory aligned as well.
	buf, err := unix.Mmap(-1, 0, int(4*mib), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return zeroes{}, fmt.Errorf("allocate a buffer: %w", err)
	}
	defer func() { _ = unix.Munmap(buf) }()
	blank := make([]byte, 4*mib)
	z := zeroes{size: size, zero: true}
	for _, s := range spans(size) {
		b := buf[:s.to-s.from]
		if _, err := f.ReadAt(b, from+s.from); err != nil {
			return zeroes{}, fmt.Errorf("read %d bytes at %d: %w", len(b), from+s.from, err)
		}
		z.zero = z.zero && bytes.Equal(b, blank[:len(b)])
	}
	return z, nil
}
