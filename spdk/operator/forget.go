package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Forgetting is what is taken off one record because it will never return: a volume's, or a snapshot's.
type Forgetting struct {
	Volume   *volume.Volume
	Snapshot *volume.Snapshot
	// Lines name what goes, one thing each, for a person.
	Lines []string
	// Lvols are the lvols that nobody knows of any more if their node returns after all, as "node: lvstore/lvol".
	Lvols []string
	// Err says why it may not go; then nothing is changed.
	Err error
}

// Name is what the record's object is called.
func (f Forgetting) Name() string {
	if f.Snapshot != nil {
		return cmp.Or(f.Snapshot.Name, f.Snapshot.ID)
	}
	return f.Volume.Name
}

// forget takes everything on an SPDK node, or with replica not empty that replica alone, off v, which is changed. lossAllowed lets
// go of the last replica that could be a source.
func forget(v *volume.Volume, node, replica string, lossAllowed bool, s condition.Sight) Forgetting {
	f := Forgetting{Volume: v}
	goes := func(r volume.Replica) bool { return r.Node == node && (replica == "" || r.ID == replica) }
	if f.Err = mayForget(v, node, goes, replica == "", lossAllowed, s); f.Err != nil {
		return f
	}
	var gone []string
	v.Replicas = slices.DeleteFunc(v.Replicas, func(r volume.Replica) bool {
		if !goes(r) {
			return false
		}
		gone = append(gone, r.ID)
		f.Lines = append(f.Lines, fmt.Sprintf("replica %s (%s)", r.ID, r.State))
		f.Lvols = append(f.Lvols, fmt.Sprintf("%s: %s/%s", r.Node, r.LvStore, v.LvolName(r)))
		return true
	})
	if replica == "" {
		f.Lines = append(f.Lines, forgetAssemblies(v, node)...)
	}
	f.forgetLegs(gone)
	return f
}

// forgetAssemblies takes off the record what ran on a node, or was to, and says what.
func forgetAssemblies(v *volume.Volume, node string) []string {
	var lines []string
	if a := v.Assembly; a != nil && a.RaidHost == node {
		lines = append(lines, fmt.Sprintf("assembly %d, of a volume that is being deleted", a.Number))
		v.Assembly, v.Owner = nil, ""
	}
	if a := v.Standby; a != nil && a.RaidHost == node {
		lines = append(lines, fmt.Sprintf("standby (assembly %d)", a.Number))
		v.Standby = nil
	}
	v.Retired = slices.DeleteFunc(v.Retired, func(a volume.Assembly) bool {
		if a.RaidHost != node {
			return false
		}
		lines = append(lines, fmt.Sprintf("former assembly %d", a.Number))
		return true
	})
	if v.MoveTo == node {
		lines = append(lines, "the wish to move there")
		v.MoveTo = ""
	}
	return lines
}

// forgetLegs takes replicas that are off the record out of the assemblies' legs, too.
func (f *Forgetting) forgetLegs(gone []string) {
	drop := func(a *volume.Assembly) {
		if a != nil {
			a.Legs = slices.DeleteFunc(a.Legs, func(id string) bool { return slices.Contains(gone, id) })
		}
	}
	drop(f.Volume.Assembly)
	drop(f.Volume.Standby)
	for i := range f.Volume.Retired {
		drop(&f.Volume.Retired[i])
	}
}

// mayForget says why replicas, and with wholeNode the assemblies on the node, can't be taken off a record; nil if they can.
func mayForget(v *volume.Volume, node string, goes func(volume.Replica) bool, wholeNode, lossAllowed bool, s condition.Sight) error {
	if v.Phase == volume.PhaseDeleting {
		return nil // its data are to go
	}
	switch a, standby := v.Assembly, v.Standby; {
	case a != nil && a.RaidHost == node && wholeNode:
		return fmt.Errorf("%w: %s is its raid host. %s", volume.ErrInUse, node, wayOff(v))
	case a != nil && a.Held:
		return fmt.Errorf("%w: it is being moved to %s, and the record still says who is to be cut off; try again when it has moved", volume.ErrBusy, a.RaidHost)
	case standby != nil && standby.RaidHost == node && wholeNode && v.Owner != "":
		return fmt.Errorf("%w: its standby is there, and %s has a path to it; the node service there gives both up when the standby has not answered for %s, so try again then",
			volume.ErrBusy, v.Owner, v.Parameters.Budgets.ReplicaStall)
	}
	data, source := false, false
	for _, r := range v.Replicas {
		if !goes(r) {
			source = source || r.State == volume.ReplicaInSync
			continue
		}
		if leg, _ := s.Leg(v, r); leg != condition.LegNone {
			return fmt.Errorf("%w: the raid on %s has replica %s on %s as a leg (%s): it is not gone", volume.ErrInUse, v.Assembly.RaidHost, r.ID, node, leg)
		}
		data = data || r.State != volume.ReplicaPlanned && r.State != volume.ReplicaRemoving
	}
	if data && !source && !lossAllowed {
		return fmt.Errorf("%w: no in-sync replica would be left on record; salvage another, or say that its data may be lost for good", ErrLastCopy)
	}
	return nil
}

// wayOff says how a volume leaves a raid host that doesn't answer.
func wayOff(v *volume.Volume) string {
	switch {
	case v.Assembly.Stopping:
		return "It is being taken down; if that waits for an in-sync replica that never returns, salvage the volume"
	case v.Owner != "":
		return fmt.Sprintf("The node service on %s moves it to another; if %s is lost, too, unpublish the volume there", v.Owner, v.Owner)
	}
	return "Nobody has it staged: unpublish it"
}

