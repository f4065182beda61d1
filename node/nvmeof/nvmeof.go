// Package nvmeof owns this machine's NVMe/TCP host side: it connects the Linux
// kernel to targets, finds the block device of a namespace, and takes
// connections down again, through /dev/nvme-fabrics and sysfs alone.
//
// Names such as nvme3n1 are the kernel's and change at every reconnect; nothing
// here is ever looked up by them. A namespace is found by its subsystem's NQN
// and its own UUID, with native multipath on or off.
//
// The kernel can be slow where a peer hangs: it holds one lock while it
// connects, and takes many seconds to delete. Such calls can't be interrupted,
// so they run in goroutines that the Host owns; a context bounds the wait for
// them, a retry joins what is still running, and Close waits for all.
package nvmeof

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/node/coalesce"
)

// Sentinel errors; decide with errors.Is.
var (
	// ErrNotConnected: no device for that NQN and namespace UUID is present.
	ErrNotConnected = errors.New("not connected")
	// ErrModuleMissing: the kernel cannot act as NVMe/TCP host.
	ErrModuleMissing = errors.New("the kernel's NVMe/TCP host is not available: run `modprobe nvme-tcp` on this machine")
	// ErrUnreachable: nothing answers NVMe/TCP at a path's address. The target
	// may be down, the address wrong, or the path filtered.
	ErrUnreachable = errors.New("target unreachable")
	// ErrRejected: the target answered and refused the connection, or the kernel
	// refused its own options.
	ErrRejected = errors.New("connection rejected")
	// ErrUnsupported: this kernel lacks something that was asked for.
	ErrUnsupported = errors.New("not supported by this kernel")
	// ErrForeign: the NQN is connected, but with another host identity.
	ErrForeign = errors.New("connected with another host identity")
	// ErrInvalid: a Target or address is malformed.
	ErrInvalid = errors.New("invalid NVMe-oF target")
)

// Path is one way to a target.
type Path struct {
	// Address is IP:port of an NVMe/TCP listener; IPv6 in brackets. The kernel
	// does not resolve names.
	Address string
}

// Target says what to connect to and as whom.
type Target struct {
	NQN    string    // subsystem NQN
	NSUUID uuid.UUID // UUID of the namespace wanted
	Paths  []Path    // at least one

	HostNQN string    // NQN this machine presents
	HostID  uuid.UUID // host identifier that belongs to HostNQN

	// HostKey is what this machine proves itself with, ControllerKey what the target does; both or none.
	HostKey, ControllerKey Secret

	KeepAliveSec      int // keep_alive_tmo, seconds; 0 leaves the kernel's default
	ReconnectDelaySec int // reconnect_delay, seconds; 0 leaves the kernel's default
	CtrlLossSec       int // ctrl_loss_tmo, seconds; 0 leaves the kernel's default, -1 never gives up
	IOQueues          int // nr_io_queues; 0 leaves the kernel's default, one for each CPU
}

// Options configure a Host. The zero value is right for a real machine.
type Options struct {
	SysRoot string // where sysfs is; default /sys
	DevRoot string // where device nodes are; default /dev
	Fabrics string // the fabrics control device; default DevRoot/nvme-fabrics
	Symbols string // the kernel's list of its symbols; default /proc/kallsyms

	// Clock drives polling; default the real one.
	Clock clock.WithTicker
	// PollInterval is the time between two looks at sysfs, which notifies nobody,
	// at first: it grows with the time that has passed. Default 25 ms.
	PollInterval time.Duration
	// ProbeTimeout bounds the greeting that a target must answer before the
	// kernel is asked to connect; default 3 s.
	ProbeTimeout time.Duration
}

const (
	defaultPollInterval = 25 * time.Millisecond
	defaultProbeTimeout = 3 * time.Second
	// A wait is known to be over at most a sixteenth later than it is, or a second.
	pollSlowdown    = 16
	maxPollInterval = time.Second
)

// Host is this machine in its role as NVMe/TCP host. It is safe for concurrent
// use; callers serialize operations on one NQN.
type Host struct {
	sysRoot, devRoot, fabrics, symbols string
	clock                              clock.WithTicker
	poll, probeTimeout                 time.Duration
	running                            attempts
	listings                           coalesce.Call[listing]

	// The kernel, as far as tests replace it.
	connectKernel func(options string) (reply string, err error)
	openAttr      func(path string) (io.WriteCloser, error)
	statNode      func(path string) (nodeInfo, error)
	greet         func(ctx context.Context, address string) error
}

