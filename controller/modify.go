package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

const (
	// limitsLimit bounds the wait for limits to be in force.
	limitsLimit = 30 * time.Second
	// limitsInterval is how often what runs is looked at meanwhile.
	limitsInterval = 500 * time.Millisecond
)

// ControllerModifyVolume implements csi.ControllerServer. What is asked for is put on record in one write, once there is room for further
// replicas, and comes true by whoever owns the volume. It succeeds when the limits were read back from whatever runs of the volume, and
// further replicas are on record: they are rebuilt, and those too many deleted, afterwards.
func (s *Server) ControllerModifyVolume(ctx context.Context, req *csi.ControllerModifyVolumeRequest) (*csi.ControllerModifyVolumeResponse, error) {
	id := req.GetVolumeId()
	if id == "" {
		return nil, invalid("volume_id is empty")
	}
	unlock, err := s.locks.Try(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.change(ctx, id, req.GetMutableParameters()); err != nil {
		return nil, fmt.Errorf("modify volume %s: %w", id, err)
	}
	return &csi.ControllerModifyVolumeResponse{}, nil
}

func (s *Server) change(ctx context.Context, id string, mutable map[string]string) error {
	v, err := s.get(ctx, id)
	switch {
	case err != nil:
		return err
	case v.Phase != volume.PhaseReady:
		return fmt.Errorf("%w: it is %s", volume.ErrBusy, v.Phase)
	}
	wanted, err := v.Parameters.Modified(mutable)
	if err != nil {
		return invalid("mutable_parameters: %v", err)
	}
	if !wanted.Equal(v.Parameters) {
		if v, err = s.recordChange(ctx, v, wanted); err != nil {
			return err
		}
	}
	return s.bringAbout(ctx, v)
}

// recordChange puts other mutable parameters on record, with the places of further replicas.
func (s *Server) recordChange(ctx context.Context, v *volume.Volume, wanted volume.Parameters) (*volume.Volume, error) {
	placed := v.Clone()
	placed.Parameters = wanted
	if wanted.Replicas > v.Parameters.Replicas {
		for _, n := range s.cluster.Nodes() {
			s.inventory.forget(n.Name) // what is free is to be known as of now
		}
		if err := s.place(ctx, placed, nil); err != nil {
			return nil, err
		}
	}
	was, count := v.Parameters, len(v.Replicas)
	// If this fails the record may say it all the same, so that the promise is kept; Sweep sets it right.
	v, err := s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		if v.Phase != volume.PhaseReady || !v.Parameters.Equal(was) || len(v.Replicas) != count {
			return false, fmt.Errorf("%w: its phase, parameters or replicas", volume.ErrConflict)
		}
		v.Parameters, v.Modified, v.Review = wanted, true, v.Review || v.Owner != ""
		v.Replicas = append(v.Replicas, placed.Replicas[count:]...)
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	klog.FromContext(ctx).V(2).Info("Volume is modified", "volumeID", v.ID, "limits", wanted.Limits, "replicas", wanted.Replicas, "replicasBefore", was.Replicas, "owner", v.Owner)
	return v, nil
}

// bringAbout does of what is on record what is the controller's, and waits until the limits are in force.
func (s *Server) bringAbout(ctx context.Context, v *volume.Volume) error {
	if unfinished(v) {
		finished, err := s.finish(ctx, v)
		if err != nil {
			klog.FromContext(ctx).Info("Modified volume is not as its record wants it yet", "volumeID", v.ID, "err", err)
		} else {
			v = finished
		}
	}
	if v.Owner == "" {
		if shrunk, err := s.shrink(ctx, v); err != nil {
			klog.FromContext(ctx).Info("Replicas that aren't needed any more are deleted later", "volumeID", v.ID, "err", err)
		} else {
			v = shrunk
		}
	}
	return s.awaitLimits(ctx, v.ID)
}

// awaitLimits returns when whatever runs of a volume is seen with the limits on record. Those of a volume that no node service owns it sets.
func (s *Server) awaitLimits(ctx context.Context, id string) error {
	limited, cancel := context.WithTimeout(ctx, limitsLimit)
	defer cancel()
	timer := time.NewTimer(limitsInterval)
	defer timer.Stop()
	for {
		v, err := s.get(ctx, id)
		if err != nil {
			return err
		}
		seen := s.converger.Observe(limited, v)
		if v.Owner == "" && v.Assembly != nil && !v.LimitsInForce(seen) {
			seen, err = s.converger.RunAndObserve(limited, v)
		}
		if v.LimitsInForce(seen) {
			return nil
		}
		select {
		case <-timer.C:
			timer.Reset(limitsInterval)
		case <-limited.Done():
			return errors.Join(fmt.Errorf("%w: the limits are on record and not in force yet on %s; they will be when %s gets to it, or the volume is assembled anew",
				volume.ErrNodeDown, strings.Join(runsOn(v), ", "), cmp.Or(v.Owner, "the controller")), err)
		}
	}
}

// runsOn names the raid hosts of a volume.
func runsOn(v *volume.Volume) []string {
	var names []string
	for _, a := range v.Running() {
		names = append(names, a.RaidHost)
	}
	return names
}

// shrink deletes the replicas that a volume which nobody owns and which doesn't run needs no more.
func (s *Server) shrink(ctx context.Context, v *volume.Volume) (*volume.Volume, error) {
	if v.Owner != "" || v.Assembly != nil || v.Phase != volume.PhaseReady || len(v.InState(volume.ReplicaInSync)) <= v.Parameters.Replicas {
		return v, nil
	}
	seen := s.converger.Observe(ctx, v)
	v, err := s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		if v.Owner != "" || v.Assembly != nil || v.Phase != volume.PhaseReady {
			return false, volume.ErrConflict
		}
		surplus := v.Surplus(seen, s.cluster.Zone)
		for _, id := range surplus {
			klog.FromContext(ctx).Info("Replica is not needed any more", "volumeID", v.ID, "replica", id, "node", v.Replica(id).Node, "replicas", v.Parameters.Replicas)
			v.SetReplicaState(id, volume.ReplicaRemoving, s.clock.Now().UTC())
		}
		return len(surplus) > 0, nil
	})
	if err != nil {
		return nil, err
	}
	return s.finish(ctx, v)
}
