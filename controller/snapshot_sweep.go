package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// abandonAfter is how long a snapshot may be asked for and not taken before what there is of it is deleted.
const abandonAfter = 10 * time.Minute

// sweepSnapshots finishes what is left undone of snapshots, and keeps on record what their lvols hold. It returns what is in the way; clones
// that keep an lvol from being deleted are not.
func (s *Server) sweepSnapshots(ctx context.Context, volumes []*volume.Volume, snapshots []*volume.Snapshot, stocks map[string]lvolStock) error {
	errs := []error{}
	note := func(id string, err error) {
		if err != nil && !errors.Is(err, volume.ErrBusy) && !errors.Is(err, volume.ErrConflict) && !errors.Is(err, spdk.ErrBusy) && !errors.Is(err, volume.ErrNoSnapshot) {
			errs = append(errs, fmt.Errorf("snapshot %s: %w", id, err))
		}
	}
	for _, v := range volumes {
		if v.Snapshot != nil && v.Snapshot.Ended() {
			note(v.Snapshot.Snapshot, s.sweepWish(ctx, v))
		}
	}
	for _, sn := range snapshots {
		note(sn.ID, s.sweepSnapshot(ctx, sn, stocks))
	}
	return errors.Join(errs...)
}

// sweepWish collects the outcome of an attempt that nobody has waited for.
func (s *Server) sweepWish(ctx context.Context, v *volume.Volume) error {
	lock := v.Snapshot.Snapshot
	if v.Snapshot.Group != nil {
		lock = v.Snapshot.Group.ID
	}
	unlock, err := s.locks.Try(lock)
	if err != nil {
		return err
	}
	defer unlock()
	now, err := s.get(ctx, v.ID)
	if errors.Is(err, volume.ErrNotFound) || err == nil && !v.Snapshot.Same(now.Snapshot) {
		return nil
	}
	if err == nil {
		_, err = s.collect(ctx, now)
	}
	return err
}

func (s *Server) sweepSnapshot(ctx context.Context, sn *volume.Snapshot, stocks map[string]lvolStock) error {
	id, lock := sn.ID, sn.ID
	if sn.Group != nil {
		lock = sn.Group.ID
	}
	unlock, err := s.locks.Try(lock)
	if err != nil {
		return err
	}
	defer unlock()
	if sn, err = s.store.GetSnapshot(ctx, id); err != nil {
		return err
	}
	if sn.Leads() && sn.Phase == volume.SnapshotDeleting {
		if err := s.deleteOthers(ctx, sn); err != nil {
			return err
		}
	}
	switch {
	case sn.Group != nil && sn.Phase == volume.SnapshotTaking:
		return s.sweepMember(ctx, sn)
	case sn.Phase == volume.SnapshotTaking:
		return s.sweepTaking(ctx, sn)
	case sn.Phase == volume.SnapshotReady && sn.For != "":
		needed, err := s.cloning(ctx, sn)
		if needed || err != nil {
			return err
		}
		return s.deleteSnapshot(ctx, id)
	}
	if sn, err = s.noteLvols(ctx, sn, stocks); err != nil {
		return err
	}
	if sn.Phase != volume.SnapshotDeleting && len(sn.InState(volume.SnapshotRemoving)) == 0 {
		return nil
	}
	return s.clearSnapshot(ctx, sn)
}

// cloning says whether the volume that needs a hidden snapshot is still being made.
func (s *Server) cloning(ctx context.Context, sn *volume.Snapshot) (bool, error) {
	v, err := s.get(ctx, sn.For)
	if errors.Is(err, volume.ErrNotFound) {
		return false, nil
	}
	return err == nil && v.Phase == volume.PhaseCreating && v.Content != nil && v.Content.Snapshot == sn.ID, err
}

// sweepTaking gives up a snapshot whose volume is gone, or that nobody has asked for again.
func (s *Server) sweepTaking(ctx context.Context, sn *volume.Snapshot) error {
	_, err := s.get(ctx, sn.Source)
	if err != nil && !errors.Is(err, volume.ErrNotFound) {
		return err
	}
	if err == nil && s.clock.Since(sn.CreatedAt) < abandonAfter {
		return nil
	}
	klog.FromContext(ctx).Info("Snapshot that was not taken is given up", "snapshotID", sn.ID, "volumeID", sn.Source)
	return s.deleteSnapshot(ctx, sn.ID)
}

// noteLvols puts on record how much a snapshot's lvols hold, and which are lost. What they hold grows when a snapshot below them is deleted.
func (s *Server) noteLvols(ctx context.Context, sn *volume.Snapshot, stocks map[string]lvolStock) (*volume.Snapshot, error) {
	var lost []string
	for _, r := range sn.InState(volume.SnapshotTaken) {
		st, known := stocks[r.Node]
		missing := known && st.err == nil && st.lvstores[r.LvStore] && !st.lvols[r.LvStore+"/"+sn.LvolName(r)]
		if missing && s.gone(ctx, r.Node, r.LvStore, sn.LvolName(r)) {
			klog.FromContext(ctx).Info("Lvol of a snapshot is gone", "snapshotID", sn.ID, "node", r.Node, "lvstore", r.LvStore)
			lost = append(lost, r.ID)
		}
	}
	change := func(sn *volume.Snapshot) (changed bool) {
		for i, r := range sn.Replicas {
			switch held, seen := stocks[r.Node].bytes[r.LvStore+"/"+sn.LvolName(r)]; {
			case r.State == volume.SnapshotTaken && slices.Contains(lost, r.ID):
				sn.Replicas[i].State, changed = volume.SnapshotRemoving, true
			case seen && held != r.Bytes:
				sn.Replicas[i].Bytes, changed = held, true
			}
		}
		return changed
	}
	if !change(sn.Clone()) {
		s.ledger.setSnapshot(sn)
		return sn, nil
	}
	return s.modifySnapshot(ctx, sn.ID, func(sn *volume.Snapshot) (bool, error) { return change(sn), nil })
}
