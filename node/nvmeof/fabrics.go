package nvmeof

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// connectOptions builds the line that drivers/nvme/host/fabrics.c parses.
func (t Target) connectOptions(address string) (string, error) {
	ap, err := parseAddress(address)
	if err != nil {
		return "", err
	}
	opts := []string{
		"nqn=" + t.NQN,
		"transport=tcp",
		"traddr=" + ap.Addr().String(),
		"trsvcid=" + strconv.Itoa(int(ap.Port())),
		"hostnqn=" + t.HostNQN,
		"hostid=" + t.HostID.String(),
	}
	for _, o := range []struct {
		key   string
		value int
	}{
		{"keep_alive_tmo", t.KeepAliveSec},
		{"reconnect_delay", t.ReconnectDelaySec},
		{"ctrl_loss_tmo", t.CtrlLossSec},
		{"nr_io_queues", t.IOQueues},
	} {
		if o.value != 0 {
			opts = append(opts, o.key+"="+strconv.Itoa(o.value))
		}
	}
	if !t.HostKey.Empty() {
		opts = append(opts, optHostKey+"="+t.HostKey.Text(), optControllerKey+"="+t.ControllerKey.Text())
	}
	return strings.Join(opts, ","), nil
}

// connectOnce greets the target and then lets the kernel connect to it.
//
// The kernel connects under one lock for the whole machine, and a target that
// accepts TCP without answering holds it for a minute: every other volume's
// connect would wait. So nothing is handed to the kernel that has not just
// answered an NVMe/TCP greeting.
func (h *Host) connectOnce(t Target, address string) error {
	options, err := t.connectOptions(address)
	if err != nil {
		return err
	}
	if !t.HostKey.Empty() {
		if err := h.checkOptions(); err != nil {
			return fmt.Errorf("connect %s at %s: %w", t.NQN, address, err)
		}
	}
	// On its own limit, for the attempt may serve several callers.
	ctx, cancel := context.WithTimeout(context.Background(), h.probeTimeout)
	defer cancel()
	if err := h.greet(ctx, address); err != nil {
		return fmt.Errorf("connect %s at %s: %w", t.NQN, address, err)
	}
	_, err = h.connectKernel(options)
	if err == nil || errors.Is(err, unix.EALREADY) {
		return nil // in the latter case it is connected, or connecting, to that address already
	}
	return fmt.Errorf("connect %s at %s: %w", t.NQN, address, h.explainConnect(err, options))
}

// writeFabrics hands a connect line to the kernel and blocks until the
// controller is there or the kernel has given up.
func (h *Host) writeFabrics(options string) (string, error) {
	f, err := os.OpenFile(h.fabrics, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := f.WriteString(options); err != nil {
		return "", err
	}
	reply := make([]byte, 256)
	n, err := f.Read(reply)
	if err != nil {
		return "", fmt.Errorf("read the kernel's answer: %w", err)
	}
	return strings.TrimSpace(string(reply[:n])), nil
}

// explainConnect turns the kernel's answer to a connect line into one of our
// errors. An errno is all that it gives; more is in the kernel's log.
func (h *Host) explainConnect(err error, options string) error {
	is := func(errnos ...unix.Errno) bool {
		for _, e := range errnos {
			if errors.Is(err, e) {
				return true
			}
		}
		return false
	}
	keys := strings.Contains(options, ","+optHostKey+"=")
	switch {
	case errors.Is(err, fs.ErrNotExist), is(unix.ENODEV, unix.ENXIO):
		return fmt.Errorf("%w (%w)", ErrModuleMissing, err)
	// Without a key ENOKEY, with a wrong one EKEYREJECTED or, of earlier kernels, ECONNREFUSED (drivers/nvme/host/auth.c): whoever listens there has greeted.
	case is(unix.EKEYREJECTED, unix.ENOKEY), is(unix.ECONNREFUSED) && keys:
		return fmt.Errorf("%w: one end has not proved itself to the other; check that the secret in replicaKeys that the volume's hostKey names is the same here and for the controller, and the kernel's log: %w", ErrRejected, err)
	case is(unix.ECONNREFUSED, unix.ETIMEDOUT, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ECONNRESET, unix.EPIPE):
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	case is(unix.EIO) && keys && h.cannotAuthenticate():
		return fmt.Errorf("%w: %w", errNoAuthentication, err)
	case is(unix.EIO, unix.EACCES, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: the target refused; check that the subsystem exists and allows this host NQN, with the keys of replicaKeys if the volume has hostKey, and the kernel's log: %w", ErrRejected, err)
	case is(unix.EINVAL):
		return h.explainInvalid(err, options)
	}
	return fmt.Errorf("write %s: %w", h.fabrics, err)
}

// explainInvalid finds out which of its meanings an EINVAL has: an option that
// this kernel does not know, no TCP transport, or options that contradict.
func (h *Host) explainInvalid(err error, options string) error {
	// Since Linux 5.17 an unused handle reads as the list of known options.
	if known, readErr := readAttr(h.fabrics); readErr == nil && strings.Contains(known, "transport=") {
		for _, o := range strings.Split(options, ",") {
			if key, _, _ := strings.Cut(o, "="); !knows(known, key) {
				return fmt.Errorf("%w: connect option %s: %w", ErrUnsupported, key, err)
			}
		}
	}
	if _, statErr := os.Stat(filepath.Join(h.sysRoot, "module", "nvme_tcp")); errors.Is(statErr, fs.ErrNotExist) {
		return fmt.Errorf("%w (%w)", ErrModuleMissing, err)
	}
	return fmt.Errorf("%w: the kernel refused the options %q; its log says which: %w", ErrRejected, withoutKeys(options), err)
}
