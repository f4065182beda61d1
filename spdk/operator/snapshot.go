package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Snapshots returns the records of all snapshots in the order of their sources and moments, those that clones need included.
func (o *Operator) Snapshots(ctx context.Context) ([]*volume.Snapshot, error) {
	snapshots, err := o.store.ListSnapshots(ctx, "", 0)
	if err != nil {
		return nil, fmt.Errorf("read the records of all snapshots: %w", err)
	}
	slices.SortFunc(snapshots, func(a, b *volume.Snapshot) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return snapshots, nil
}

// forgetSnapshot takes the lvols on a node off a snapshot's record, which is changed. lossAllowed lets go of the last of them.
func forgetSnapshot(sn *volume.Snapshot, node string, lossAllowed bool) Forgetting {
	f := Forgetting{Snapshot: sn}
	var gone []string
	for _, r := range sn.Replicas {
		if r.Node != node {
			continue
		}
		gone = append(gone, r.ID)
		f.Lines = append(f.Lines, fmt.Sprintf("lvol %s of the snapshot (%s)", r.ID, r.State))
		f.Lvols = append(f.Lvols, fmt.Sprintf("%s: %s/%s", r.Node, r.LvStore, sn.LvolName(r)))
	}
	usable := sn.Usable()
	sn.Remove(gone...)
	if usable && !sn.Usable() && !lossAllowed {
		f.Err = fmt.Errorf("%w: nothing would be left of snapshot %s (%s); delete it, or say that its data may be lost for good", ErrLastCopy, sn.ID, sn.Name)
	}
	return f
}

// forgetSnapshots says what of snapshots goes with a node, and why some of it may not.
func (o *Operator) forgetSnapshots(ctx context.Context, node string, lossAllowed []string) ([]Forgetting, []error) {
	snapshots, err := o.Snapshots(ctx)
	if err != nil {
		return nil, []error{err}
	}
	var found []Forgetting
	var errs []error
	for _, sn := range snapshots {
		switch f := forgetSnapshot(sn, node, slices.Contains(lossAllowed, sn.ID)); {
		case f.Err != nil:
			errs = append(errs, f.Err)
		case len(f.Lines) > 0:
			found = append(found, f)
		}
	}
	return found, errs
}

// forgetOneSnapshot changes one record. A snapshot that was deleted meanwhile is success.
func (o *Operator) forgetOneSnapshot(ctx context.Context, id, node string, lossAllowed bool) (Forgetting, error) {
	var f Forgetting
	_, err := volume.ModifySnapshot(ctx, o.store, id, func(sn *volume.Snapshot) (bool, error) {
		f = forgetSnapshot(sn, node, lossAllowed)
		return len(f.Lines) > 0, f.Err
	})
	if errors.Is(err, volume.ErrNoSnapshot) {
		err = nil
	}
	return f, err
}
