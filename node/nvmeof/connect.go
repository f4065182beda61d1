package nvmeof

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"k8s.io/klog/v2"
)

// Connect makes sure that t is connected through each of its paths and returns
// the path of its namespace's block device. It is idempotent: what is connected
// stays as it is, what is still connecting is waited for, and paths that t does
// not name are left alone.
//
// It succeeds when one path is live and the device is there. A further path that
// can't be connected is logged, not an error: Paths tells. With every path ANA
// inaccessible there is no device, and Connect waits for one until ctx ends.
func (h *Host) Connect(ctx context.Context, t Target) (devicePath string, err error) {
	if err := t.validate(); err != nil {
		return "", err
	}
	if len(t.Paths) > 1 && h.multipathOff() {
		return "", fmt.Errorf("%w: %s has %d paths, but NVMe multipath is off: boot with nvme_core.multipath=Y", ErrUnsupported, t.NQN, len(t.Paths))
	}
	pathErr := h.connectPaths(ctx, t)
	var dev Device
	err = h.poller(ctx, func() (done bool, waitingFor string, err error) {
		dev, waitingFor, err = h.ready(t)
		return err == nil && waitingFor == "", waitingFor, err
	})
	if err != nil {
		return "", fmt.Errorf("connect %s: %w", t.NQN, errors.Join(err, pathErr))
	}
	if pathErr != nil {
		klog.FromContext(ctx).Info("A path is not connected", "nqn", t.NQN, "err", pathErr)
	}
	return dev.Path, nil
}

// connectPaths makes sure of every path at once and joins the errors.
func (h *Host) connectPaths(ctx context.Context, t Target) error {
	errs := make([]error, len(t.Paths))
	var wg sync.WaitGroup
	for i, p := range t.Paths {
		wg.Go(func() { errs[i] = h.ensureController(ctx, t, p.Address) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// ensureController returns when there is a controller for t at address. One that
// is being deleted is waited for, as its successor can't share its address.
func (h *Host) ensureController(ctx context.Context, t Target, address string) error {
	var have bool
	err := h.poller(ctx, func() (bool, string, error) {
		ctrls, _, err := h.byNQN(t.NQN)
		if err != nil {
			return false, "", err
		}
		have = false
		for _, c := range ctrls {
			if !sameAddress(c.Address, address) {
				continue
			}
			if c.goingAway() {
				return false, "the earlier controller at " + address + " is still being deleted", nil
			}
			if err := t.checkIdentity(c); err != nil {
				return false, "", err
			}
			have = true
		}
		return true, "", nil
	})
	if err != nil || have {
		return err
	}
	return h.running.do(ctx, operation{"connect", t.NQN, address}, func() error {
		return h.connectOnce(t, address)
	})
}

// checkIdentity refuses a controller that presents another host than t: the
// target would admit or fence the wrong one.
func (t Target) checkIdentity(c Controller) error {
	if c.HostNQN != "" && c.HostNQN != t.HostNQN {
		return fmt.Errorf("%w: %s %s has host NQN %s, wanted %s: disconnect it first", ErrForeign, t.NQN, c.Name, c.HostNQN, t.HostNQN)
	}
	if c.HostID != "" && c.HostID != t.HostID.String() {
		return fmt.Errorf("%w: %s %s has host ID %s, wanted %s: disconnect it first", ErrForeign, t.NQN, c.Name, c.HostID, t.HostID)
	}
	return nil
}

// ready answers t's device, or what it lacks. It is an error when nothing is
// left to wait for.
func (h *Host) ready(t Target) (dev Device, lacks string, err error) {
	// Before the listing: what ends in between is then in the listing.
	_, connecting := h.running.pending(func(o operation) bool { return o.verb == "connect" && o.nqn == t.NQN })
	ctrls, complete, err := h.byNQN(t.NQN)
	if err != nil {
		return Device{}, "", err
	}
	live := 0
	var states []string
	for _, c := range ctrls {
		if err := t.checkIdentity(c); err != nil {
			return Device{}, "", err
		}
		if c.State == StateLive {
			live++
		}
		states = append(states, fmt.Sprintf("%s at %s is %s", c.Name, c.Address, c.State))
	}
	switch {
	case len(ctrls) == 0 && complete && !connecting:
		return Device{}, "", ErrNotConnected
	case len(ctrls) == 0:
		return Device{}, "the kernel is still connecting", nil
	case live == 0:
		return Device{}, "no path is live (" + strings.Join(states, ", ") + ")", nil
	}
	ns, err := h.findDisk(t.NQN, t.NSUUID)
	if errors.Is(err, ErrNotConnected) {
		return Device{}, h.whyNoDisk(t, ctrls, err), nil
	}
	if err != nil {
		return Device{}, "", err
	}
	if dev, err = h.readDisk(ns); vanished(err) {
		return Device{}, ns.name + " has just gone", nil
	}
	if err != nil {
		return Device{}, "", err
	}
	lacks, err = h.checkNode(dev)
	return dev, lacks, err
}

// whyNoDisk tells a namespace whose every path is inaccessible, for which the
// kernel makes no disk, from one that the target does not have.
func (h *Host) whyNoDisk(t Target, ctrls []Controller, err error) string {
	var states []string
	for _, c := range ctrls {
		p, err := h.namespacePath(c, t.NSUUID)
		if err == nil && p != nil {
			states = append(states, fmt.Sprintf("%s is %s", c.Address, p.ana))
		}
	}
	if len(states) > 0 {
		return "the namespace has no accessible path (" + strings.Join(states, ", ") + ")"
	}
	return err.Error()
}
