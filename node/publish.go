package node

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// NodePublishVolume implements csi.NodeServer: the staged volume appears at the target path, a directory or, for raw block, a file.
func (s *Server) NodePublishVolume(ctx context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	id, target := req.GetVolumeId(), req.GetTargetPath()
	switch {
	case id == "":
		return nil, invalid("volume_id is empty")
	case target == "":
		return nil, invalid("target_path is empty")
	case req.GetStagingTargetPath() == "":
		return nil, invalid("staging_target_path is empty")
	}
	a, err := readAccess(req.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	a.readOnly = a.readOnly || req.GetReadonly()
	unlock, err := s.locks.Try(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.publish(ctx, id, req.GetStagingTargetPath(), target, a); err != nil {
		return nil, fmt.Errorf("publish volume %s at %s: %w", id, target, err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

func (s *Server) publish(ctx context.Context, id, staging, target string, a access) error {
	st, err := s.stagedAt(ctx, id, staging, a.block)
	if err != nil {
		return err
	}
	if a.single {
		if err := s.onlyTarget(st, target); err != nil {
			return err
		}
	}
	// The target is noted before it is mounted: what a crash leaves mounted is then known.
	if st.addTarget(target) {
		if err := s.state.save(st); err != nil {
			return err
		}
	}
	if !a.block {
		return s.mounts.BindMount(ctx, staging, target, a.readOnly)
	}
	at, err := s.usedDisk(ctx, st)
	if err != nil {
		return err
	}
	if a.readOnly && !at.readOnly {
		return fmt.Errorf("%w: a raw block volume is read-only as a whole or not at all; publish it read-only to the node (ControllerPublishVolume) as well", volume.ErrPrecondition)
	}
	return s.mounts.BindDevice(ctx, at.path, target)
}

// onlyTarget refuses a second target. One that is noted but not mounted, as after a reboot, doesn't count.
func (s *Server) onlyTarget(st *staged, target string) error {
	for _, other := range st.Targets {
		if other == target {
			continue
		}
		mounted, err := s.mounts.Mounts(other)
		if err != nil {
			return err
		}
		if len(mounted) > 0 {
			return fmt.Errorf("%w: it is published at %s, and its access mode allows one target", volume.ErrInUse, other)
		}
	}
	return nil
}

// stagedAt returns what is staged at a path and refuses a volume that is not, or not in the way asked for.
func (s *Server) stagedAt(ctx context.Context, id, staging string, block bool) (*staged, error) {
	if _, err := s.get(ctx, id); err != nil {
		return nil, err
	}
	st, err := s.state.load(id)
	switch {
	case err != nil:
		return nil, err
	case st == nil || st.Path != staging:
		return nil, fmt.Errorf("%w: it is not staged at %s; call NodeStageVolume first", volume.ErrPrecondition, staging)
	case st.Block != block:
		return nil, fmt.Errorf("%w: it is staged as raw block: %t", volume.ErrIncompatible, st.Block)
	case block:
		return st, nil
	}
	mounted, err := s.mounts.Mounts(staging)
	if err == nil && len(mounted) == 0 {
		err = fmt.Errorf("%w: nothing is mounted at %s; call NodeStageVolume first", volume.ErrPrecondition, staging)
	}
	return st, err
}

// NodeUnpublishVolume implements csi.NodeServer.
func (s *Server) NodeUnpublishVolume(ctx context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	id, target := req.GetVolumeId(), req.GetTargetPath()
	switch {
	case id == "":
		return nil, invalid("volume_id is empty")
	case target == "":
		return nil, invalid("target_path is empty")
	}
	unlock, err := s.locks.Try(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.unpublish(ctx, id, target); err != nil {
		return nil, fmt.Errorf("unpublish volume %s from %s: %w", id, target, err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

func (s *Server) unpublish(ctx context.Context, id, target string) error {
	if err := s.mounts.Unmount(ctx, target); err != nil {
		return err
	}
	if err := s.mounts.Remove(target); err != nil {
		return err
	}
	st, err := s.state.load(id)
	if err != nil || st == nil {
		return err
	}
	st.removeTarget(target)
	return s.state.save(st)
}
