package spdk

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// States of a raid (lib/bdev and module/bdev/raid).
const (
	RaidOnline      = "online"
	RaidConfiguring = "configuring"
	RaidOffline     = "offline"
)

// RaidSpec describes a raid1 to assemble. It never has a superblock, so that each leg is a
// byte-for-byte image of the volume.
type RaidSpec struct {
	Name string
	UUID uuid.UUID
	// Slots is the number of legs that the raid can ever have, 2 or more.
	Slots int
	// Legs are bdev names, at least one. Slots without a leg start empty.
	Legs []string
}

// RaidState is a raid as it is.
type RaidState struct {
	Name, UUID string
	// State is one of the Raid states; only an online raid has a bdev.
	State string
	// SizeBytes and BlockSize are in bytes and 0 unless the raid is online.
	SizeBytes int64
	BlockSize int
	// Superblock is false in every raid that this package made.
	Superblock bool
	// InUse is true while the raid is exported.
	InUse bool
	Slots []RaidSlot
	// Rebuild is nil while none runs.
	Rebuild *RebuildProgress
	// Limits are those in force; zero unless the raid is online.
	Limits RateLimits
}

// RaidSlot is one slot of a raid.
type RaidSlot struct {
	// Bdev is empty in an empty slot.
	Bdev string
	// Configured says that the raid writes to the leg. It is true, too, of the target of a
	// rebuild, which does not hold all data yet: see RaidState.Holds.
	Configured bool
	// SizeBytes is what the raid uses of the leg; 0 unless the raid is online.
	SizeBytes int64
}

// RebuildProgress is a rebuild that runs.
type RebuildProgress struct {
	// Target is the bdev that is rebuilt.
	Target string
	// Blocks is how many blocks are done, Percent the same of the whole.
	Blocks  int64
	Percent int
}

// Holds reports whether the raid now writes to the leg and no rebuild of it is reported.
//
// This is not yet proof that a rebuilt leg is in sync. SPDK marks a new leg as configured
// before it makes the rebuild visible, and after a rebuild that failed it takes the
// rebuild off the list before it ejects the leg (module/bdev/raid/bdev_raid.c,
// raid_bdev_channels_start_process_done and raid_bdev_process_finish_quiesced). The first
// gap AddRaidLeg closes. The second lasts until the ejection has waited for outstanding
// I/O: 0.2 s were seen with a full pool and 6.0 s with a hung target. A rebuilt leg counts
// when Holds is still true after the longest stall of a write, with its controller enabled
// and the CNTLID of LegState the same all along.
func (s RaidState) Holds(bdev string) bool {
	if s.State != RaidOnline || (s.Rebuild != nil && s.Rebuild.Target == bdev) {
		return false
	}
	return slices.ContainsFunc(s.Slots, func(slot RaidSlot) bool { return slot.Bdev == bdev && slot.Configured })
}

// Unfinished reports whether AssembleRaid was interrupted: a placeholder is still in a slot, and the raid may read from it what
// no leg holds. Nobody may use such a raid; AssembleRaid finishes it.
func (s RaidState) Unfinished() bool {
	return slices.ContainsFunc(s.Slots, func(slot RaidSlot) bool { return isPlaceholder(s.Name, slot.Bdev) })
}

// Has reports whether a slot holds the bdev, configured or not.
func (s RaidState) Has(bdev string) bool {
	return slices.ContainsFunc(s.Slots, func(slot RaidSlot) bool { return slot.Bdev == bdev })
}

// Raids lists the raids of the node in every state.
func (n *Node) Raids(ctx context.Context) ([]RaidState, error) {
	infos, err := BdevRaidGetBdevs(ctx, n.rpc, BdevRaidGetBdevsParams{Category: "all"})
	if err != nil {
		return nil, n.wrap(err, "list raids")
	}
	if len(infos) == 0 {
		return nil, nil
	}
	bdevs, err := n.bdevs(ctx)
	if err != nil {
		return nil, n.wrap(err, "list bdevs of raids")
	}
	raids := make([]RaidState, 0, len(infos))
	for _, i := range infos {
		raids = append(raids, raidState(i, bdevs))
	}
	return raids, nil
}

func raidState(i RaidInfo, bdevs []Bdev) RaidState {
	s := RaidState{Name: i.Name, UUID: i.UUID, State: i.State, Superblock: i.Superblock}
	if b, ok := findBdev(bdevs, i.Name); ok && i.State == RaidOnline {
		s.SizeBytes, s.BlockSize, s.InUse, s.Limits = b.SizeBytes(), b.BlockSize, b.Claimed, b.AssignedRateLimits
	}
	for _, slot := range i.BaseBdevsList {
		var name string
		if slot.Name != nil {
			name = *slot.Name
		}
		s.Slots = append(s.Slots, RaidSlot{Bdev: name, Configured: slot.IsConfigured, SizeBytes: slot.DataSize * int64(s.BlockSize)})
	}
	if i.Process != nil {
		s.Rebuild = &RebuildProgress{Target: i.Process.Target, Blocks: i.Process.Progress.Blocks, Percent: i.Process.Progress.Percent}
	}
	return s
}

