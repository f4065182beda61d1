package volume

import "slices"

// Finished is what a record still names although it is known to be gone.
type Finished struct {
	replicas   []string
	assemblies []uint32
}

// Gone returns the removing replicas and the retired assemblies of which nothing was seen, on nodes that answered.
func Gone(v *Volume, seen Observed) Finished {
	var f Finished
	for _, r := range v.InState(ReplicaRemoving) {
		view, known := seen.Nodes[r.Node]
		if _, exists := view.Replicas[r.ID]; known && view.Err == nil && !exists {
			f.replicas = append(f.replicas, r.ID)
		}
	}
	for _, a := range v.Retired {
		view, known := seen.Nodes[a.RaidHost]
		if known && view.Err == nil && view.Target == nil && view.Raid == nil && len(view.Legs) == 0 {
			f.assemblies = append(f.assemblies, a.Number)
		}
	}
	return f
}

// Empty says that nothing is known to be gone.
func (f Finished) Empty() bool { return len(f.replicas) == 0 && len(f.assemblies) == 0 }

// Remove takes what is gone off the record.
func (f Finished) Remove(v *Volume) {
	gone := func(id string) bool { return slices.Contains(f.replicas, id) }
	v.Replicas = slices.DeleteFunc(v.Replicas, func(r Replica) bool { return gone(r.ID) })
	for _, a := range []*Assembly{v.Assembly, v.Standby} {
		if a != nil {
			a.Legs = slices.DeleteFunc(a.Legs, gone)
		}
	}
	v.Retired = slices.DeleteFunc(v.Retired, func(a Assembly) bool { return slices.Contains(f.assemblies, a.Number) })
}
