package controller

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// ControllerUnpublishVolume implements csi.ControllerServer. It succeeds when the node can no longer reach the volume's data: its
// host NQN is off the target, or the raid host is cut off from the replicas.
func (s *Server) ControllerUnpublishVolume(ctx context.Context, req *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	id := req.GetVolumeId()
	if id == "" {
		return nil, invalid("volume_id is empty")
	}
	unlock, err := s.locks.Try(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.unpublish(ctx, id, req.GetNodeId()); err != nil {
		return nil, fmt.Errorf("unpublish volume %s from node %q: %w", id, req.GetNodeId(), err)
	}
	return &csi.ControllerUnpublishVolumeResponse{}, nil
}

// unpublish takes a node's publication away; every node's if node is empty.
func (s *Server) unpublish(ctx context.Context, id, node string) error {
	v, err := s.get(ctx, id)
	if errors.Is(err, volume.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	var finished uint32
	if v.StagedToWriteOn(node) {
		finished = s.runs(ctx, v)
	}
	v, err = s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		running, gone := v.Assembly != nil && !v.Assembly.Stopping, node != "" && v.Publication(node) == nil
		if len(v.Publications) == 0 && !running || len(v.Publications) > 0 && gone {
			return false, nil
		}
		// A node that may have writes under way, and never lets go, sends nothing again. A raid host that is there finishes what it has been given.
		if v.StagedToWriteOn(node) && v.Assembly != nil && (v.InFlight == volume.InFlightResent || v.Assembly.Held || v.Assembly.Number != finished) {
			v.InFlight = volume.InFlightLost
		}
		v.Unpublish(node)
		return true, nil
	})
	if err != nil {
		return err
	}
	if v.Assembly != nil && !v.Assembly.Stopping && v.Owner != "" {
		return s.shutOut(ctx, v, node)
	}
	if v.Assembly != nil && !v.Assembly.Stopping {
		return s.converger.Run(ctx, v)
	}
	_, err = s.stop(ctx, v)
	return err
}

// runs returns the number of the assembly that serves the volume, if its raid host shows its raid; else 0.
func (s *Server) runs(ctx context.Context, v *volume.Volume) uint32 {
	if v.Assembly == nil || v.Assembly.Held {
		return 0
	}
	node, err := s.cluster.Node(v.Assembly.RaidHost)
	if err != nil {
		return 0
	}
	health, err := node.Health(ctx)
	if _, there := converge.LegHealth(v, *v.Assembly, health); err != nil || !there {
		return 0
	}
	return v.Assembly.Number
}

// stop takes a stopping assembly apart. When its raid host doesn't answer, it is cut off from the replicas instead, and what is
// left of it there is remembered.
func (s *Server) stop(ctx context.Context, v *volume.Volume) (*volume.Volume, error) {
	if v.Assembly == nil || !v.Assembly.Stopping {
		return v, nil
	}
	if v.Assembly.Held && v.Owner != "" {
		return s.retire(ctx, v) // its owner was leaving a raid host that may not be cut off yet
	}
	v, err := s.recordMembers(ctx, v)
	if err != nil {
		return nil, err
	}
	err = s.converger.Run(ctx, v)
	var blocked *converge.BlockedError
	var failed *converge.ActionsError
	// What is left of a former assembly stays on record as that.
	former := func(a volume.Action) bool {
		return a.Kind == volume.DeleteRaid && a.Node != v.Assembly.RaidHost && v.IsRetiredOn(a.Node)
	}
	switch {
	case err == nil, errors.As(err, &failed) && failed.Only(former) && !errors.As(err, &blocked):
		return s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
			s.ended(v)
			return true, nil
		})
	case errors.As(err, &blocked) && blocked.Waits(v.Assembly.RaidHost):
		return s.retire(ctx, v)
	}
	return nil, err
}

// ended puts on record that a volume runs nowhere. A rebuild that was under way has ended with the raid.
func (s *Server) ended(v *volume.Volume) {
	for _, r := range v.InState(volume.ReplicaRebuilding) {
		v.SetReplicaState(r.ID, volume.ReplicaOutOfSync, s.clock.Now().UTC())
	}
	s.forget(whileStopping(v))
	v.Assembly, v.Owner, v.Review = nil, "", false
}

