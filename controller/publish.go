package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// ControllerPublishVolume implements csi.ControllerServer. The first publication of a volume chooses its raid host, assembles the
// raid there and exports it to the node's host NQN.
func (s *Server) ControllerPublishVolume(ctx context.Context, req *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	switch {
	case req.GetVolumeId() == "":
		return nil, invalid("volume_id is empty")
	case req.GetNodeId() == "":
		return nil, invalid("node_id is empty")
	}
	if err := checkCapability(req.GetVolumeCapability()); err != nil {
		return nil, invalid("%v", err)
	}
	unlock, err := s.locks.Try(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	p := volume.Publication{
		Node: req.GetNodeId(), Mode: accessModes[req.GetVolumeCapability().GetAccessMode().GetMode()],
		ReadOnly: req.GetReadonly(), Block: req.GetVolumeCapability().GetBlock() != nil,
	}
	if err := s.publish(ctx, req.GetVolumeId(), p); err != nil {
		return nil, fmt.Errorf("publish volume %s to node %s: %w", req.GetVolumeId(), p.Node, err)
	}
	return &csi.ControllerPublishVolumeResponse{}, nil
}

func (s *Server) publish(ctx context.Context, id string, p volume.Publication) error {
	v, err := s.get(ctx, id)
	if err != nil {
		return err
	}
	if _, err := s.store.Host(ctx, p.Node); err != nil {
		return err
	}
	if err := mayPublish(v, p); err != nil {
		return err
	}
	if v.Owner == p.Node && v.Publication(p.Node) != nil {
		return nil // staged there: what runs is its node service's to keep running
	}
	if v.Owner != "" && (v.Assembly == nil || !v.Assembly.Stopping) {
		return s.admit(ctx, v, p)
	}
	if v, err = s.stop(ctx, v); err != nil {
		return err
	}
	if v, err = s.cleanUp(ctx, v); err != nil {
		return err
	}
	if v.GrowingFrom > 0 && v.Assembly == nil {
		var g growth
		if v, g, err = s.grow(ctx, v); g.lacking != nil || err != nil {
			klog.FromContext(ctx).Info("Volume is published before it has grown", "volumeID", v.ID, "err", errors.Join(g.lacking, err))
		}
	}
	for {
		if v, err = s.enterPublication(ctx, v, p); err != nil {
			return err
		}
		err = converge.BesidesGrowth(s.converger.Run(ctx, v))
		if err == nil {
			return s.running(ctx, v)
		}
		var blocked *converge.BlockedError
		if v.Owner != "" || !errors.As(err, &blocked) {
			return err
		}
		if v, err = s.giveUp(ctx, v, blocked); err != nil {
			return err
		}
	}
}

// giveUp takes apart an assembly that no host has attached and that waits for nodes that don't answer, so that another can be chosen
// without them. Nothing can have been written through it.
func (s *Server) giveUp(ctx context.Context, v *volume.Volume, blocked *converge.BlockedError) (*volume.Volume, error) {
	klog.FromContext(ctx).Info("Another assembly is chosen", "volumeID", v.ID, "err", blocked)
	if blocked.Waits(v.Assembly.RaidHost) {
		return s.retire(ctx, v)
	}
	v, err := s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		if v.Assembly == nil || v.Owner != "" {
			return false, volume.ErrConflict
		}
		v.Stop()
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	return s.stop(ctx, v)
}

// mayPublish says whether a publication fits the volume and the publications that it has.
func mayPublish(v *volume.Volume, p volume.Publication) error {
	if v.Phase != volume.PhaseReady {
		return fmt.Errorf("%w: it is %s", volume.ErrBusy, v.Phase)
	}
	return v.Admits(p)
}

// cleanUp takes apart what former assemblies left on nodes that answer again, before one of them may become raid host.
func (s *Server) cleanUp(ctx context.Context, v *volume.Volume) (*volume.Volume, error) {
	if v.Assembly != nil || len(v.Retired) == 0 {
		return v, nil
	}
	if err := s.converger.Run(ctx, v); err != nil {
		return nil, err
	}
	return s.tidy(ctx, v)
}

// enterPublication puts a publication on record and, if the volume runs nowhere, the assembly that it is to run as.
//
// Replicas that can't be reached, or that are not there, are left out and on record as out-of-sync before the first write can
// be acknowledged without them.
func (s *Server) enterPublication(ctx context.Context, v *volume.Volume, p volume.Publication) (*volume.Volume, error) {
	var assembly *volume.Assembly
	var lost []string
	if v.Assembly == nil {
		var err error
		if assembly, lost, err = s.choose(ctx, v, p.Node); err != nil {
			return nil, err
		}
	}
	return s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		if err := mayPublish(v, p); err != nil {
			return false, err
		}
		if v.Publication(p.Node) != nil && v.Assembly != nil {
			return false, nil
		}
		if v.Publication(p.Node) == nil {
			v.Publications = append(v.Publications, p)
		}
		if v.Assembly == nil {
			if assembly == nil || assembly.Number != v.Assemblies+1 {
				return false, volume.ErrConflict
			}
			s.begin(v, assembly, lost)
		}
		return true, nil
	})
}