// Raid returns one raid, or ErrNotFound. One that is online is read by its bdev alone: a list of all raids of a node with hundreds of
// volumes is long.
func (n *Node) Raid(ctx context.Context, name string) (RaidState, error) {
	b, err := n.bdev(ctx, name)
	switch {
	case err == nil && b.DriverSpecific.Raid != nil:
		info := *b.DriverSpecific.Raid
		info.Name = name
		return raidState(info, []Bdev{b}), nil
	case err != nil && !isNotFound(err):
		return RaidState{}, err
	}
	infos, err := BdevRaidGetBdevs(ctx, n.rpc, BdevRaidGetBdevsParams{Category: "all"})
	if err != nil {
		return RaidState{}, n.wrap(err, "list raids")
	}
	at := slices.IndexFunc(infos, func(i RaidInfo) bool { return i.Name == name })
	if at < 0 {
		return RaidState{}, n.wrap(ErrNotFound, "raid %s", name)
	}
	if infos[at].State == RaidOnline {
		if b, err = n.bdev(ctx, name); err != nil && !isNotFound(err) {
			return RaidState{}, err
		}
	}
	return raidState(infos[at], []Bdev{b}), nil
}

// DeleteRaid deletes a raid, with whatever an interrupted AssembleRaid left beside it; an
// absent one is success. One that is exported is ErrBusy: SPDK itself would take it away
// from under its host.
func (n *Node) DeleteRaid(ctx context.Context, name string) error {
	r, err := n.Raid(ctx, name)
	switch {
	case isNotFound(err):
	case err != nil:
		return err
	case r.InUse:
		return n.wrap(fmt.Errorf("%w: remove its export first", ErrBusy), "delete raid %s", name)
	default:
		if err := n.deleteRaid(ctx, name); err != nil {
			return err
		}
	}
	return n.deletePlaceholders(ctx, name, maxSlots)
}

func (n *Node) deleteRaid(ctx context.Context, name string) error {
	err := BdevRaidDelete(ctx, n.rpc, BdevRaidDeleteParams{Name: name})
	if err != nil && answered(err) {
		if _, readErr := n.Raid(ctx, name); isNotFound(readErr) {
			return nil
		}
	}
	return n.wrap(err, "delete raid %s", name)
}

// AddRaidLeg adds a leg to an empty slot and so starts its rebuild. It returns when the
// rebuild is visible, or over. A leg that the raid already has, rebuilt or being rebuilt,
// is success; another rebuild that runs is ErrBusy.
func (n *Node) AddRaidLeg(ctx context.Context, raid, bdev string) error {
	r, err := n.Raid(ctx, raid)
	switch {
	case err != nil:
		return err
	case r.State != RaidOnline:
		return n.wrap(fmt.Errorf("%w: its state is %s", ErrNotOnline, r.State), "add leg %s to raid %s", bdev, raid)
	case r.Has(bdev):
		return nil
	case r.Rebuild != nil:
		return n.wrap(fmt.Errorf("%w: %s is being rebuilt", ErrBusy, r.Rebuild.Target), "add leg %s to raid %s", bdev, raid)
	case !r.Has(""):
		return n.wrap(fmt.Errorf("%w: it has no empty slot", ErrConflict), "add leg %s to raid %s", bdev, raid)
	}
	err = BdevRaidAddBaseBdev(ctx, n.rpc, BdevRaidAddBaseBdevParams{RaidBdev: raid, BaseBdev: bdev})
	if err != nil && answered(err) {
		if now, readErr := n.Raid(ctx, raid); readErr == nil && now.Has(bdev) {
			err = nil
		}
	}
	if err != nil {
		return n.wrap(err, "add leg %s to raid %s", bdev, raid)
	}
	return n.afterPendingMessages(ctx, raid)
}

// afterPendingMessages returns when the raid has handled what was under way when it was
// called: bdev_get_iostat sends a message through every thread that has a channel of the
// bdev, behind those that start a rebuild (lib/thread, spdk_for_each_channel).
func (n *Node) afterPendingMessages(ctx context.Context, bdev string) error {
	err := BdevGetIostat(ctx, n.rpc, BdevGetIostatParams{Names: []string{bdev}})
	return n.wrap(err, "wait for raid %s", bdev)
}

// RemoveRaidLeg takes a leg out of a raid; a leg that the raid does not have is success.
// The last leg that holds all data is ErrLastLeg. While an ejection of the leg waits for
// outstanding I/O the answer is ErrBusy.
func (n *Node) RemoveRaidLeg(ctx context.Context, raid, bdev string) error {
	r, err := n.Raid(ctx, raid)
	if err != nil {
		return err
	}
	if !r.Has(bdev) {
		return nil
	}
	others := slices.ContainsFunc(r.Slots, func(s RaidSlot) bool { return s.Bdev != bdev && !isPlaceholder(raid, s.Bdev) && r.Holds(s.Bdev) })
	if r.State == RaidOnline && !others {
		return n.wrap(ErrLastLeg, "remove leg %s from raid %s", bdev, raid)
	}
	err = BdevRaidRemoveBaseBdev(ctx, n.rpc, BdevRaidRemoveBaseBdevParams{Name: bdev})
	if err == nil || !answered(err) {
		return n.wrap(err, "remove leg %s from raid %s", bdev, raid)
	}
	now, readErr := n.Raid(ctx, raid)
	if readErr != nil {
		return readErr
	}
	if !now.Has(bdev) {
		return nil
	}
	return n.wrap(fmt.Errorf("%w: %w", ErrBusy, err), "remove leg %s from raid %s", bdev, raid)
}
