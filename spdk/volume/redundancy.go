package volume

import "slices"

// Nodes lists the SPDK nodes that the record names, each once.
func (v *Volume) Nodes() []string {
	var names []string
	add := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, r := range v.Replicas {
		add(r.Node)
	}
	for _, a := range []*Assembly{v.Assembly, v.Standby} {
		if a != nil {
			add(a.RaidHost)
		}
	}
	for _, a := range v.Retired {
		add(a.RaidHost)
	}
	return names
}

// WantsStandby says whether a volume that runs is to have a standby: asked for, and another assembly would have a leg to run on.
func (v *Volume) WantsStandby() bool {
	return v.Parameters.Standby && v.Parameters.Replicas > 1 && slices.ContainsFunc(v.InState(ReplicaInSync), func(r Replica) bool { return r.Node != v.Assembly.RaidHost })
}
