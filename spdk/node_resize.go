package spdk

import (
	"context"
	"fmt"
	"strings"
)

// resizeLooks is how often a raid is looked at, each pollInterval, before the notice of a
// new size counts as lost: 2 s of a node that answers at once. The notice takes some
// milliseconds, and comes late from a node that answers late.
const resizeLooks = 100

// AwaitRaidBytes returns when a raid has at least that many bytes. It is for after its
// legs' replicas have been grown: each tells its controller by an asynchronous event, and
// the raid follows the smallest of them. An event that falls into a reset of the
// controller is lost for good, so that a raid that does not grow is ErrMissedResize, with
// the legs that have kept their size. A missing raid is ErrNotFound.
func (n *Node) AwaitRaidBytes(ctx context.Context, name string, bytes int64) error {
	looks := 0
	return until(ctx, func() (bool, error) {
		now, err := n.Raid(ctx, name)
		switch {
		case err != nil:
			return false, err
		case now.State != RaidOnline:
			return false, n.wrap(fmt.Errorf("%w: its state is %s", ErrNotOnline, now.State), "grow raid %s", name)
		case now.SizeBytes >= bytes:
			return true, nil
		}
		if looks++; looks < resizeLooks {
			return false, nil
		}
		small, err := n.smallLegs(ctx, now, bytes)
		if err != nil {
			return false, err
		}
		return false, n.wrap(fmt.Errorf("%w: it has %d bytes and is to have %d, because of %s; a raid over legs that are attached anew has the size",
			ErrMissedResize, now.SizeBytes, bytes, strings.Join(small, ", ")), "grow raid %s", name)
	})
}

// smallLegs names the legs of a raid that have fewer bytes, each with its size.
func (n *Node) smallLegs(ctx context.Context, r RaidState, bytes int64) ([]string, error) {
	var small []string
	for _, slot := range r.Slots {
		if slot.Bdev == "" {
			continue
		}
		b, err := n.bdev(ctx, slot.Bdev)
		switch {
		case isNotFound(err):
		case err != nil:
			return nil, err
		case b.SizeBytes() < bytes:
			small = append(small, fmt.Sprintf("leg %s with %d bytes", slot.Bdev, b.SizeBytes()))
		}
	}
	return small, nil
}
