package controller

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// DeleteVolume implements csi.ControllerServer. It succeeds when every replica is known to be gone. While a node that holds one
// doesn't answer it fails with what it waits for, and Sweep, too, goes on trying.
func (s *Server) DeleteVolume(ctx context.Context, req *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	id := req.GetVolumeId()
	if id == "" {
		return nil, invalid("volume_id is empty")
	}
	unlock, err := s.locks.Try(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.delete(ctx, id); err != nil {
		return nil, fmt.Errorf("delete volume %s: %w", id, err)
	}
	return &csi.DeleteVolumeResponse{}, nil
}

func (s *Server) delete(ctx context.Context, id string) error {
	v, err := s.get(ctx, id)
	if errors.Is(err, volume.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	v, err = s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		if len(v.Publications) > 0 {
			return false, fmt.Errorf("%w: it is published to node %s; unpublish it first", volume.ErrInUse, v.Publications[0].Node)
		}
		changed := v.Phase != volume.PhaseDeleting
		v.Phase = volume.PhaseDeleting
		return changed, nil
	})
	if err != nil {
		return err
	}
	return s.finishDelete(ctx, v)
}

// finishDelete takes down a volume in PhaseDeleting and, when nothing is left of it, its record.
func (s *Server) finishDelete(ctx context.Context, v *volume.Volume) error {
	v, err := s.stop(ctx, v)
	if err != nil {
		return err
	}
	if err := s.converger.Run(ctx, v); err != nil {
		return err
	}
	if err := s.store.Delete(ctx, v); err != nil && !errors.Is(err, volume.ErrNotFound) {
		return err
	}
	s.ledger.drop(v.ID)
	if v.Content != nil && v.Content.Volume != "" { // a clone that was not finished has it still
		if err := s.deleteSnapshot(ctx, v.Content.Snapshot); err != nil {
			klog.FromContext(ctx).V(2).Info("The snapshot of a clone is deleted later", "volumeID", v.ID, "err", err)
		}
	}
	klog.FromContext(ctx).V(2).Info("Volume deleted", "volumeID", v.ID)
	return nil
}
