package volume

import "slices"

// Slots is how many legs a raid of the volume is made for that begins with so many: one more than there are to be replicas, so that a
// replica can be replaced before the old one goes, and a volume of one replica can grow. What a raid has is fixed when it is made.
func (v *Volume) Slots(legs int) int { return max(v.Parameters.Replicas, legs) + 1 }

// NeedsSlots says whether a replica waits for its rebuild for which the raid that runs has no slot: it was made when there were to be fewer.
func NeedsSlots(v *Volume, seen Observed) bool {
	if v.Assembly == nil || v.Assembly.Held || v.Assembly.Stopping {
		return false
	}
	host := seen.Nodes[v.Assembly.RaidHost]
	return host.Err == nil && host.Raid != nil && host.Raid.Online && len(v.InState(ReplicaInSync)) < v.Parameters.Replicas &&
		len(v.InState(ReplicaOutOfSync)) > 0 && len(host.Raid.Legs) >= host.Raid.Slots && host.Raid.Slots < v.Slots(len(host.Raid.Legs))
}

// Surplus returns the replicas that are not needed any more: while as many are in-sync as there are to be, those that are no source, and of
// the others those too many. One that is being rebuilt is let finish: SPDK ends a rebuild under writes badly (docs/spdk.md, 1).
//
// zone gives the failure domain of an SPDK node. Of a volume that runs a good replica is given up only while all of them are seen to be
// members of its raid, on nodes that answer.
func (v *Volume) Surplus(seen Observed, zone func(node string) string) []string {
	good := v.InState(ReplicaInSync)
	if len(good) < v.Parameters.Replicas {
		return nil
	}
	var ids []string
	for _, r := range v.InState(ReplicaOutOfSync) {
		ids = append(ids, r.ID)
	}
	if !v.allMembers(good, seen) {
		return ids
	}
	for len(good) > v.Parameters.Replicas {
		least := 0
		for i := range good {
			if v.dispensable(good, i, seen, zone) >= v.dispensable(good, least, seen, zone) {
				least = i
			}
		}
		ids = append(ids, good[least].ID)
		good = slices.Delete(good, least, least+1)
	}
	return ids
}

// allMembers says whether good replicas are all in use by what runs of the volume, if it runs.
func (v *Volume) allMembers(good []Replica, seen Observed) bool {
	if v.Assembly == nil {
		return true
	}
	host := seen.Nodes[v.Assembly.RaidHost]
	if v.Assembly.Held || v.Assembly.Stopping || host.Err != nil || host.Raid == nil || !host.Raid.Online {
		return false
	}
	return !slices.ContainsFunc(good, func(r Replica) bool {
		view, known := seen.Nodes[r.Node]
		return !known || view.Err != nil || !slices.Contains(host.Raid.Legs, r.ID)
	})
}

// dispensable says how much sooner than others the replica at an index of good is given up: first one on a node that doesn't answer, then
// one whose zone has another, then one that isn't on the raid host, then one that isn't on the standby's.
func (v *Volume) dispensable(good []Replica, at int, seen Observed, zone func(node string) string) int {
	r, score := good[at], 0
	add := func(holds bool, weight int) {
		if holds {
			score += weight
		}
	}
	view, known := seen.Nodes[r.Node]
	add(!known || view.Err != nil, 8)
	another := slices.ContainsFunc(good, func(o Replica) bool { return o.ID != r.ID && zone(o.Node) == zone(r.Node) })
	add(zone(r.Node) != "" && another, 4)
	add(v.Assembly == nil || v.Assembly.RaidHost != r.Node, 2)
	add(v.Standby == nil || v.Standby.RaidHost != r.Node, 1)
	return score
}
