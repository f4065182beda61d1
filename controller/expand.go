package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// ControllerExpandVolume implements csi.ControllerServer. The new size goes on record once there is room for it on the lvstore of every
// replica. Of a volume that no node service owns the replicas are grown here; of one that is staged its node service does so, when it
// has taken the standby away from the host (docs/design.md, "Growing"), so that the CO is asked to call NodeExpandVolume in any case.
func (s *Server) ControllerExpandVolume(ctx context.Context, req *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	id := req.GetVolumeId()
	switch {
	case id == "":
		return nil, invalid("volume_id is empty")
	case req.GetCapacityRange() == nil:
		return nil, invalid("capacity_range is missing")
	}
	if c := req.GetVolumeCapability(); c != nil {
		if err := checkCapability(c); err != nil {
			return nil, invalid("%v", err)
		}
	}
	required, limit, err := sizes(req.GetCapacityRange())
	if err != nil {
		return nil, err
	}
	unlock, err := s.locks.Try(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	v, err := s.expand(ctx, id, required, limit)
	if err != nil {
		return nil, fmt.Errorf("expand volume %s: %w", id, err)
	}
	return &csi.ControllerExpandVolumeResponse{CapacityBytes: v.CapacityBytes(), NodeExpansionRequired: true}, nil
}

func (s *Server) expand(ctx context.Context, id string, required, limit int64) (*volume.Volume, error) {
	v, err := s.get(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case v.Phase != volume.PhaseReady:
		return nil, fmt.Errorf("%w: it is %s", volume.ErrBusy, v.Phase)
	case limit > 0 && v.CapacityBytes() > limit:
		return nil, status.Errorf(codes.OutOfRange, "capacity_range: volume %s has %d bytes and can't be made smaller; limit_bytes is %d", id, v.CapacityBytes(), limit)
	case v.CapacityBytes() < required:
		if v, err = s.enlarge(ctx, v, required, limit); err != nil {
			return nil, err
		}
	}
	if v.Owner != "" || v.GrowingFrom == 0 {
		return v, nil
	}
	v, g, err := s.grow(ctx, v)
	switch {
	case g.lacking != nil && (g.failed != nil || g.sources == 0):
		return nil, errors.Join(g.lacking, err)
	case g.lacking != nil:
		klog.FromContext(ctx).Info("Volume is grown as far as can be now", "volumeID", id, "bytes", v.SizeBytes, "lacking", g.lacking)
	}
	return v, nil
}

// enlarge puts a larger size on record.
func (s *Server) enlarge(ctx context.Context, v *volume.Volume, required, limit int64) (*volume.Volume, error) {
	for _, r := range v.Replicas {
		s.inventory.forget(r.Node) // what is free there is to be known as of now
	}
	size, err := s.size(ctx, order{required: required, limit: limit, parameters: v.Parameters})
	if err != nil {
		return nil, err
	}
	if err := s.reserve(ctx, v, size); err != nil {
		return nil, err
	}
	from := v.SizeBytes
	// If this fails the record may say it all the same, so that the promise is kept; Sweep sets it right.
	v, err = s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		if v.Phase != volume.PhaseReady || v.SizeBytes != from {
			return false, fmt.Errorf("%w: its size or phase", volume.ErrConflict)
		}
		return true, v.Grow(size)
	})
	if err == nil {
		klog.FromContext(ctx).V(2).Info("Volume is to grow", "volumeID", v.ID, "fromBytes", from, "toBytes", size, "owner", v.Owner)
	}
	return v, err
}

