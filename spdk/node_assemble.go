package spdk

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
)

// placeholder names the null bdev that fills an empty slot while a raid is made.
func placeholder(raid string, slot int) string {
	return raid + placeholderInfix + strconv.Itoa(slot)
}

const placeholderInfix = "-null"

// maxSlots is how many slots a raid may have here. SPDK has no limit of its own that is near.
const maxSlots = 16

// isPlaceholder reports whether the bdev fills a slot of that raid for want of a leg.
func isPlaceholder(raid, bdev string) bool {
	slot, ok := strings.CutPrefix(bdev, raid+placeholderInfix)
	_, err := strconv.ParseUint(slot, 10, 8)
	return ok && err == nil
}

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
// SPDK makes a raid with all slots filled only, so empty ones are filled with null bdevs
// that are taken out before anyone can use the raid. What an earlier call left unfinished
// is finished, or deleted and made anew. An online raid with other UUID or slots, with a
// superblock or with a leg that is not in spec is ErrConflict; one that has lost a leg of
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
	case len(r.Slots) != s.Slots:
		return differs("it has %d slots, wanted are %d", len(r.Slots), s.Slots)
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
	if err := n.deletePlaceholders(ctx, spec.Name, spec.Slots); err != nil {
		return err
	}
	blockSize, blocks, err := n.commonSize(ctx, spec)
	if err != nil {
		return err
	}
	bases := slices.Clone(spec.Legs)
	for slot := len(spec.Legs); slot < spec.Slots; slot++ {
		name := placeholder(spec.Name, slot)
		if _, err := BdevNullCreate(ctx, n.rpc, BdevNullCreateParams{Name: name, BlockSize: blockSize, NumBlocks: blocks}); err != nil {
			return n.wrap(err, "assemble raid %s: make placeholder %s", spec.Name, name)
		}
		bases = append(bases, name)
	}
	refused := BdevRaidCreate(ctx, n.rpc, BdevRaidCreateParams{
		Name: spec.Name, RaidLevel: "raid1", BaseBdevs: bases, UUID: spec.UUID.String(),
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
	for _, leg := range spec.Legs {
		b, err := n.bdev(ctx, leg)
		switch {
		case err != nil:
			return 0, 0, fmt.Errorf("assemble raid %s: %w", spec.Name, err)
		case blockSize != 0 && b.BlockSize != blockSize:
			return 0, 0, n.wrap(ErrConflict, "assemble raid %s: leg %s has blocks of %d bytes, another leg of %d", spec.Name, leg, b.BlockSize, blockSize)
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
	return n.deletePlaceholders(ctx, spec.Name, spec.Slots)
}

// deletePlaceholders deletes the null bdevs that were made for so many slots of the raid. Each is looked up by its name: a list of all bdevs of a node
// with hundreds of volumes is long.
func (n *Node) deletePlaceholders(ctx context.Context, raid string, slots int) error {
	group, ctx := errgroup.WithContext(ctx)
	for slot := range slots {
		group.Go(func() error { return n.deletePlaceholder(ctx, placeholder(raid, slot)) })
	}
	return group.Wait()
}

func (n *Node) deletePlaceholder(ctx context.Context, name string) error {
	if gone, err := n.bdevGone(ctx, name); gone || err != nil {
		return err
	}
	err := BdevNullDelete(ctx, n.rpc, BdevNullDeleteParams{Name: name})
	if err != nil && answered(err) {
		if gone, readErr := n.bdevGone(ctx, name); readErr == nil && gone {
			return nil
		}
	}
	return n.wrap(err, "delete placeholder %s", name)
}