// begin puts on record the assembly that a volume is to run as, without the replicas that can't be part of it.
func (s *Server) begin(v *volume.Volume, assembly *volume.Assembly, lost []string) {
	v.Assembly, v.Assemblies, v.InFlight = assembly, assembly.Number, volume.InFlightNone
	for _, id := range lost {
		v.SetReplicaState(id, volume.ReplicaOutOfSync, s.clock.Now().UTC())
	}
}

// choose returns the volume's next assembly and the in-sync replicas that can't be part of it. The raid host is the SPDK node on
// the host's own machine; else the one with the fewest raids among those that hold a good replica.
func (s *Server) choose(ctx context.Context, v *volume.Volume, host string) (*volume.Assembly, []string, error) {
	seen := s.observeTwice(ctx, v)
	a := &volume.Assembly{Number: v.Assemblies + 1}
	var lost []string
	var why []error
	for _, r := range v.InState(volume.ReplicaSuspect) {
		lost = append(lost, r.ID) // writes may have been acknowledged without it, and nothing will tell any more
		why = append(why, fmt.Errorf("replica %s on %s: it was failing when the volume was last in use", r.ID, r.Node))
	}
	for _, r := range v.InState(volume.ReplicaInSync) {
		view := seen.Nodes[r.Node]
		replica, exists := view.Replicas[r.ID]
		switch {
		case view.Err != nil:
			why = append(why, fmt.Errorf("replica %s on %s: %w", r.ID, r.Node, view.Err))
		case !exists:
			why = append(why, fmt.Errorf("replica %s on %s: its lvol is not in lvstore %s", r.ID, r.Node, r.LvStore))
		case !v.Fits(replica.SizeBytes):
			why = append(why, fmt.Errorf("replica %s on %s: it has %d bytes, the volume %d", r.ID, r.Node, replica.SizeBytes, v.SizeBytes))
		default:
			a.Legs = append(a.Legs, r.ID)
			continue
		}
		lost = append(lost, r.ID)
	}
	if v.InFlight != volume.InFlightNone && len(a.Legs) > 1 {
		for _, id := range a.Legs[1:] {
			why = append(why, fmt.Errorf("replica %s on %s: it may differ in what was under way when the volume was last in use", id, v.Replica(id).Node))
		}
		a.Legs, lost = a.Legs[:1], append(lost, a.Legs[1:]...)
	}
	if len(a.Legs) == 0 {
		return nil, nil, fmt.Errorf("%w; the volume waits until one can: %w", volume.ErrNoGoodReplica, errors.Join(why...))
	}
	for _, err := range why {
		klog.FromContext(ctx).Error(err, "Volume is published without a replica", "volumeID", v.ID)
	}
	var err error
	a.RaidHost, err = s.chooseRaidHost(ctx, v, a.Legs, host)
	return a, lost, err
}

