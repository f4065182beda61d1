package node

import (
	"context"
	"fmt"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// How much is done side by side when many volumes need something at once, as when a raid host dies that ran hundreds of them.
const (
	// maxFences is how many volumes have their legs fenced at a time.
	maxFences = 64
	// maxMakes is how many raids are made at a time.
	maxMakes = 16
	// maxCalm is how many volumes are tended at a time that work while they wait. None is begun while a volume leaves its raid host.
	maxCalm = 8
)

// slots bounds how much of something is done side by side.
type slots chan struct{}

// take waits for a slot.
func (s slots) take(ctx context.Context) (release func(), err error) {
	select {
	case s <- struct{}{}:
		return func() { <-s }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: other volumes come first: %w", volume.ErrBusy, ctx.Err())
	}
}
