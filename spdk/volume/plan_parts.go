package volume

import "slices"

// PlanStandby says what is to be done for the standby alone.
func PlanStandby(v *Volume, seen Observed) Steps {
	p := planner{volume: v, seen: seen}
	if v.Standby != nil {
		p.bringUp(*v.Standby)
		p.dropLegs(*v.Standby)
	}
	return p.steps
}

// allowedBy says whether these hosts of a target are as they should be. While the volume has an owner a further node may have been let in since
// the record was read: it stays, until PlanTargets says otherwise by a record that is surely newer (Review).
func (v *Volume) allowedBy(hosts []string) bool {
	want := v.HostNQNs()
	if v.KeepsHosts() {
		return !slices.ContainsFunc(want, func(nqn string) bool { return !slices.Contains(hosts, nqn) })
	}
	return slices.Equal(hosts, want)
}

// KeepsHosts says whether ExportTarget leaves hosts in that aren't on record.
func (v *Volume) KeepsHosts() bool { return v.Owner != "" }

// PlanTargets says what is to be done for the targets that are there to allow the hosts on record and no others.
func PlanTargets(v *Volume, seen Observed) Steps {
	p := planner{volume: v, seen: seen}
	for _, a := range v.Running() {
		host, ok := p.view(a.RaidHost)
		if ok && host.Raid != nil && host.Raid.Online && host.Target != nil && !slices.Equal(host.Target.Hosts, v.HostNQNs()) {
			p.do(ReviewTarget, a.RaidHost, "")
		}
	}
	return p.steps
}

// PlanReplicas says what is to be done about the lvols of a volume that a node service owns: what runs is the owner's.
func PlanReplicas(v *Volume, seen Observed) Steps {
	p := planner{volume: v, seen: seen}
	p.createReplicas()
	for _, r := range v.InState(ReplicaRemoving) {
		if view := seen.Nodes[r.Node]; view.Err == nil && !view.Replicas[r.ID].ExportBegun {
			if _, exists := view.Replicas[r.ID]; exists {
				p.do(DeleteReplica, r.Node, r.ID)
			}
		}
	}
	return p.steps
}
