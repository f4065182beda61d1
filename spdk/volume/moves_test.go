package volume

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// history is a volume in use that lives through losses, rebuilds and switches at random, with the nodes that its plans are carried out on.
type history struct {
	*world
	t   *testing.T
	rnd *rand.Rand
	v   *Volume
	now time.Time
}

func newHistory(t *testing.T, seed uint64) *history {
	h := &history{t: t, rnd: rand.New(rand.NewPCG(seed, 5)), world: newWorld("a", "b", "c", "d"), v: record("a", "b", "c"), now: time.Unix(1000, 0)}
	h.v.Parameters = Parameters{Replicas: 3, Standby: true}
	h.settle(t, h.v, h.rnd)
	made(h.v)
	h.v.Assembly, h.v.Assemblies = &Assembly{Number: 1, RaidHost: "a", Legs: ids(h.v), Running: true}, 1
	h.v.Publications = []Publication{{Node: "n"}}
	return h
}

// crashSomewhere carries some of the planned actions out, one after the other.
func (h *history) crashSomewhere() {
	h.t.Helper()
	for range h.rnd.IntN(8) {
		steps := Plan(h.v, h.observe())
		if len(steps.Now) == 0 {
			return
		}
		if err := h.apply(h.v, steps.Now[h.rnd.IntN(len(steps.Now))]); err != nil {
			h.t.Fatalf("the plan breaks a rule: %v\nrecord %+v", err, h.v)
		}
	}
}

// step does one of the things that happen to a volume in use, as the node service puts them on record.
func (h *history) step() {
	h.now = h.now.Add(time.Hour)
	good := h.v.GoodLegs(*h.v.Assembly)
	switch h.rnd.IntN(9) {
	case 0: // a replica is lost while others are good
		if len(good) > 1 {
			h.v.SetReplicaState(good[h.rnd.IntN(len(good))], ReplicaOutOfSync, h.now)
		}
		if h.v.Standby != nil && len(h.v.GoodLegs(*h.v.Standby)) == 0 {
			h.v.RetireStandby() // its owner gives it up: a raid keeps its last leg
		}
	case 1: // a rebuild begins
		if id, ok := NextRebuild(h.v, h.observe(), h.now); ok {
			h.v.BeginRebuild(id, h.now)
		}
	case 2: // and ends, well or badly
		for _, r := range h.v.InState(ReplicaRebuilding) {
			state := ReplicaOutOfSync
			if raid := h.nodes[h.v.Assembly.RaidHost].Raid; raid != nil && slices.Contains(raid.Legs, r.ID) && h.rnd.IntN(2) == 0 {
				state = ReplicaInSync
			}
			h.v.SetReplicaState(r.ID, state, h.now)
		}
	case 3:
		h.makeStandby()
	case 4:
		h.v.RetireStandby()
	case 5:
		h.switchOver()
	case 6:
		Gone(h.v, h.observe()).Remove(h.v)
	case 7: // it is to be larger; its owner gives the standby up
		_ = h.v.Grow(h.v.SizeBytes + 4<<20) // no snapshot of it is being taken
		h.v.RetireStandby()
	case 8:
		h.grown()
	}
}

// grown puts on record that the volume has its size, if that is so.
func (h *history) grown() {
	if CheckGrown(h.v, h.observe()) == nil {
		h.v.GrowingFrom = 0
	}
}

func (h *history) makeStandby() {
	node := []string{"a", "b", "c", "d"}[h.rnd.IntN(4)]
	if h.v.Standby != nil || h.v.Assembly.RaidHost == node || h.v.IsRetiredOn(node) {
		return
	}
	h.v.Assemblies++
	h.v.Standby = &Assembly{Number: h.v.Assemblies, RaidHost: node, Held: true}
	for _, r := range h.v.InState(ReplicaInSync) {
		h.v.Standby.Legs = append(h.v.Standby.Legs, r.ID)
	}
}

func (h *history) switchOver() {
	if h.v.Standby == nil || len(h.v.GoodLegs(*h.v.Standby)) == 0 {
		return
	}
	for _, r := range h.v.InState(ReplicaRebuilding) {
		h.v.SetReplicaState(r.ID, ReplicaOutOfSync, h.now)
	}
	h.v.Retired = append(h.v.Retired, *h.v.Assembly)
	h.v.Assembly, h.v.Standby = h.v.Standby, nil
	h.crashSomewhere()
	h.v.Assembly.Held, h.v.Assembly.Running = false, true
}