// whileStopping names what is remembered of an assembly's legs while it is stopped.
func whileStopping(v *volume.Volume) string { return fmt.Sprintf("%s/%d", v.ID, v.Assembly.Number) }

// recordMembers puts on record, while the raid still tells, which legs it has ejected or is about to: the owner may have died before
// it could. A raid host that doesn't answer tells nothing. One whose only leg was just rebuilt is asked until that is known to be good: ErrBusy.
func (s *Server) recordMembers(ctx context.Context, v *volume.Volume) (*volume.Volume, error) {
	if v.Assembly.Held {
		return v, nil
	}
	node, err := s.cluster.Node(v.Assembly.RaidHost)
	if err != nil {
		return nil, err
	}
	health, err := node.Health(ctx)
	if err != nil {
		klog.FromContext(ctx).V(2).Info("Raid host can't be asked about its legs", "volumeID", v.ID, "node", node.Name, "err", err)
		return v, nil
	}
	memory := s.memory(whileStopping(v))
	v, err = s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		if v.Assembly == nil || v.Assembly.Held {
			return false, volume.ErrConflict
		}
		legs, ok := converge.LegHealth(v, *v.Assembly, health)
		if !ok {
			clear(memory)
			return false, nil
		}
		now := s.clock.Now().UTC()
		changes := volume.Judge(v, legs, memory, v.Parameters.Budgets.ReplicaStall, now)
		for id, state := range changes {
			v.SetReplicaState(id, state, now)
		}
		return len(changes) > 0, nil
	})
	if err == nil && len(v.InState(volume.ReplicaInSync)) == 0 && volume.Unsettled(v, memory) {
		return nil, fmt.Errorf("%w: the only replicas that its raid has were just rebuilt or failing; it takes %s until one is known to be good", volume.ErrBusy, v.Parameters.Budgets.ReplicaStall)
	}
	return v, err
}

// retire gives up an assembly whose raid host doesn't answer: the replicas' exports are taken away, which cuts it off from them,
// and it goes to the former assemblies.
//
// What may have been under way decides what the replicas are worth. Without an owner no host was attached and they are alike.
// With one, a write may have reached some of them and not others: one that is surely cut off becomes the source, the others are
// out-of-sync. If none can be cut off, the assembly is kept: a host that was declared dead could still write through it.
func (s *Server) retire(ctx context.Context, v *volume.Volume) (*volume.Volume, error) {
	fenced, err := s.fence(ctx, v)
	inUse := v.Owner != "" && (v.Assembly.Running || v.Assembly.Held)
	if inUse && len(fenced) == 0 {
		return nil, fmt.Errorf("%w: raid host %s does not answer and can't be cut off from any replica: %w", volume.ErrNodeDown, v.Assembly.RaidHost, err)
	}
	a := v.Assembly.Number
	return s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		if v.Assembly == nil || v.Assembly.Number != a {
			return false, volume.ErrConflict
		}
		if inUse {
			v.GoOnWith(fenced[0], s.clock.Now().UTC())
		}
		retired := *v.Assembly
		v.RetireStandby()
		v.Retired = append(v.Retired, retired)
		s.ended(v)
		klog.FromContext(ctx).Info("Raid host does not answer; it is cut off from the replicas", "volumeID", v.ID, "raidHost", retired.RaidHost, "fenced", fenced)
		return true, nil
	})
}

// fence takes the exports of an assembly's legs away and returns the in-sync ones that are surely cut off, and why others are not.
func (s *Server) fence(ctx context.Context, v *volume.Volume) ([]string, error) {
	var fenced []string
	var errs []error
	for _, id := range v.Assembly.Legs {
		r := v.Replica(id)
		if r == nil || r.State != volume.ReplicaInSync {
			continue
		}
		node, err := s.cluster.Node(r.Node)
		if err == nil {
			err = node.Unexport(ctx, v.ReplicaNQN(*r))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("replica %s on %s: %w", id, r.Node, err))
			continue
		}
		fenced = append(fenced, id)
	}
	return fenced, errors.Join(errs...)
}
