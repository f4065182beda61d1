package nvmeof

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Controller states, as the kernel's drivers/nvme/host/sysfs.c (before 6.5:
// core.c) spells them.
const (
	StateLive       = "live"
	StateConnecting = "connecting"
	StateResetting  = "resetting"
	StateDeleting   = "deleting"
)

// Controller is one connection of the kernel to a target.
type Controller struct {
	Name    string // the kernel's name for it, e.g. nvme3; good for log lines only
	NQN     string // subsystem NQN; not a name until the target has first answered
	Address string // IP:port of the target's listener
	State   string // live, connecting, resetting, deleting, "deleting (no IO)", dead or new
	HostNQN string // the identity it was connected with; empty where the kernel does not say
	HostID  string // likewise
	CNTLID  int    // controller ID that the target gave
}

// goingAway: it serves no I/O any more and its name will vanish.
func (c Controller) goingAway() bool {
	return strings.HasPrefix(c.State, StateDeleting) || c.State == "dead"
}

var (
	controllerName = regexp.MustCompile(`^nvme\d+$`)
	diskName       = regexp.MustCompile(`^nvme\d+n\d+$`)     // a block device: multipath head, or plain namespace
	pathName       = regexp.MustCompile(`^nvme\d+c\d+n\d+$`) // one path below a multipath head
	subsystemName  = regexp.MustCompile(`^nvme-subsys\d+$`)
)

func (h *Host) controllerDir(name string) string {
	return filepath.Join(h.sysRoot, "class", "nvme", name)
}

// readAttr reads a sysfs attribute without its white space.
func readAttr(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.TrimSpace(string(b)), err
}

// vanished: the object behind an attribute went away while it was read.
func vanished(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}

// list returns the names in dir that match, sorted by number, and nothing where
// dir is absent.
func list(dir string, match *regexp.Regexp) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !vanished(err) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if match.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	return names, nil
}

// controllers lists the NVMe/TCP controllers that keep accepts. complete is
// false when one was seen that could not be read because it is just coming or
// going: nobody may conclude then that something is absent.
func (h *Host) controllers(keep func(nqn string) bool) (ctrls []Controller, complete bool, err error) {
	dir := filepath.Join(h.sysRoot, "class", "nvme")
	names, err := list(dir, controllerName)
	if err != nil {
		return nil, false, fmt.Errorf("list NVMe controllers: %w", err)
	}
	complete = true
	for _, name := range names {
		c, err := h.readController(name, keep)
		if vanished(err) {
			if _, statErr := os.Lstat(h.controllerDir(name)); !errors.Is(statErr, fs.ErrNotExist) {
				complete = false
			}
			continue
		}
		if err != nil {
			return nil, false, fmt.Errorf("read NVMe controller %s: %w", name, err)
		}
		if c != nil {
			ctrls = append(ctrls, *c)
		}
	}
	return ctrls, complete, nil
}

// anyNQN keeps every controller.
func anyNQN(string) bool { return true }

// readController returns nil for a controller of another transport, or whose NQN isn't to be kept: of the hundreds that there may be
// one attribute is read.
func (h *Host) readController(name string, keep func(nqn string) bool) (*Controller, error) {
	dir := h.controllerDir(name)
	c := &Controller{Name: name}
	var err error
	if c.NQN, err = readAttr(filepath.Join(dir, "subsysnqn")); err != nil || !keep(c.NQN) {
		return nil, err
	}
	transport, err := readAttr(filepath.Join(dir, "transport"))
	if err != nil || transport != "tcp" {
		return nil, err
	}
	var address, cntlid string
	for _, a := range []struct {
		attr string
		to   *string
	}{{"address", &address}, {"state", &c.State}, {"cntlid", &cntlid}} {
		if *a.to, err = readAttr(filepath.Join(dir, a.attr)); err != nil {
			return nil, err
		}
	}
	c.Address = addressFromAttr(address)
	c.CNTLID, _ = strconv.Atoi(cntlid)
	// Since Linux 5.7; identity is compared only where the kernel tells it.
	c.HostNQN, _ = readAttr(filepath.Join(dir, "hostnqn"))
	c.HostID, _ = readAttr(filepath.Join(dir, "hostid"))
	return c, nil
}

// addressFromAttr turns "traddr=10.0.0.1,trsvcid=4420,src_addr=10.0.0.2" into
// 10.0.0.1:4420.
func addressFromAttr(attr string) string {
	var traddr, trsvcid string
	for _, part := range strings.Split(attr, ",") {
		switch key, value, _ := strings.Cut(strings.TrimSpace(part), "="); key {
		case "traddr":
			traddr = value
		case "trsvcid":
			trsvcid = value
		}
	}
	return net.JoinHostPort(traddr, trsvcid)
}

// byNQN lists the controllers of one subsystem.
func (h *Host) byNQN(nqn string) ([]Controller, bool, error) {
	return h.controllers(func(n string) bool { return n == nqn })
}

// Controllers lists the NVMe/TCP controllers whose subsystem NQN begins with
// prefix: how a driver finds connections of its own that nothing uses any more.
// One that has yet to hear from its target for the first time has no NQN that
// sysfs could tell; it is listed, or is gone, a minute later.
func (h *Host) Controllers(prefix string) ([]Controller, error) {
	ctrls, _, err := h.controllers(func(n string) bool { return strings.HasPrefix(n, prefix) })
	return ctrls, err
}

// multipathOff reports nvme_core.multipath=N. A kernel built without multipath
// has no such parameter.
func (h *Host) multipathOff() bool {
	v, err := readAttr(filepath.Join(h.sysRoot, "module", "nvme_core", "parameters", "multipath"))
	return err != nil || v == "N"
}
