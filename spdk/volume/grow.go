package volume

import (
	"errors"
	"fmt"
)

// Grow puts on record that the volume is to offer size bytes, which is more than it does. Until everything has followed, GrowingFrom
// is what it surely has.
//
// A standby that no host is connected to is given up with that: what runs twice has to be of one size for its host. The standby of a
// volume in use is its owner's to give up, before a replica grows.
//
// A snapshot has one size. The attempt to take one that is under way is void, but in its pause the volume doesn't grow: ErrBusy.
func (v *Volume) Grow(size int64) error {
	if v.Snapshot != nil && v.Snapshot.State == WishPausing {
		return fmt.Errorf("%w: a snapshot of it is being taken, which takes seconds; try again then", ErrBusy)
	}
	v.VoidSnapshot("the volume is to grow")
	if v.GrowingFrom == 0 {
		v.GrowingFrom = v.SizeBytes
	}
	v.SizeBytes = size
	if v.Owner == "" {
		v.RetireStandby()
	}
	return nil
}

// LeastBytes is what every replica that is a source, and whatever runs of the volume, surely has: SizeBytes, unless it is being grown.
func (v *Volume) LeastBytes() int64 {
	if v.GrowingFrom > 0 {
		return v.GrowingFrom
	}
	return v.SizeBytes
}

// Fits says whether something that was seen has a size that the record explains.
func (v *Volume) Fits(bytes int64) bool { return bytes >= v.LeastBytes() && bytes <= v.SizeBytes }

// CheckGrown says what of a volume has not the size that it is to have: the replicas that are or may become a source, and the raid if the
// volume runs. Nil says that whatever a host can be given from now on is as large as the volume. Of nodes that don't answer nothing is
// known: ErrNodeDown.
func CheckGrown(v *Volume, seen Observed) error {
	var errs []error
	for _, r := range v.InState(ReplicaInSync, ReplicaSuspect) {
		view, known := seen.Nodes[r.Node]
		switch size := view.Replicas[r.ID].SizeBytes; {
		case !known || view.Err != nil:
			errs = append(errs, fmt.Errorf("%w: replica %s on %s is grown when it does: %w", ErrNodeDown, r.ID, r.Node, view.Err))
		case size < v.SizeBytes:
			errs = append(errs, fmt.Errorf("replica %s on %s has %d bytes, the volume is to have %d", r.ID, r.Node, size, v.SizeBytes))
		}
	}
	if a := v.Assembly; a != nil && !a.Stopping {
		view, known := seen.Nodes[a.RaidHost]
		switch {
		case !known || view.Err != nil:
			errs = append(errs, fmt.Errorf("%w: raid host %s: %w", ErrNodeDown, a.RaidHost, view.Err))
		case view.Raid == nil || !view.Raid.Online:
			errs = append(errs, fmt.Errorf("the raid on %s is not online", a.RaidHost))
		case view.Raid.SizeBytes < v.SizeBytes:
			errs = append(errs, fmt.Errorf("the raid on %s has %d bytes, the volume is to have %d", a.RaidHost, view.Raid.SizeBytes, v.SizeBytes))
		}
	}
	return errors.Join(errs...)
}
