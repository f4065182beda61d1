package nvmeof

import (
	"context"
	"fmt"
	"os"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// SetReadOnly makes the kernel refuse writes to a connected namespace's block device, or take them again (BLKROSET, linux/fs.h).
// It lasts until the device is disconnected.
func (h *Host) SetReadOnly(ctx context.Context, nqn string, nsUUID uuid.UUID, readOnly bool) error {
	device, err := h.Device(ctx, nqn, nsUUID)
	if err != nil || device.ReadOnly == readOnly {
		return err
	}
	f, err := os.Open(device.Path)
	if err != nil {
		return fmt.Errorf("open %s: %w", device.Path, err)
	}
	defer f.Close()
	value := 0
	if readOnly {
		value = 1
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, value); err != nil {
		return fmt.Errorf("set %s read-only=%t: %w", device.Path, readOnly, err)
	}
	return nil
}