// check compares what the nodes have come to with the record.
func (h *history) check(seed uint64) {
	h.t.Helper()
	if h.v.GrowingFrom > 0 && h.v.Standby == nil {
		h.t.Fatalf("seed %d: it is not grown: %v", seed, CheckGrown(h.v, h.observe()))
	}
	for name, n := range h.nodes {
		a, runs := h.v.RunningOn(name)
		switch {
		case !runs && (n.Raid != nil || n.Target != nil || len(n.Legs) > 0):
			h.t.Fatalf("seed %d: %s runs nothing on record and has %+v", seed, name, n)
		case !runs:
			continue
		case n.Raid == nil || n.Target == nil || n.Target.Held != a.Held:
			h.t.Fatalf("seed %d: %s has raid %+v and target %+v for %+v", seed, name, n.Raid, n.Target, a)
		}
		if h.v.GrowingFrom == 0 && n.Raid.SizeBytes != h.v.SizeBytes {
			h.t.Fatalf("seed %d: the raid on %s has %d bytes, the volume %d", seed, name, n.Raid.SizeBytes, h.v.SizeBytes)
		}
		for _, id := range n.Raid.Legs {
			if s := h.v.Replica(id).State; s != ReplicaInSync && (s != ReplicaRebuilding || a.Held) {
				h.t.Fatalf("seed %d: the raid on %s, held %t, has replica %s, which is %s", seed, name, a.Held, id, s)
			}
		}
	}
	for _, r := range h.v.Replicas {
		view := h.nodes[r.Node].Replicas[r.ID]
		if view.ExportBegun && !slices.Equal(view.Hosts, h.v.LegHosts(r.ID)) {
			h.t.Fatalf("seed %d: replica %s (%s) is open to %v, legs are those of %v", seed, r.ID, r.State, view.Hosts, h.v.LegHosts(r.ID))
		}
	}
}

// What a plan does along the way is judged by world.apply: it never assembles, exports or adds what is not there or not good.
func TestPlanFollowsTheRecordThroughLossesRebuildsAndSwitches(t *testing.T) {
	for seed := range uint64(400) {
		h := newHistory(t, seed)
		for range 25 {
			h.crashSomewhere()
			h.step()
		}
		// The raid hosts that were left are free for another.
		for range 3 {
			h.settle(t, h.v, h.rnd)
			Gone(h.v, h.observe()).Remove(h.v)
			h.grown()
		}
		h.check(seed)
		h.v.Publications = nil
		h.v.Stop()
		h.settle(t, h.v, h.rnd)
		h.v.Assembly, h.v.Phase = nil, PhaseDeleting
		if steps := h.settle(t, h.v, h.rnd); !steps.Done() || !h.empty() {
			t.Fatalf("seed %d: left over: %+v, blocked %v", seed, h.nodes, steps.Blocked)
		}
	}
}

func TestPlanOfAStandbyTouchesNothingElse(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 6))
	w, v := newWorld("a", "b", "c"), record("a", "b", "c")
	w.settle(t, v, rnd)
	made(v)
	v.Assembly, v.Assemblies = &Assembly{Number: 1, RaidHost: "a", Legs: ids(v), Running: true}, 2
	v.Publications = []Publication{{Node: "n"}}
	w.settle(t, v, rnd)
	v.Standby = &Assembly{Number: 2, RaidHost: "b", Legs: ids(v), Held: true}
	serving := *w.nodes["a"]
	for range 20 {
		for _, a := range PlanStandby(v, w.observe()).Now {
			if a.Node != "b" && a.Kind != ExportReplica {
				t.Fatalf("planned: %s", a)
			}
			if err := w.apply(v, a); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !PlanStandby(v, w.observe()).Done() || w.nodes["b"].Target == nil || !w.nodes["b"].Target.Held {
		t.Fatalf("the standby has %+v", w.nodes["b"])
	}
	if w.nodes["a"].Raid != serving.Raid || w.nodes["a"].Target != serving.Target {
		t.Error("what serves was touched")
	}
	if v.Standby = nil; !PlanStandby(v, w.observe()).Done() {
		t.Error("without a standby on record something is planned")
	}
}
