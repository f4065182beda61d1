package volume

import (
	"slices"
	"testing"
)

func noZone(string) string { return "" }

// crowded is a volume with a replica on each of the nodes, all in-sync, of which fewer are wanted, and what is seen of it.
func crowded(wanted int, nodes ...string) (*Volume, Observed) {
	v := record(nodes...)
	made(v)
	v.Parameters.Replicas = wanted
	seen := Observed{Nodes: map[string]NodeView{}}
	for _, r := range v.Replicas {
		seen.Nodes[r.Node] = NodeView{Replicas: map[string]ReplicaView{r.ID: {SizeBytes: v.SizeBytes}}}
	}
	return v, seen
}

// runs puts on record, and in what is seen, that a volume runs over all of its replicas.
func runs(v *Volume, seen Observed, host, standby string) {
	a := Assembly{Number: 1, RaidHost: host, Running: true}
	for _, r := range v.Replicas {
		a.Legs = append(a.Legs, r.ID)
	}
	v.Assembly = &a
	b := a.clone()
	b.Number, b.RaidHost, b.Held = 2, standby, true
	v.Standby = &b
	for _, running := range v.Running() {
		view := seen.Nodes[running.RaidHost]
		view.Raid = &RaidView{Online: true, Slots: 4, Legs: slices.Clone(a.Legs)}
		seen.Nodes[running.RaidHost] = view
	}
}

func removed(v *Volume, ids []string) []string {
	var nodes []string
	for _, id := range ids {
		nodes = append(nodes, v.Replica(id).Node)
	}
	return nodes
}

func TestGoodReplicasTooManyGoWhereTheyAreMissedLeast(t *testing.T) {
	zones := map[string]string{"a": "x", "b": "x", "c": "y"}
	zone := func(node string) string { return zones[node] }
	for name, c := range map[string]struct {
		wanted  int
		prepare func(v *Volume, seen Observed)
		zone    func(string) string
		want    []string
	}{
		"as many as wanted":              {wanted: 3},
		"idle":                           {wanted: 2, want: []string{"c"}},
		"idle, one's node down":          {wanted: 2, prepare: func(_ *Volume, seen Observed) { seen.Nodes["a"] = NodeView{Err: errDown} }, want: []string{"a"}},
		"two in a zone":                  {wanted: 2, zone: zone, want: []string{"b"}},
		"two to go":                      {wanted: 1, zone: zone, want: []string{"b", "c"}},
		"raid host and standby are kept": {wanted: 2, prepare: func(v *Volume, seen Observed) { runs(v, seen, "c", "b") }, want: []string{"a"}},
		"running, one's node down": {wanted: 2, prepare: func(v *Volume, seen Observed) {
			runs(v, seen, "a", "b")
			seen.Nodes["c"] = NodeView{Err: errDown}
		}},
		"running, one ejected, and not yet on record": {wanted: 2, prepare: func(v *Volume, seen Observed) {
			runs(v, seen, "a", "b")
			seen.Nodes["a"].Raid.Legs = seen.Nodes["a"].Raid.Legs[:2]
		}},
		"on its way to another raid host": {wanted: 2, prepare: func(v *Volume, seen Observed) {
			runs(v, seen, "a", "b")
			v.Assembly.Held = true
		}},
		"one suspect": {wanted: 2, prepare: func(v *Volume, _ Observed) { v.Replicas[1].State = ReplicaSuspect }},
	} {
		t.Run(name, func(t *testing.T) {
			v, seen := crowded(c.wanted, "a", "b", "c")
			if c.prepare != nil {
				c.prepare(v, seen)
			}
			if c.zone == nil {
				c.zone = noZone
			}
			if got := removed(v, v.Surplus(seen, c.zone)); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestRaidOfFewerReplicasNeedsMoreSlotsWhenAllAreTaken(t *testing.T) {
	v, seen := crowded(1, "a", "b", "c")
	runs(v, seen, "a", "b")
	v.Parameters.Replicas = 3
	v.Replicas[2].State = ReplicaOutOfSync
	raid := seen.Nodes["a"].Raid
	raid.Slots, raid.Legs = 2, raid.Legs[:2]
	if !NeedsSlots(v, seen) {
		t.Error("a raid of two slots is enough for three replicas")
	}
	raid.Slots = 3
	if NeedsSlots(v, seen) {
		t.Error("an empty slot is not enough for another replica")
	}
}