// reserve promises the volume its further room on the lvstore of each of its replicas, or says where that is missing. A replica whose
// node doesn't answer is grown when it comes back: what room there is then is not known.
func (s *Server) reserve(ctx context.Context, v *volume.Volume, size int64) error {
	anywhere := v.Parameters
	anywhere.LvStore, anywhere.NodeSelector = "", nil
	pools, down := s.inventory.pools(ctx, anywhere)
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	var full []string
	for _, r := range v.Replicas {
		if r.State == volume.ReplicaRemoving {
			continue
		}
		p, found := poolOf(pools, r)
		switch most := int64(s.ledger.overcommit * float64(p.TotalBytes)); {
		case !found && down == nil:
			return fmt.Errorf("%w: lvstore %s of replica %s is not on %s", volume.ErrPrecondition, r.LvStore, r.ID, r.Node)
		case !found:
		case size > most:
			return status.Errorf(codes.OutOfRange, "capacity_range: %d bytes are more than lvstore %s of replica %s on %s can ever hold, %d", size, r.LvStore, r.ID, r.Node, most)
		default:
			if room := s.ledger.roomLocked(p, v.Parameters.Thin); room < size-v.SizeBytes {
				full = append(full, fmt.Sprintf("lvstore %s on %s has room for %d MiB", r.LvStore, r.Node, room>>20))
			}
		}
	}
	if len(full) > 0 {
		return fmt.Errorf("%w: it is to grow by %d MiB: %s (each lvstore may be promised %g times its size); add space there or ask for less",
			volume.ErrNoSpace, (size-v.SizeBytes)>>20, strings.Join(full, ", "), s.ledger.overcommit)
	}
	larger := v.Clone()
	larger.SizeBytes = size
	s.ledger.setLocked(larger)
	return nil
}

func poolOf(pools []pool, r volume.Replica) (pool, bool) {
	for _, p := range pools {
		if p.node.Name == r.Node && p.Name == r.LvStore {
			return p, true
		}
	}
	return pool{}, false
}

// growth is how far a volume has come with growing.
type growth struct {
	// sources is how many replicas that are a source have the size, failed why one of them can't have it although its node answers.
	sources int
	failed  error
	// lacking is what is in the way of the whole volume having the size; nil if it has it, and that is on record.
	lacking error
}

// grow makes what there is of a volume that no node service owns what the record says, and puts on record that the volume has its size
// when it does. What keeps it from growing alone is no error. It returns the record as it is then.
func (s *Server) grow(ctx context.Context, v *volume.Volume) (*volume.Volume, growth, error) {
	seen, runErr := s.converger.RunAndObserve(ctx, v)
	err := converge.BesidesGrowth(runErr)
	if v.GrowingFrom == 0 {
		return v, growth{}, err
	}
	g := growth{lacking: volume.CheckGrown(v, seen)}
	var actions *converge.ActionsError
	errors.As(runErr, &actions)
	for _, r := range v.InState(volume.ReplicaInSync, volume.ReplicaSuspect) {
		if seen.Nodes[r.Node].Replicas[r.ID].SizeBytes >= v.SizeBytes {
			g.sources++
		}
		g.failed = errors.Join(g.failed, actions.Of(volume.GrowReplica, r.ID))
	}
	switch {
	case g.lacking == nil:
		now, recordErr := s.recordGrown(ctx, v)
		if recordErr != nil {
			return v, growth{sources: g.sources, lacking: recordErr}, errors.Join(err, recordErr)
		}
		return now, g, err
	case errors.Is(runErr, spdk.ErrMissedResize) && len(v.Publications) == 0 && err == nil:
		return s.growApart(ctx, v)
	}
	g.lacking = errors.Join(g.lacking, runErr)
	return v, g, err
}

// growApart takes apart a raid that missed the new size and that nobody uses. Over legs that are attached anew it has it. That of a
// published volume is left to the node that stages it.
func (s *Server) growApart(ctx context.Context, v *volume.Volume) (*volume.Volume, growth, error) {
	stopping, err := s.modifyUnowned(ctx, v, (*volume.Volume).Stop)
	if err != nil {
		return v, growth{lacking: err}, err
	}
	stopped, err := s.stop(ctx, stopping)
	if err != nil {
		return stopping, growth{lacking: err}, err
	}
	return s.grow(ctx, stopped)
}

// recordGrown puts on record that the volume has the size that v says, unless it is to be larger by now or has an owner to say so.
func (s *Server) recordGrown(ctx context.Context, v *volume.Volume) (*volume.Volume, error) {
	size := v.SizeBytes
	v, err := s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		if v.SizeBytes != size || v.Owner != "" {
			return false, nil
		}
		v.GrowingFrom = 0
		return true, nil
	})
	if err == nil {
		klog.FromContext(ctx).V(2).Info("Volume has grown", "volumeID", v.ID, "bytes", size)
	}
	return v, err
}
