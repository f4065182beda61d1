package nvmeof

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Disconnect deletes every controller of subsystem nqn and returns when none is
// left and none is on its way; absent is success. For a target that hangs it
// takes some keep-alive periods. When ctx ends first the error says what is still
// there, the deletion goes on, and a retry joins it.
//
// A file system mounted from the device loses what it has not written yet.
func (h *Host) Disconnect(ctx context.Context, nqn string) error {
	if err := h.remove(ctx, nqn, func(string) bool { return true }); err != nil {
		return fmt.Errorf("disconnect %s: %w", nqn, err)
	}
	return nil
}

// DisconnectPath is Disconnect for the one path at address. I/O in flight on it
// moves to another path. Deleting the last path removes the block device.
func (h *Host) DisconnectPath(ctx context.Context, nqn, address string) error {
	if _, err := parseAddress(address); err != nil {
		return err
	}
	if err := h.remove(ctx, nqn, func(a string) bool { return sameAddress(a, address) }); err != nil {
		return fmt.Errorf("disconnect %s at %s: %w", nqn, address, err)
	}
	return nil
}

// remove deletes the controllers of nqn at matching addresses until there are
// none, counting those that an earlier connect may still bring.
func (h *Host) remove(ctx context.Context, nqn string, match func(address string) bool) error {
	deleting := map[string]*attempt{}
	return h.poller(ctx, func() (bool, string, error) {
		// Before the listing: what ends in between is then in the listing.
		op, connecting := h.running.pending(func(o operation) bool {
			return o.verb == "connect" && o.nqn == nqn && match(o.what)
		})
		ctrls, complete, err := h.byNQN(nqn)
		if err != nil {
			return false, "", err
		}
		ctrls = slices.DeleteFunc(ctrls, func(c Controller) bool { return !match(c.Address) })
		switch {
		case len(ctrls) > 0:
		case connecting:
			return false, "the kernel has not finished: " + op.String(), nil
		case !complete:
			return false, "a controller is just coming or going", nil
		default:
			return true, "", nil
		}
		var left []string
		for _, c := range ctrls {
			if err := h.deleteOne(c, deleting); err != nil {
				return false, "", fmt.Errorf("delete %s: %w", c.Name, err)
			}
			left = append(left, fmt.Sprintf("%s at %s is %s", c.Name, c.Address, c.State))
		}
		for _, at := range deleting { // without looking again and again: it may take the kernel a minute
			select {
			case <-at.done:
			case <-ctx.Done():
			}
		}
		return false, "still there: " + strings.Join(left, ", "), nil
	})
}

// deleteOne has the deletion of c running, or reports how the last try failed.
// The kernel answers EBUSY for a controller that is still being created, which is
// a matter of waiting, and ENOENT or ENODEV when somebody else has begun.
func (h *Host) deleteOne(c Controller, deleting map[string]*attempt) error {
	if at := deleting[c.Name]; at != nil {
		select {
		case <-at.done:
		default:
			return nil
		}
		if err := at.err; err != nil && !vanished(err) && !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	if c.goingAway() {
		return nil
	}
	deleting[c.Name] = h.running.start(operation{"delete", c.NQN, c.Name}, func() error {
		return h.deleteController(c)
	})
	return nil
}

// deleteController takes c down; it blocks until the kernel has done so. The
// kernel reuses names: the file is opened first and the name's owner read after,
// so that the write can only reach a controller of c's NQN and address.
func (h *Host) deleteController(c Controller) error {
	if c.State == StateLive && h.hangs(c) {
		h.awaitNotice(c)
	}
	f, err := h.openAttr(filepath.Join(h.controllerDir(c.Name), "delete_controller"))
	if err != nil {
		return err
	}
	now, err := h.readController(c.Name)
	if err != nil || now == nil || now.NQN != c.NQN || now.Address != c.Address {
		return errors.Join(err, f.Close())
	}
	_, err = f.Write([]byte("1"))
	return errors.Join(err, f.Close())
}

// hangs reports that c's target takes a connection, or lets it starve, but does
// not answer. One that refuses is not there, which the kernel knows as well.
func (h *Host) hangs(c Controller) bool {
	ctx, cancel := context.WithTimeout(context.Background(), h.probeTimeout)
	defer cancel()
	return errors.Is(h.greet(ctx, c.Address), context.DeadlineExceeded)
}

const (
	// noticePeriods is in how many keep-alive periods the kernel has noticed a
	// hang and given the connection up; seen with Linux 6.1: 2.7.
	noticePeriods = 4
	// deletionLimit is the longest that the kernel takes to delete a live
	// controller of a hung target: nvme_core's io_timeout for the I/O in flight
	// and then its admin_timeout for the shutdown, by default.
	deletionLimit = 90 * time.Second
)

// awaitNotice waits until the kernel's keep-alive has found out that c's target
// hangs, where that is sooner than the alternative: deleting a live controller
// stops its keep-alive, and the I/O in flight, which is to move to another path
// or to fail, then waits for nvme_core.io_timeout. A controller that is
// reconnecting is deleted at once.
//
// Resetting it first (reset_controller) would be quicker, but is a trap: Linux
// 6.1 then deadlocks, and the multipath device never does I/O again.
func (h *Host) awaitNotice(c Controller) {
	kato, err := readAttr(filepath.Join(h.controllerDir(c.Name), "kato"))
	seconds, parseErr := strconv.Atoi(kato)
	limit := noticePeriods * time.Duration(seconds) * time.Second
	if err != nil || parseErr != nil || limit == 0 || limit > deletionLimit {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	// The limit's end is no failure: the deletion comes next either way.
	_ = h.poller(ctx, func() (bool, string, error) {
		now, err := h.readController(c.Name)
		return now == nil || now.State != StateLive, "", err
	})
}