// New returns a Host. It touches nothing yet.
func New(o Options) *Host {
	if o.SysRoot == "" {
		o.SysRoot = "/sys"
	}
	if o.DevRoot == "" {
		o.DevRoot = "/dev"
	}
	if o.Fabrics == "" {
		o.Fabrics = filepath.Join(o.DevRoot, "nvme-fabrics")
	}
	if o.Symbols == "" {
		o.Symbols = "/proc/kallsyms"
	}
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.PollInterval == 0 {
		o.PollInterval = defaultPollInterval
	}
	if o.ProbeTimeout == 0 {
		o.ProbeTimeout = defaultProbeTimeout
	}
	h := &Host{
		sysRoot: o.SysRoot, devRoot: o.DevRoot, fabrics: o.Fabrics, symbols: o.Symbols,
		clock: o.Clock, poll: o.PollInterval, probeTimeout: o.ProbeTimeout,
		openAttr: openAttr, statNode: statNode, greet: greet,
	}
	h.connectKernel = h.writeFabrics
	return h
}

// Close waits until no call into the kernel is under way any more, or ctx ends.
// No method may be called after it.
func (h *Host) Close(ctx context.Context) error { return h.running.wait(ctx) }

// validate checks what the kernel would answer with a bare EINVAL, or, for a
// comma, with options that nobody asked for.
func (t Target) validate() error {
	for name, nqn := range map[string]string{"NQN": t.NQN, "host NQN": t.HostNQN} {
		if !strings.HasPrefix(nqn, "nqn.") || len(nqn) > 223 || strings.ContainsAny(nqn, ", \t\n") {
			return fmt.Errorf("%w: %s %q: want nqn.… of at most 223 characters without comma or space", ErrInvalid, name, nqn)
		}
	}
	if t.NSUUID == uuid.Nil || t.HostID == uuid.Nil {
		return fmt.Errorf("%w: %s: namespace UUID and host ID must be set", ErrInvalid, t.NQN)
	}
	if len(t.Paths) == 0 {
		return fmt.Errorf("%w: %s has no path", ErrInvalid, t.NQN)
	}
	if err := t.validateKeys(); err != nil {
		return err
	}
	if t.KeepAliveSec < 0 || t.ReconnectDelaySec < 0 || t.CtrlLossSec < -1 || t.IOQueues < 0 {
		return fmt.Errorf("%w: %s: negative time or queue count", ErrInvalid, t.NQN)
	}
	for _, p := range t.Paths {
		if _, err := parseAddress(p.Address); err != nil {
			return err
		}
	}
	return nil
}

// parseAddress accepts IP:port only; a host name would be resolved at another
// moment than the kernel's reconnects use it.
func parseAddress(address string) (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(address)
	if err != nil || ap.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("%w: address %q: want IP:port, IPv6 in brackets", ErrInvalid, address)
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}

// sameAddress compares two IP:port strings by value, not by spelling.
func sameAddress(a, b string) bool {
	x, errX := parseAddress(a)
	y, errY := parseAddress(b)
	return errX == nil && errY == nil && x == y
}

// poller calls check at once and then again and again, until it answers done, it
// fails, or ctx ends. On ctx's end the error joins ctx's with what check last
// said it was waiting for. What takes longer is looked at less often, for with a
// raid host hundreds of volumes may wait.
func (h *Host) poller(ctx context.Context, check func() (done bool, waitingFor string, err error)) error {
	begin := h.clock.Now()
	for {
		done, waitingFor, err := check()
		if err != nil || done {
			return err
		}
		pause := h.clock.NewTimer(max(h.poll, min(h.clock.Since(begin)/pollSlowdown, maxPollInterval)))
		select {
		case <-ctx.Done():
			pause.Stop()
			return fmt.Errorf("%s: %w", waitingFor, context.Cause(ctx))
		case <-pause.C():
		}
	}
}

// openAttr opens a sysfs attribute for writing. What is written through it goes
// to the object that had the name when it was opened, or fails with ENODEV.
func openAttr(path string) (io.WriteCloser, error) {
	return os.OpenFile(path, os.O_WRONLY, 0)
}

// nodeInfo is what stat says about a device node.
type nodeInfo struct {
	block        bool
	major, minor uint32
}

func statNode(path string) (nodeInfo, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nodeInfo{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return nodeInfo{
		block: st.Mode&unix.S_IFMT == unix.S_IFBLK,
		major: unix.Major(st.Rdev), minor: unix.Minor(st.Rdev),
	}, nil
}
