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

// readAttr reads a sysfs attribute, which is never longer than a page, without
// its white space. Thousands are read a second while hundreds of volumes leave a
// raid host: an os.File would cost more than twice the system calls.
func readAttr(path string) (string, error) {
	failed := func(op string, err error) (string, error) { return "", &fs.PathError{Op: op, Path: path, Err: err} }
	fd, err := uninterrupted(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return failed("open", err)
	}
	defer func() { _ = unix.Close(fd) }()
	page := make([]byte, 4096)
	n, err := uninterrupted(func() (int, error) { return unix.Read(fd, page) })
	if err != nil {
		return failed("read", err)
	}
	return strings.TrimSpace(string(page[:n])), nil
}

// uninterrupted makes a system call again when a signal comes in between.
func uninterrupted(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
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

// listing is which controllers there are, of all transports.
type listing struct {
	names []string
	nqns  map[string]string // by name
	// complete is false when one was seen that could not be read because it is
	// just coming or going: nobody may conclude then that something is absent.
	complete bool
	err      error
}

// list reads the name and the NQN of every controller.
func (h *Host) list() listing {
	names, err := list(filepath.Join(h.sysRoot, "class", "nvme"), controllerName)
	l := listing{names: names, nqns: map[string]string{}, complete: true, err: err}
	for _, name := range names {
		nqn, err := readAttr(filepath.Join(h.controllerDir(name), "subsysnqn"))
		switch {
		case err == nil:
			l.nqns[name] = nqn
		case !vanished(err):
			l.err = fmt.Errorf("%s: %w", name, err)
		case h.exists(name):
			l.complete = false
		}
	}
	return l
}

func (h *Host) exists(controller string) bool {
	_, err := os.Lstat(h.controllerDir(controller))
	return !errors.Is(err, fs.ErrNotExist)
}

// controllers lists the NVMe/TCP controllers that keep accepts. complete is as
// in listing, which callers share: hundreds of volumes may look at once.
func (h *Host) controllers(keep func(nqn string) bool) (ctrls []Controller, complete bool, err error) {
	l := h.listings.Do(h.list)
	if l.err != nil {
		return nil, false, fmt.Errorf("list NVMe controllers: %w", l.err)
	}
	complete = l.complete
	for _, name := range l.names {
		if nqn, read := l.nqns[name]; !read || !keep(nqn) {
			continue
		}
		c, err := h.readController(name)
		switch {
		case vanished(err):
			complete = complete && !h.exists(name)
		case err != nil:
			return nil, false, fmt.Errorf("read NVMe controller %s: %w", name, err)
		case c != nil && keep(c.NQN): // the name may have got another owner
			ctrls = append(ctrls, *c)
		}
	}
	return ctrls, complete, nil
}

// readController returns nil for a controller of another transport.
func (h *Host) readController(name string) (*Controller, error) {
	dir := h.controllerDir(name)
	transport, err := readAttr(filepath.Join(dir, "transport"))
	if err != nil || transport != "tcp" {
		return nil, err
	}
	c := &Controller{Name: name}
	var address, cntlid string
	for _, a := range []struct {
		attr string
		to   *string
	}{{"subsysnqn", &c.NQN}, {"address", &address}, {"state", &c.State}, {"cntlid", &cntlid}} {
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