// ForgetNode takes an SPDK node that never returns off the records of all volumes and snapshots: its replicas, its standbys and what it may
// still run of former assemblies, and its lvols of snapshots. lossAllowed are the IDs of volumes that may lose their last in-sync replica by
// that, and of snapshots that may lose their last lvol. With commit false it
// says what would go and changes nothing.
//
// Either everything that was refused is in the error and nothing was changed, or the records were changed one after the other; then
// an error says where that ended, and the call may be repeated.
func (o *Operator) ForgetNode(ctx context.Context, node string, lossAllowed []string, commit bool) ([]Forgetting, error) {
	if err := o.mustAsk(); err != nil {
		return nil, err
	}
	sight := o.Look(ctx)
	if err := isGone(node, sight); err != nil {
		return nil, err
	}
	volumes, err := o.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	allowed := func(v *volume.Volume) bool { return slices.Contains(lossAllowed, v.ID) }
	found, errs := []Forgetting{}, []error{}
	for _, v := range volumes {
		f := forget(v, node, "", allowed(v), sight)
		switch {
		case f.Err != nil:
			errs = append(errs, fmt.Errorf("volume %s (%s): %w", v.ID, v.Name, f.Err))
		case len(f.Lines) > 0:
			found = append(found, f)
		}
	}
	snapshots, snapshotErrs := o.forgetSnapshots(ctx, node, lossAllowed)
	found, errs = append(found, snapshots...), append(errs, snapshotErrs...)
	for _, id := range lossAllowed {
		if !volume.ValidSnapshotID(id) && !slices.ContainsFunc(volumes, func(v *volume.Volume) bool { return v.ID == id }) {
			errs = append(errs, fmt.Errorf("%w: %s, which may lose its data", volume.ErrNotFound, id))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if !commit {
		return found, nil
	}
	for i, f := range found {
		if f.Snapshot != nil {
			if found[i], err = o.forgetOneSnapshot(ctx, f.Snapshot.ID, node, slices.Contains(lossAllowed, f.Snapshot.ID)); err != nil {
				return found[:i], fmt.Errorf("snapshot %s (%s): %w", f.Snapshot.ID, f.Snapshot.Name, err)
			}
			continue
		}
		if found[i], err = o.forgetOne(ctx, f.Volume.ID, node, "", allowed(f.Volume), sight); err != nil {
			return found[:i], fmt.Errorf("volume %s (%s): %w", f.Volume.ID, f.Volume.Name, err)
		}
	}
	return found, nil
}

// isGone says why an SPDK node can't be taken for gone. When no other answers either, it is rather this machine that is cut off.
func isGone(node string, s condition.Sight) error {
	err := s.Err(node)
	var answer *spdk.Error
	if err == nil || errors.As(err, &answer) {
		return fmt.Errorf("%w: SPDK node %s answers, so that it is not gone: drain it instead, or stop its SPDK process first", ErrRefused, node)
	}
	for name := range s {
		if name != node && s.Err(name) == nil {
			return nil
		}
	}
	return fmt.Errorf("%w: no other SPDK node answers either: look at the network and the certificates of this machine first: %w", ErrRefused, err)
}

// forgetOne changes one record. A volume that was deleted meanwhile is success.
func (o *Operator) forgetOne(ctx context.Context, id, node, replica string, lossAllowed bool, s condition.Sight) (Forgetting, error) {
	var f Forgetting
	_, err := volume.Modify(ctx, o.store, id, func(v *volume.Volume) (bool, error) {
		f = forget(v, node, replica, lossAllowed, s)
		return len(f.Lines) > 0, f.Err
	})
	if errors.Is(err, volume.ErrNotFound) {
		err = nil
	}
	return f, err
}

// ForgetReplica takes one replica off a volume's record although its lvol is not known to be gone, as when its disk is lost and the
// controller is not to wait for it. A replica whose lvol is there is refused. lossAllowed and commit are as with ForgetNode.
func (o *Operator) ForgetReplica(ctx context.Context, v *volume.Volume, replica string, lossAllowed, commit bool) (Forgetting, error) {
	if err := o.mustAsk(); err != nil {
		return Forgetting{}, err
	}
	r := v.Replica(replica)
	if r == nil {
		return Forgetting{}, noSuchReplica(v, replica)
	}
	sight := o.lookAt(ctx, v.Nodes()...)
	for _, seen := range o.replicas(ctx, v, sight) {
		switch {
		case seen.ID != replica || seen.Missing || !seen.Answers:
		case seen.SizeBytes > 0:
			return Forgetting{}, fmt.Errorf("%w: replica %s is there (lvol %s on %s): it is rebuilt where it is, or replaced, by itself",
				ErrRefused, replica, seen.Lvol, r.Node)
		default:
			return Forgetting{}, fmt.Errorf("%w: it is not known whether replica %s is there: %s", ErrRefused, replica, seen.Problem)
		}
	}
	if !commit {
		f := forget(v.Clone(), r.Node, replica, lossAllowed, sight)
		return f, f.Err
	}
	return o.forgetOne(ctx, v.ID, r.Node, replica, lossAllowed, sight)
}

func noSuchReplica(v *volume.Volume, replica string) error {
	var ids []string
	for _, r := range v.Replicas {
		ids = append(ids, r.ID)
	}
	return fmt.Errorf("%w: volume %s has no replica %q; it has %v", ErrRefused, v.ID, replica, ids)
}
