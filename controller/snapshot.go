package controller

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// CreateSnapshot implements csi.ControllerServer. It returns when the snapshot is taken.
func (s *Server) CreateSnapshot(ctx context.Context, req *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	name, source := req.GetName(), req.GetSourceVolumeId()
	if err := checkName(name); err != nil {
		return nil, err
	}
	if source == "" {
		return nil, invalid("source_volume_id is empty")
	}
	if err := checkNoParameters("VolumeSnapshotClass", req.GetParameters()); err != nil {
		return nil, err
	}
	id := volume.SnapshotIDFor(name)
	unlock, err := s.locks.Try(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	sn, err := s.createSnapshot(ctx, id, name, source)
	if err != nil {
		return nil, fmt.Errorf("create snapshot %q of volume %s: %w", name, source, err)
	}
	return &csi.CreateSnapshotResponse{Snapshot: describeSnapshot(sn)}, nil
}

// createSnapshot finds the record of an earlier call or makes one, and has the snapshot taken.
func (s *Server) createSnapshot(ctx context.Context, id, name, source string) (*volume.Snapshot, error) {
	sn, err := s.store.GetSnapshot(ctx, id)
	switch {
	case errors.Is(err, volume.ErrNoSnapshot):
		if sn, err = s.recordSnapshot(ctx, &volume.Snapshot{ID: id, Name: name, Source: source}); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case sn.Name != name || sn.Source != source || sn.Group != nil:
		return nil, fmt.Errorf("%w: it is one of volume %s", volume.ErrSnapshotDiffers, sn.Source)
	case sn.Phase == volume.SnapshotDeleting:
		return nil, fmt.Errorf("%w: a snapshot of that name is still being deleted; if volumes made of it are the reason, it goes with all but one of them", volume.ErrBusy)
	case sn.Phase == volume.SnapshotReady:
		return sn, nil
	}
	return s.take(ctx, sn)
}

// recordSnapshot puts a snapshot on record before anything of it exists.
func (s *Server) recordSnapshot(ctx context.Context, sn *volume.Snapshot) (*volume.Snapshot, error) {
	v, err := s.get(ctx, sn.Source)
	if err != nil {
		return nil, err
	}
	if err := mayBeSource(v); err != nil {
		return nil, err
	}
	sn.UUID, sn.SizeBytes, sn.Phase, sn.CreatedAt = uuid.New(), v.SizeBytes, volume.SnapshotTaking, s.clock.Now().UTC()
	sn.Encryption = v.Parameters.Encryption
	if err := s.store.CreateSnapshot(ctx, sn); err != nil {
		if errors.Is(err, volume.ErrExists) {
			return nil, fmt.Errorf("%w: another controller has just begun it", volume.ErrBusy)
		}
		return nil, err
	}
	return sn, nil
}

// mayBeSource says why no snapshot can be taken of a volume; nil if one can.
func mayBeSource(v *volume.Volume) error {
	switch v.Phase {
	case volume.PhaseReady:
		return nil
	case volume.PhaseDeleting:
		return fmt.Errorf("%w: volume %s is being deleted", volume.ErrPrecondition, v.ID)
	}
	return fmt.Errorf("%w: volume %s is still being created", volume.ErrBusy, v.ID)
}

// DeleteSnapshot implements csi.ControllerServer. What can't go yet, because several volumes lie on it or a node doesn't answer, Sweep
// deletes later.
func (s *Server) DeleteSnapshot(ctx context.Context, req *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	id := req.GetSnapshotId()
	switch {
	case id == "":
		return nil, invalid("snapshot_id is empty")
	case !volume.ValidSnapshotID(id):
		return &csi.DeleteSnapshotResponse{}, nil
	}
	unlock, err := s.locks.Try(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	sn, err := s.store.GetSnapshot(ctx, id)
	if err == nil && sn.Group != nil {
		return nil, invalid("snapshot %s is part of group %s, which can only be deleted as a whole", id, sn.Group.ID)
	}
	if err == nil {
		err = s.deleteSnapshot(ctx, id)
	}
	if err != nil && !errors.Is(err, volume.ErrNoSnapshot) {
		return nil, fmt.Errorf("delete snapshot %s: %w", id, err)
	}
	return &csi.DeleteSnapshotResponse{}, nil
}

func (s *Server) deleteSnapshot(ctx context.Context, id string) error {
	sn, err := s.store.GetSnapshot(ctx, id)
	if errors.Is(err, volume.ErrNoSnapshot) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.withdraw(ctx, sn); err != nil {
		return err
	}
	sn, err = s.modifySnapshot(ctx, id, func(sn *volume.Snapshot) (bool, error) {
		changed := sn.Phase != volume.SnapshotDeleting
		sn.Delete()
		return changed, nil
	})
	if errors.Is(err, volume.ErrNoSnapshot) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.clearSnapshot(ctx, sn); err != nil {
		klog.FromContext(ctx).V(2).Info("What is left of a snapshot is deleted later", "snapshotID", id, "err", err)
	}
	return nil
}

// withdraw takes the wish for a snapshot off its volume's record. An owner that is at it finds that and gives it up.
func (s *Server) withdraw(ctx context.Context, sn *volume.Snapshot) error {
	if sn.Phase != volume.SnapshotTaking {
		return nil
	}
	_, err := s.modify(ctx, sn.Source, func(v *volume.Volume) (bool, error) {
		if v.Snapshot == nil || v.Snapshot.Snapshot != sn.ID {
			return false, nil
		}
		if v.Snapshot.State == volume.WishPausing {
			return false, fmt.Errorf("%w: it is being taken", volume.ErrBusy)
		}
		v.Snapshot = nil
		return true, nil
	})
	if errors.Is(err, volume.ErrNotFound) {
		return nil
	}
	return err
}

// clearSnapshot deletes the lvols of a snapshot that are to go, and its record with the last of them. A snapshot of which a volume is being
// made is left alone. It returns what is in the way.
func (s *Server) clearSnapshot(ctx context.Context, sn *volume.Snapshot) error {
	if sn.Phase == volume.SnapshotDeleting {
		if err := s.neededBy(ctx, sn); err != nil {
			return err
		}
	}
	gone, clearErr := s.converger.DeleteSnapshots(ctx, sn)
	if len(gone) > 0 {
		var err error
		if sn, err = s.modifySnapshot(ctx, sn.ID, func(sn *volume.Snapshot) (bool, error) {
			sn.Remove(gone...)
			return true, nil
		}); err != nil {
			return err
		}
	}
	if clearErr != nil || sn.Phase != volume.SnapshotDeleting || len(sn.Replicas) > 0 {
		return clearErr
	}
	if err := s.store.DeleteSnapshot(ctx, sn); err != nil && !errors.Is(err, volume.ErrNoSnapshot) {
		return err
	}
	s.ledger.drop(sn.ID)
	klog.FromContext(ctx).V(2).Info("Snapshot deleted", "snapshotID", sn.ID)
	return nil
}

// neededBy says which volume is being made of a snapshot; nil if none is. CreateVolume puts the volume on record before it looks whether
// the snapshot is being deleted, so that one of the two sees the other.
func (s *Server) neededBy(ctx context.Context, sn *volume.Snapshot) error {
	volumes, err := s.store.List(ctx, "", 0)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if v.Phase == volume.PhaseCreating && v.Content != nil && v.Content.Snapshot == sn.ID {
			return fmt.Errorf("%w: volume %s is being made of it", volume.ErrBusy, v.ID)
		}
	}
	return nil
}

// modifySnapshot changes a record and keeps the ledger in step with it.
func (s *Server) modifySnapshot(ctx context.Context, id string, change func(*volume.Snapshot) (bool, error)) (*volume.Snapshot, error) {
	sn, err := volume.ModifySnapshot(ctx, s.store, id, change)
	if err != nil {
		return nil, err
	}
	s.ledger.setSnapshot(sn)
	return sn, nil
}

func describeSnapshot(sn *volume.Snapshot) *csi.Snapshot {
	described := &csi.Snapshot{
		SnapshotId: sn.ID, SourceVolumeId: sn.Source, SizeBytes: sn.CapacityBytes(), CreationTime: timestamppb.New(sn.TakenAt), ReadyToUse: sn.Usable(),
	}
	if sn.Group != nil {
		described.GroupSnapshotId = sn.Group.ID
	}
	return described
}
