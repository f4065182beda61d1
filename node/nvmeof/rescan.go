package nvmeof

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/google/uuid"
)

// Rescan asks every live controller of nqn to read its namespaces again. The
// kernel does so in the background; one that is not live will do it by itself
// when it has reconnected.
func (h *Host) Rescan(_ context.Context, nqn string) error {
	ctrls, _, err := h.byNQN(nqn)
	if err != nil {
		return err
	}
	for _, c := range ctrls {
		if c.State != StateLive {
			continue
		}
		if err := h.rescanOne(c); err != nil && !vanished(err) {
			return fmt.Errorf("rescan %s of %s: %w", c.Name, nqn, err)
		}
	}
	return nil
}

func (h *Host) rescanOne(c Controller) error {
	f, err := h.openAttr(filepath.Join(h.controllerDir(c.Name), "rescan_controller"))
	if err != nil {
		return err
	}
	_, err = f.Write([]byte("1"))
	return errors.Join(err, f.Close())
}

// WaitSize rescans nqn where the device of nsUUID is smaller than bytes, and
// returns the device as soon as it is not. A target that announced a new size
// while this machine was reconnecting was not heard; this is the remedy.
func (h *Host) WaitSize(ctx context.Context, nqn string, nsUUID uuid.UUID, bytes int64) (Device, error) {
	dev, err := h.Device(ctx, nqn, nsUUID)
	if err != nil || dev.SizeBytes >= bytes {
		return dev, err
	}
	if err := h.Rescan(ctx, nqn); err != nil {
		return dev, err
	}
	err = h.poller(ctx, func() (bool, string, error) {
		dev, err = h.Device(ctx, nqn, nsUUID)
		return err == nil && dev.SizeBytes >= bytes, fmt.Sprintf("namespace %s of %s has %d bytes, want %d", nsUUID, nqn, dev.SizeBytes, bytes), err
	})
	return dev, err
}
