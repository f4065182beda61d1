package volume

import "slices"

// growReplicas grows the replicas that are smaller than the volume: those that are no source, whenever their nodes answer, so that they
// are as large as the raid that they are to join; those that are, while the volume is being grown.
//
// A replica that is attached more than once tells all its raid hosts at once, in no order. But a Linux host takes the size of a namespace
// from whichever path tells last, and uses no path that tells another (drivers/nvme/host/multipath.c, nvme_mpath_revalidate_paths): with
// a standby that grows first the host's I/O waits for the raid host, and one that missed the notice and is connected anew makes the
// device shrink under its file system. So nothing grows that a standby, or what is left of one, has attached.
func (p *planner) growReplicas() {
	for _, r := range p.volume.Replicas {
		view := p.seen.Nodes[r.Node]
		switch {
		case view.Err != nil || !p.small(view.Replicas[r.ID]) || r.State == ReplicaPlanned || r.State == ReplicaRemoving:
		case r.State == ReplicaOutOfSync, r.State == ReplicaRebuilding && !p.member(r.ID):
			p.do(GrowReplica, r.Node, r.ID)
		case p.volume.GrowingFrom > 0 && !p.attachedBeside(r.ID):
			p.do(GrowReplica, r.Node, r.ID)
		}
	}
}

// member says whether a replica is in a slot of the raid that runs.
func (p *planner) member(id string) bool {
	a := p.volume.Assembly
	if a == nil {
		return false
	}
	raid := p.seen.Nodes[a.RaidHost].Raid
	return raid != nil && slices.Contains(raid.Legs, id)
}

// small says whether a replica's lvol is there and smaller than the volume.
func (p *planner) small(r ReplicaView) bool {
	return r.SizeBytes > 0 && r.SizeBytes < p.volume.SizeBytes
}

// attachedBeside says whether a replica is to be a leg of the standby, or is still attached by the raid host of a former assembly that
// answers.
func (p *planner) attachedBeside(id string) bool {
	if s := p.volume.Standby; s != nil && slices.Contains(s.Legs, id) {
		return true
	}
	return slices.ContainsFunc(p.volume.Retired, func(a Assembly) bool {
		_, runs := p.volume.RunningOn(a.RaidHost)
		return !runs && p.seen.Nodes[a.RaidHost].holds(id)
	})
}

// legsGrown says whether the replicas of all legs of a raid are seen to be as large as the volume, so that the raid can be.
func (p *planner) legsGrown(raid RaidView) bool {
	return !slices.ContainsFunc(raid.Legs, func(id string) bool {
		r := p.volume.Replica(id)
		if r == nil {
			return true
		}
		view, known := p.seen.Nodes[r.Node]
		return !known || view.Err != nil || view.Replicas[id].SizeBytes < p.volume.SizeBytes
	})
}