// observeTwice looks again if a node did not answer: one call that failed is no reason to do without a replica, which then has to
// be rebuilt.
func (s *Server) observeTwice(ctx context.Context, v *volume.Volume) volume.Observed {
	seen := s.converger.Observe(ctx, v)
	for _, view := range seen.Nodes {
		if view.Err != nil {
			return s.converger.Observe(ctx, v)
		}
	}
	return seen
}

// raidHosts are the nodes that may run a volume: that on the host's own machine, those that hold its legs and, where all of these are
// cordoned, any other.
func (s *Server) raidHosts(v *volume.Volume, legs []string, host string, cordoned []string) []*converge.Node {
	nodes := slices.DeleteFunc(s.cluster.Nodes(), func(n *converge.Node) bool { return n.Host != host })
	for _, id := range legs {
		if node, err := s.cluster.Node(v.Replica(id).Node); err == nil {
			nodes = append(nodes, node)
		}
	}
	if !slices.ContainsFunc(nodes, func(n *converge.Node) bool { return !slices.Contains(cordoned, n.Name) }) {
		nodes = append(nodes, slices.DeleteFunc(s.cluster.Nodes(), func(n *converge.Node) bool { return slices.Contains(cordoned, n.Name) })...)
	}
	return nodes
}

// chooseRaidHost prefers nodes that aren't cordoned, and of those the ones with which the volume's budgets hold. A volume is never refused
// for want of one.
func (s *Server) chooseRaidHost(ctx context.Context, v *volume.Volume, legs []string, host string) (string, error) {
	gone := func(node string) bool {
		return slices.ContainsFunc(v.Retired, func(a volume.Assembly) bool { return a.RaidHost == node })
	}
	cordoned, err := s.cordoned(ctx)
	if err != nil {
		return "", err
	}
	var best *raidHost
	var errs []error
	for _, node := range s.raidHosts(v, legs, host, cordoned) {
		if gone(node.Name) {
			continue
		}
		raids, err := node.Raids(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("%w: %s: %w", volume.ErrNodeDown, node.Name, err))
			continue
		}
		h := raidHost{node: node.Name, local: node.Host == host, raids: len(raids), cordoned: slices.Contains(cordoned, node.Name), broken: s.inventory.runs(ctx, v, node.Name, legs)}
		if best == nil || h.before(*best) {
			best = &h
		}
		if best.local && best.broken == nil && !best.cordoned {
			break
		}
	}
	if best == nil {
		return "", fmt.Errorf("%w: no SPDK node that holds a good replica can run the raid: %w", volume.ErrNodeDown, errors.Join(errs...))
	}
	if best.cordoned {
		klog.FromContext(ctx).Info("Volume is published on a cordoned raid host: no other SPDK node can run it", "volumeID", v.ID, "raidHost", best.node)
	}
	if best.broken != nil {
		klog.FromContext(ctx).Error(best.broken, "Volume is published although its budgets don't hold with its raid host", "volumeID", v.ID, "raidHost", best.node)
	}
	return best.node, nil
}

// running puts on record that the assembly's target is complete: from now on a host may attach.
func (s *Server) running(ctx context.Context, v *volume.Volume) error {
	number := v.Assembly.Number
	_, err := s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		if v.Assembly == nil || v.Assembly.Number != number {
			return false, volume.ErrConflict
		}
		changed := !v.Assembly.Running
		v.Assembly.Running = true
		return changed, nil
	})
	if err == nil {
		klog.FromContext(ctx).V(2).Info("Volume published", "volumeID", v.ID, "raidHost", v.Assembly.RaidHost, "legs", v.Assembly.Legs)
	}
	return err
}
