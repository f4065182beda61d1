package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/node/mount"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// statsLimit bounds one measurement: a CO asks for all volumes of a node, and one whose target is gone must not keep the others waiting.
const statsLimit = 5 * time.Second

// NodeGetVolumeStats implements csi.NodeServer: bytes and inodes of a file system, bytes of a raw block volume. It works from the
// node's own note, so that it goes on while the store is away. That a file system has become read-only is NodeGetVolumeHealth's to tell:
// since version 1.13 of the specification there is no field for it here.
func (s *Server) NodeGetVolumeStats(ctx context.Context, req *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	id, path := req.GetVolumeId(), req.GetVolumePath()
	switch {
	case id == "":
		return nil, invalid("volume_id is empty")
	case path == "":
		return nil, invalid("volume_path is empty")
	}
	ctx, cancel := context.WithTimeout(ctx, statsLimit)
	defer cancel()
	st, err := s.state.load(id)
	if err != nil {
		return nil, err
	}
	if st == nil || path != st.Path && !slices.Contains(st.Targets, path) {
		return nil, fmt.Errorf("%w: volume %s is not at %s on this node", volume.ErrNotFound, id, path)
	}
	if st.Block {
		at, err := s.usedDisk(ctx, st)
		if err != nil {
			return nil, fmt.Errorf("measure volume %s: %w", id, err)
		}
		return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: at.bytes}}}, nil
	}
	u, err := s.fs.Stats(ctx, path)
	if errors.Is(err, mount.ErrNotMounted) {
		return nil, fmt.Errorf("%w: volume %s is not mounted at %s", volume.ErrNotFound, id, path)
	}
	if err != nil {
		return nil, fmt.Errorf("measure volume %s at %s: %w", id, path, err)
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: u.TotalBytes, Used: u.UsedBytes, Available: u.AvailableBytes},
		{Unit: csi.VolumeUsage_INODES, Total: u.TotalInodes, Used: u.UsedInodes, Available: u.FreeInodes},
	}}, nil
}
