package condition

import (
	"errors"
	"maps"
	"slices"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Report is what a controller has last told of SPDK nodes and volumes, for whoever can't ask the SPDK nodes. It is as old as Teller says.
type Report struct {
	Teller Teller
	// Nodes are all SPDK nodes that it knows, by name.
	Nodes map[string]NodeReport
	// Told says of volumes, by ID, how they were. A volume that is not in it has not been told of yet.
	Told map[string]Told
}

// Teller says who reports, and whether what it told can still be true.
type Teller struct {
	// Controller is the leading controller; "" is not known.
	Controller string `json:"controller,omitempty"`
	// Problem says why what was told may be old; "" while a controller leads.
	Problem string `json:"problem,omitempty"`
}

// NodeReport is one SPDK node as it was told of.
type NodeReport struct {
	// NVMf is IP:port of its NVMe/TCP target.
	NVMf, Host, Zone string
	// Silent says why it did not answer; "" if it did.
	Silent string
	// Pools are its lvstores that are used, by name.
	Pools map[string]Pool
}

// Told is how a volume was: Condition, and the worst that was wrong with it, which has a Reason then. Its message tells all.
type Told struct {
	Condition
	Worst Finding
}

// Assess is Assess and Findings by the report: by the records and the nodes that answered, or by what was told if that is worse, for a controller
// also sees which lvols are missing.
func (r Report) Assess(v *volume.Volume, s Sight) (Condition, []Finding) {
	c, findings := Assess(v, s), Findings(v, s)
	told, known := r.Told[v.ID]
	if !known || v.Phase != volume.PhaseReady || told.Good >= c.Good {
		return c, findings
	}
	c.State, c.Good = told.State, told.Good
	if told.Worst.Reason == "" {
		return c, findings
	}
	return c, []Finding{told.Worst}
}

// Names returns the names of all nodes in order.
func (r Report) Names() []string { return slices.Sorted(maps.Keys(r.Nodes)) }

// Sight returns what is to be taken for seen of nodes. A running volume's raid is taken to have the legs that the record calls good on nodes
// that answered. It is no ground for a decision while Teller has a Problem.
func (r Report) Sight(volumes []*volume.Volume, names ...string) Sight {
	s := Sight{}
	for _, name := range names {
		n, known := r.Nodes[name]
		if !known {
			continue // which Sight.Err tells
		}
		seen := NodeSight{Pools: n.Pools}
		if n.Silent != "" {
			seen.Err = errors.New(n.Silent)
		} else {
			seen.Health = r.health(name, volumes)
		}
		s[name] = seen
	}
	return s
}

// health puts together what a raid host runs by the records.
func (r Report) health(node string, volumes []*volume.Volume) spdk.Health {
	h := spdk.Health{Raids: map[string]spdk.RaidState{}, Controllers: map[string]spdk.LegState{}}
	for _, v := range volumes {
		if a := v.Assembly; a == nil || a.RaidHost != node || a.Stopping {
			continue
		}
		raid := spdk.RaidState{Name: v.RaidName(), State: spdk.RaidOnline}
		for _, id := range v.Assembly.Legs {
			leg := v.Replica(id)
			if leg == nil {
				continue
			}
			name := v.LegController(*leg)
			rebuild := r.Told[v.ID].Rebuild
			switch {
			case leg.State == volume.ReplicaRebuilding && rebuild != nil && rebuild.Replica == id && !rebuild.Copied:
				raid.Rebuild = &spdk.RebuildProgress{Target: spdk.LegBdev(name), Percent: rebuild.Percent}
			case leg.State == volume.ReplicaRebuilding && rebuild != nil && rebuild.Replica == id, leg.State == volume.ReplicaInSync:
				h.Controllers[name] = spdk.LegState{State: spdk.LegEnabled}
			case leg.State != volume.ReplicaSuspect:
				continue
			}
			raid.Slots = append(raid.Slots, spdk.RaidSlot{Bdev: spdk.LegBdev(name), Configured: true})
		}
		h.Raids[raid.Name] = raid
	}
	return h
}
