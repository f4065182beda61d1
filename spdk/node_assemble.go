package spdk

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
)

// maxSlots is how many slots a raid may have here. SPDK has no limit of its own that is near.
const maxSlots = 16

func (s RaidSpec) check() error {
	switch {
	case s.Name == "" || s.UUID == uuid.Nil:
		return fmt.Errorf("a raid needs a name and a UUID")
	case s.Slots < 2 || s.Slots > maxSlots:
		return fmt.Errorf("%d slots: it must be 2 to %d", s.Slots, maxSlots)
	case len(s.Legs) == 0 || len(s.Legs) > s.Slots:
		return fmt.Errorf("%d legs for %d slots", len(s.Legs), s.Slots)
	}
	for i, leg := range s.Legs {
		if leg == "" || slices.Contains(s.Legs[:i], leg) {
			return fmt.Errorf("leg %q is empty or given twice", leg)
		}
	}
	return nil
}

// AssembleRaid makes a raid1 of the legs, with its other slots empty, or finds it made. It
// returns once the raid is online and writes nothing to any leg. All legs must be in sync:
// the raid reads from whichever it likes.
//
// SPDK makes a raid with all slots filled only, so empty ones are filled with placeholders
// that are taken out before anyone can use the raid. The raid announces unmap if its legs
// do, unless SPDK refused to make placeholders that can. What an earlier call left unfinished
// is finished, or deleted and made anew. An online raid with another UUID, with fewer slots
// than legs, with a superblock or with a leg that is not in spec is ErrConflict; one that has lost a leg of
// spec is success, and its state says so. A missing bdev is ErrNotFound.
func (n *Node) AssembleRaid(ctx context.Context, spec RaidSpec) (RaidState, error) {
	if err := spec.check(); err != nil {
		return RaidState{}, n.wrap(err, "assemble raid %s", spec.Name)
	}
	r, err := n.Raid(ctx, spec.Name)
	switch {
	case isNotFound(err):
		err = n.createRaid(ctx, spec)
	case err != nil:
		return RaidState{}, err
	case r.State != RaidOnline:
		if err = n.deleteRaid(ctx, spec.Name); err == nil {
			err = n.createRaid(ctx, spec)
		}
	}
	if err != nil {
		return RaidState{}, err
	}
	if err := n.vacateSlots(ctx, spec); err != nil {
		return RaidState{}, err
	}
	r, err = n.Raid(ctx, spec.Name)
	if err != nil {
		return RaidState{}, err
	}
	return r, spec.matches(n, r)
}

// matches compares an online raid with the specification.
func (s RaidSpec) matches(n *Node, r RaidState) error {
	differs := func(format string, args ...any) error {
		return n.wrap(fmt.Errorf("%w: %s", ErrConflict, fmt.Sprintf(format, args...)), "assemble raid %s", s.Name)
	}
	switch {
	case r.State != RaidOnline:
		return n.wrap(fmt.Errorf("%w: its state is %s", ErrNotOnline, r.State), "assemble raid %s", s.Name)
	case !strings.EqualFold(r.UUID, s.UUID.String()):
		return differs("its UUID is %s, wanted is %s", r.UUID, s.UUID)
	case len(r.Slots) < len(s.Legs):
		return differs("it has %d slots for %d legs", len(r.Slots), len(s.Legs))
	case r.Superblock:
		return differs("it has a superblock")
	}
	for _, slot := range r.Slots {
		if slot.Bdev != "" && !slices.Contains(s.Legs, slot.Bdev) {
			return differs("its leg %s is not among those wanted", slot.Bdev)
		}
	}
	return nil
}

// createRaid makes the raid with a placeholder in each slot that has no leg. A raid that
// does not come online is deleted again: it would go online by itself, and claim its legs,
// whenever bdevs of the names that it waits for turn up.
func (n *Node) createRaid(ctx context.Context, spec RaidSpec) error {
	var blockSize int
	var blocks int64
	group, both := errgroup.WithContext(ctx)
	group.Go(func() error { return n.deletePlaceholders(both, spec.Name, spec.Slots) })
	group.Go(func() (err error) {
		blockSize, blocks, err = n.commonSize(both, spec)
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	placeholders, err := n.makePlaceholders(ctx, spec, blockSize, blocks)
	if err != nil {
		return err
	}
	refused := BdevRaidCreate(ctx, n.rpc, BdevRaidCreateParams{
		Name: spec.Name, RaidLevel: "raid1", BaseBdevs: slices.Concat(spec.Legs, placeholders), UUID: spec.UUID.String(),
	})
	if refused != nil && !answered(refused) {
		return n.wrap(refused, "assemble raid %s", spec.Name)
	}
	r, err := n.Raid(ctx, spec.Name)
	if err != nil && !isNotFound(err) {
		return err
	}
	if err == nil && r.State == RaidOnline {
		return nil
	}
	why := fmt.Errorf("%w: look whether every leg exists and none belongs to another raid", ErrNotOnline)
	if refused != nil {
		why = fmt.Errorf("%w: %w", ErrNotOnline, refused)
	}
	if err == nil {
		if err := n.deleteRaid(ctx, spec.Name); err != nil {
			return fmt.Errorf("%w; and it could not be deleted again: %w", why, err)
		}
	}
	if err := n.deletePlaceholders(ctx, spec.Name, spec.Slots); err != nil {
		return fmt.Errorf("%w; and its placeholders could not be deleted: %w", why, err)
	}
	return n.wrap(why, "assemble raid %s", spec.Name)
}

// commonSize returns the block size of the legs in bytes and the size of the smallest in
// blocks, which is the raid's.
func (n *Node) commonSize(ctx context.Context, spec RaidSpec) (blockSize int, blocks int64, err error) {
	bdevs := make([]Bdev, len(spec.Legs))
	group, all := errgroup.WithContext(ctx)
	for i, leg := range spec.Legs {
		group.Go(func() (err error) {
			bdevs[i], err = n.bdev(all, leg)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return 0, 0, fmt.Errorf("assemble raid %s: %w", spec.Name, err)
	}
	for i, b := range bdevs {
		switch {
		case blockSize != 0 && b.BlockSize != blockSize:
			return 0, 0, n.wrap(ErrConflict, "assemble raid %s: leg %s has blocks of %d bytes, another leg of %d", spec.Name, spec.Legs[i], b.BlockSize, blockSize)
		case blockSize == 0 || b.NumBlocks < blocks:
			blockSize, blocks = b.BlockSize, b.NumBlocks
		}
	}
	return blockSize, blocks, nil
}

// vacateSlots takes the placeholders out of an online raid and deletes them.
func (n *Node) vacateSlots(ctx context.Context, spec RaidSpec) error {
	r, err := n.Raid(ctx, spec.Name)
	if err != nil {
		return err
	}
	for _, slot := range r.Slots {
		if !isPlaceholder(spec.Name, slot.Bdev) {
			continue
		}
		if err := n.RemoveRaidLeg(ctx, spec.Name, slot.Bdev); err != nil {
			return err
		}
	}
	return n.deletePlaceholders(ctx, spec.Name, max(spec.Slots, len(r.Slots)))
}
