package nvmeof

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// Device is the block device of a connected namespace.
type Device struct {
	Path      string // e.g. /dev/nvme3n1; valid until the next reconnect
	Name      string // e.g. nvme3n1
	UUID      uuid.UUID
	NSID      int
	SizeBytes int64
	BlockSize int // logical block, bytes
	Major     uint32
	Minor     uint32
	ReadOnly  bool
}

// namespace is a namespace as sysfs shows it: a disk of a controller or of a
// multipath subsystem, or one path below the latter.
type namespace struct {
	name, dir  string
	uuid       uuid.UUID
	nsid       int
	controller string // empty for a multipath head
}

// Device finds the block device of namespace nsUUID of subsystem nqn. It does
// not open the device, so it answers even where the target is dead. It answers
// ErrNotConnected when there is none, and waits within ctx for a device node
// that lags behind sysfs.
func (h *Host) Device(ctx context.Context, nqn string, nsUUID uuid.UUID) (Device, error) {
	ns, err := h.findDisk(nqn, nsUUID)
	if err != nil {
		return Device{}, err
	}
	dev, err := h.readDisk(ns)
	if err != nil {
		if vanished(err) {
			return Device{}, fmt.Errorf("namespace %s of %s: %w", nsUUID, nqn, ErrNotConnected)
		}
		return Device{}, err
	}
	err = h.poller(ctx, func() (bool, string, error) {
		why, err := h.checkNode(dev)
		return err == nil && why == "", why, err
	})
	return dev, err
}

// findDisk looks the namespace's disk up, or answers ErrNotConnected with what
// there is instead.
func (h *Host) findDisk(nqn string, nsUUID uuid.UUID) (namespace, error) {
	ctrls, _, err := h.byNQN(nqn)
	if err != nil {
		return namespace{}, err
	}
	disks, err := h.disks(nqn, ctrls)
	if err != nil {
		return namespace{}, err
	}
	var found *namespace
	var others []string
	for i, d := range disks {
		switch {
		case d.uuid != nsUUID:
			others = append(others, d.uuid.String())
		case found == nil || (!serves(ctrls, *found) && serves(ctrls, d)):
			found = &disks[i]
		}
	}
	if found != nil {
		return *found, nil
	}
	what := "no namespace"
	if len(others) > 0 {
		what = "only other namespaces (" + strings.Join(others, ", ") + ")"
	}
	return namespace{}, fmt.Errorf("namespace %s of %s: %d controllers, %s: %w", nsUUID, nqn, len(ctrls), what, ErrNotConnected)
}

// serves: d is a multipath head, or its controller is live. It chooses among the
// several disks that one namespace has with multipath off.
func serves(ctrls []Controller, d namespace) bool {
	if d.controller == "" {
		return true
	}
	for _, c := range ctrls {
		if c.Name == d.controller {
			return c.State == StateLive
		}
	}
	return false
}

// disks lists the block devices of a subsystem: its multipath heads, which live
// in the subsystem's directory, and plain disks, in their controller's.
func (h *Host) disks(nqn string, ctrls []Controller) ([]namespace, error) {
	var all []namespace
	subsystems := filepath.Join(h.sysRoot, "class", "nvme-subsystem")
	names, err := list(subsystems, subsystemName)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		dir := filepath.Join(subsystems, name)
		if got, err := readAttr(filepath.Join(dir, "subsysnqn")); err != nil || got != nqn {
			if err != nil && !vanished(err) {
				return nil, err
			}
			continue
		}
		heads, err := h.namespaces(dir, diskName, "")
		if err != nil {
			return nil, err
		}
		all = append(all, heads...)
	}
	for _, c := range ctrls {
		plain, err := h.namespaces(h.controllerDir(c.Name), diskName, c.Name)
		if err != nil {
			return nil, err
		}
		all = append(all, plain...)
	}
	return all, nil
}

// namespaces reads those in dir; one that vanishes meanwhile is left out.
func (h *Host) namespaces(dir string, match *regexp.Regexp, controller string) ([]namespace, error) {
	names, err := list(dir, match)
	if err != nil {
		return nil, err
	}
	var all []namespace
	for _, name := range names {
		ns := namespace{name: name, dir: filepath.Join(dir, name), controller: controller}
		id, err := readAttr(filepath.Join(ns.dir, "uuid"))
		if vanished(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read UUID of %s: %w", name, err)
		}
		// Without a UUID the kernel prints the NGUID here, or all zeroes; neither
		// is a namespace of ours.
		if ns.uuid, err = uuid.Parse(id); err != nil {
			ns.uuid = uuid.Nil
		}
		nsid, err := readAttr(filepath.Join(ns.dir, "nsid"))
		if err == nil {
			ns.nsid, _ = strconv.Atoi(nsid)
		}
		all = append(all, ns)
	}
	return all, nil
}

// readDisk reads a disk's geometry.
func (h *Host) readDisk(ns namespace) (Device, error) {
	d := Device{Path: filepath.Join(h.devRoot, ns.name), Name: ns.name, UUID: ns.uuid, NSID: ns.nsid}
	read := func(attr string) (int64, error) {
		v, err := readAttr(filepath.Join(ns.dir, attr))
		if err != nil {
			return 0, err
		}
		return strconv.ParseInt(v, 10, 64)
	}
	sectors, err := read("size") // always units of 512 bytes
	if err != nil {
		return d, err
	}
	block, err := read(filepath.Join("queue", "logical_block_size"))
	if err != nil {
		return d, err
	}
	ro, err := read("ro")
	if err != nil {
		return d, err
	}
	devt, err := readAttr(filepath.Join(ns.dir, "dev"))
	if err != nil {
		return d, err
	}
	if _, err := fmt.Sscanf(devt, "%d:%d", &d.Major, &d.Minor); err != nil {
		return d, fmt.Errorf("device number %q of %s: %w", devt, ns.name, err)
	}
	d.SizeBytes, d.BlockSize, d.ReadOnly = sectors*512, int(block), ro != 0
	return d, nil
}

// checkNode says what is wrong with the device node, or nothing. A node may lag
// behind sysfs, and in a container whose /dev is a copy it may be a stale one.
func (h *Host) checkNode(d Device) (why string, err error) {
	n, err := h.statNode(d.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("%s does not exist; in a container, mount the machine's /dev", d.Path), nil
	case err != nil:
		return "", fmt.Errorf("check device node: %w", err)
	case !n.block || n.major != d.Major || n.minor != d.Minor:
		return fmt.Sprintf("%s is not block device %d:%d; in a container, mount the machine's /dev", d.Path, d.Major, d.Minor), nil
	}
	return "", nil
}
