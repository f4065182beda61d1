package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Mapping is an open LUKS device: what is written to it is encrypted on the device below.
type Mapping struct {
	Name string // device mapper's
	Path string // e.g. /dev/dm-2; valid while it is open
	// Below is the name of the device below when the mapping was opened, e.g. nvme3n1. The kernel gives the name to no other device while
	// the mapping is open, even if the device is gone.
	Below     string
	SizeBytes int64
	ReadOnly  bool
}

const (
	mappingPrefix = "dm-"
	// luksUUIDPrefix starts what cryptsetup has the device mapper keep as the UUID of an open LUKS2 device.
	luksUUIDPrefix = "CRYPT-LUKS2-"
)

// Mapping looks an open LUKS device up by its name. It reads sysfs and touches no device.
func (m *Mounter) Mapping(name string) (at Mapping, open bool, err error) {
	entries, err := os.ReadDir(filepath.Join(m.sysRoot, "class", "block"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Mapping{}, false, fmt.Errorf("list block devices: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), mappingPrefix) {
			continue
		}
		got, err := m.attribute(e.Name(), "dm/name")
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has just gone
		}
		if err != nil {
			return Mapping{}, false, err
		}
		if got != name {
			continue
		}
		at, err := m.readMapping(e.Name(), name)
		if err != nil {
			return Mapping{}, false, fmt.Errorf("look at mapping %s: %w", name, err)
		}
		return at, true, nil
	}
	return Mapping{}, false, nil
}

func (m *Mounter) readMapping(device, name string) (Mapping, error) {
	at := Mapping{Name: name, Path: m.devicePath(device)}
	kind, err := m.attribute(device, "dm/uuid")
	if err != nil {
		return at, err
	}
	if !strings.HasPrefix(kind, luksUUIDPrefix) {
		return at, fmt.Errorf("%w: it is no LUKS2 device, its UUID is %q; somebody else has made it: remove it", ErrInvalid, kind)
	}
	if at.Below, err = m.belowOf(device); err != nil {
		return at, err
	}
	if at.SizeBytes, err = m.blockBytes(device); err != nil {
		return at, err
	}
	readOnly, err := m.attribute(device, "ro")
	at.ReadOnly = readOnly != "0"
	return at, err
}

// mappingOn is Mapping for one that must be on a device, and as read-only as is wanted, if it is open.
func (m *Mounter) mappingOn(device, name string, readOnly bool) (at Mapping, open bool, err error) {
	at, open, err = m.Mapping(name)
	if err == nil && open && (at.Below != filepath.Base(device) || at.ReadOnly != readOnly) {
		err = fmt.Errorf("%w: mapping %s is open on %s, read-only: %t", ErrStillOpen, name, at.Below, at.ReadOnly)
	}
	return at, open, err
}

// belowOf returns the name of the one device that a mapping is on.
func (m *Mounter) belowOf(mapping string) (string, error) {
	below, err := os.ReadDir(filepath.Join(m.sysRoot, "class", "block", mapping, "slaves"))
	if err != nil {
		return "", fmt.Errorf("read what is below %s: %w", mapping, err)
	}
	if len(below) > 1 {
		return "", fmt.Errorf("%w: there are %d devices below %s", ErrInvalid, len(below), mapping)
	}
	if len(below) == 0 {
		return "", nil // it is gone
	}
	return below[0].Name(), nil
}

// encrypted returns the device below an open LUKS device; "" if device is none.
func (m *Mounter) encrypted(device string) (below string, err error) {
	name := filepath.Base(device)
	if !strings.HasPrefix(name, mappingPrefix) {
		return "", nil
	}
	kind, err := m.attribute(name, "dm/uuid")
	if err != nil || !strings.HasPrefix(kind, luksUUIDPrefix) {
		return "", err
	}
	below, err = m.belowOf(name)
	if err == nil && below == "" {
		err = fmt.Errorf("the device below %s is gone", device)
	}
	return m.devicePath(below), err
}

func (m *Mounter) devicePath(name string) string { return filepath.Join(m.devRoot, name) }

func (m *Mounter) blockBytes(device string) (int64, error) {
	text, err := m.attribute(device, "size")
	if err != nil {
		return 0, err
	}
	sectors, err := strconv.ParseInt(text, 10, 64) // always units of 512 bytes
	if err != nil {
		return 0, fmt.Errorf("read the size of %s: %w", device, err)
	}
	return sectors * 512, nil
}

func (m *Mounter) attribute(device, name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(m.sysRoot, "class", "block", device, name))
	if err != nil {
		return "", fmt.Errorf("read attribute %s of %s: %w", name, device, err)
	}
	return strings.TrimSpace(string(b)), nil
}
