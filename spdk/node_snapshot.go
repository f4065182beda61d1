package spdk

import (
	"context"
	"errors"
	"fmt"
)

// TakeSnapshot takes a snapshot of an lvol, which may be in use, under a name that has never been used. It is one call and reads nothing: it
// is made while I/O waits.
//
// An answer other than success means that there is no snapshot of this moment. After ErrUnknownOutcome one of that name may turn up
// later, and tells nothing of this moment either; whoever repeats it uses another name and deletes this one.
func (n *Node) TakeSnapshot(ctx context.Context, lvstore, lvol, name string) error {
	_, err := BdevLvolSnapshot(ctx, n.rpc, BdevLvolSnapshotParams{LvolName: lvstore + "/" + lvol, SnapshotName: name})
	return n.wrap(err, "take snapshot %s of lvol %s/%s", name, lvstore, lvol)
}

// CloneSpec describes an lvol to make of a snapshot.
type CloneSpec struct {
	LvStore, Snapshot, Name string
	// SizeBytes is at least the snapshot's size; the lvol grows to it, rounded up to whole clusters.
	SizeBytes int64
	// ClearMethod is what is done to the lvol's own clusters when it is deleted.
	ClearMethod ClearMethod
}

// keeper names the lvol that lies on a snapshot until the clone does.
func keeper(clone string) string { return clone + "-keeper" }

// CloneLvol makes a thin lvol that begins with a snapshot's content, or finds it made or begun. Nothing is copied. An lvol of that name that
// is another's clone, holds data or is larger is ErrConflict; a missing snapshot ErrNotFound. Only with success has the lvol the content.
//
// bdev_lvol_clone would leave the clone without a clear method: its clusters would be unmapped, whatever the snapshot's are
// (lib/blob/blobstore.c, bs_clone_snapshot_newblob_open_cpl sets it for snapshots alone). So an empty lvol is made and put on the snapshot,
// on which another one lies meanwhile if none does.
func (n *Node) CloneLvol(ctx context.Context, spec CloneSpec) (Lvol, error) {
	fail := func(err error) (Lvol, error) {
		return Lvol{}, n.wrap(err, "clone snapshot %s/%s as %s", spec.LvStore, spec.Snapshot, spec.Name)
	}
	snapshot, err := n.Lvol(ctx, spec.LvStore, spec.Snapshot)
	if err != nil {
		return fail(err)
	}
	l, err := n.Lvol(ctx, spec.LvStore, spec.Name)
	if isNotFound(err) {
		l, err = n.CreateLvol(ctx, LvolSpec{LvStore: spec.LvStore, Name: spec.Name, SizeBytes: snapshot.SizeBytes, Thin: true, ClearMethod: spec.ClearMethod})
	}
	switch {
	case err != nil:
		return fail(err)
	case l.Base != "" && l.Base != spec.Snapshot || l.Base == "" && l.AllocatedBytes > 0:
		return fail(fmt.Errorf("%w: it lies on %q and has %d bytes of its own", ErrConflict, l.Base, l.AllocatedBytes))
	case l.SizeBytes > spec.SizeBytes && l.SizeBytes > snapshot.SizeBytes || snapshot.SizeBytes > spec.SizeBytes:
		return fail(fmt.Errorf("%w: it has %d bytes and the snapshot %d, wanted are %d", ErrConflict, l.SizeBytes, snapshot.SizeBytes, spec.SizeBytes))
	}
	if l.Base == "" {
		if err := n.setParent(ctx, spec, snapshot); err != nil {
			return fail(err)
		}
	}
	if err := n.DeleteLvol(ctx, spec.LvStore, keeper(spec.Name)); err != nil {
		return fail(err)
	}
	if err := n.ResizeLvol(ctx, spec.LvStore, spec.Name, spec.SizeBytes); err != nil {
		return fail(err)
	}
	return n.Lvol(ctx, spec.LvStore, spec.Name)
}

// setParent puts the clone on the snapshot.
func (n *Node) setParent(ctx context.Context, spec CloneSpec, snapshot Lvol) error {
	if snapshot.Clones == 0 {
		_, err := BdevLvolClone(ctx, n.rpc, BdevLvolCloneParams{SnapshotName: snapshot.UUID, CloneName: keeper(spec.Name)})
		if err != nil && !answered(err) {
			return err
		}
		if _, readErr := n.Lvol(ctx, spec.LvStore, keeper(spec.Name)); readErr != nil {
			return errors.Join(readErr, err)
		}
	}
	err := BdevLvolSetParent(ctx, n.rpc, BdevLvolSetParentParams{LvolName: spec.LvStore + "/" + spec.Name, ParentName: snapshot.UUID})
	if err != nil && answered(err) {
		if now, readErr := n.Lvol(ctx, spec.LvStore, spec.Name); readErr == nil && now.Base == spec.Snapshot {
			return nil
		}
	}
	return err
}

// DeleteClone deletes what CloneLvol makes, also what it has only begun; an absent one is success. Its errors are DeleteLvol's.
func (n *Node) DeleteClone(ctx context.Context, lvstore, name string) error {
	if err := n.DeleteLvol(ctx, lvstore, keeper(name)); err != nil {
		return err
	}
	return n.DeleteLvol(ctx, lvstore, name)
}

// DeleteSnapshot deletes a snapshot's lvol; an absent one is success. With one lvol on it SPDK gives that its clusters. With more than one
// it can't be deleted: ErrBusy.
func (n *Node) DeleteSnapshot(ctx context.Context, lvstore, name string) error {
	l, err := n.Lvol(ctx, lvstore, name)
	switch {
	case isNotFound(err):
		return nil
	case err != nil:
		return err
	case l.Clones > 1:
		return n.wrap(fmt.Errorf("%w: %d lvols lie on it", ErrBusy, l.Clones), "delete snapshot %s/%s", lvstore, name)
	}
	return n.DeleteLvol(ctx, lvstore, name)
}

// WithdrawSnapshot deletes a snapshot's lvol, of which it isn't known whether it was made, and returns when none of that name will be made any
// more by a call that is under way: ErrBusy while one may be, as on a disk that hangs. SPDK keeps the name of an lvol that it is making
// (lib/lvol/lvol.c, lvs_verify_lvol_name); whether it does is found out by making an lvol of that name, which is deleted again.
func (n *Node) WithdrawSnapshot(ctx context.Context, lvstore, name string) error {
	if err := n.DeleteSnapshot(ctx, lvstore, name); err != nil {
		return err
	}
	if _, err := n.lvStore(ctx, lvstore); isNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	_, err := BdevLvolCreate(ctx, n.rpc, BdevLvolCreateParams{LvolName: name, LvsName: lvstore, SizeInMiB: 1, ThinProvision: true})
	switch {
	case err == nil:
		return n.DeleteLvol(ctx, lvstore, name)
	case answered(err):
		return n.wrap(fmt.Errorf("%w: it may still be being made: %w", ErrBusy, err), "withdraw snapshot %s/%s", lvstore, name)
	}
	return n.wrap(err, "withdraw snapshot %s/%s", lvstore, name)
}
