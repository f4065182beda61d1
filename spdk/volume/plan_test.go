package volume

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
)

var errDown = errors.New("connection refused")

// world is what a set of SPDK nodes holds of one volume, in the terms of Observed. Applying a planned action does what the
// operation does on a real node, and refuses what a real node would refuse or what would harm data.
type world struct {
	down  map[string]bool
	nodes map[string]*NodeView
}

func newWorld(names ...string) *world {
	w := &world{down: map[string]bool{}, nodes: map[string]*NodeView{}}
	for _, n := range names {
		w.nodes[n] = &NodeView{Replicas: map[string]ReplicaView{}, Legs: map[string]LegView{}}
	}
	return w
}

func (w *world) observe() Observed {
	seen := Observed{Nodes: map[string]NodeView{}}
	for name, view := range w.nodes {
		if w.down[name] {
			seen.Nodes[name] = NodeView{Err: errDown}
			continue
		}
		seen.Nodes[name] = *view
	}
	return seen
}

func (w *world) apply(v *Volume, a Action) error {
	if w.down[a.Node] {
		return fmt.Errorf("%s: node is down", a)
	}
	n := w.nodes[a.Node]
	switch a.Kind {
	case CreateReplica:
		n.Replicas[a.Replica] = ReplicaView{SizeBytes: v.SizeBytes}
	case DeleteReplica:
		if n.Replicas[a.Replica].ExportBegun {
			return fmt.Errorf("%s: it is exported", a)
		}
		delete(n.Replicas, a.Replica)
	case ExportReplica:
		if r := v.Replica(a.Replica); r.State == ReplicaRemoving {
			return fmt.Errorf("%s: it is to be removed", a)
		}
		r, ok := n.Replicas[a.Replica]
		if !ok {
			return fmt.Errorf("%s: no lvol", a)
		}
		r.ExportBegun, r.Exported, r.Hosts = true, true, v.LegHosts(a.Replica)
		n.Replicas[a.Replica] = r
	case UnexportReplica:
		r := n.Replicas[a.Replica]
		r.ExportBegun, r.Exported, r.Hosts = false, false, nil
		n.Replicas[a.Replica] = r
	case AttachLeg:
		if !w.nodes[v.Replica(a.Replica).Node].Replicas[a.Replica].Exported {
			return fmt.Errorf("%s: not exported", a)
		}
		n.Legs[a.Replica] = LegView{Bdev: "b"}
	case DetachLeg:
		if n.Raid != nil && slices.Contains(n.Raid.Legs, a.Replica) {
			return fmt.Errorf("%s: a raid uses it", a)
		}
		delete(n.Legs, a.Replica)
	case AssembleRaid:
		assembly, _ := v.RunningOn(a.Node)
		for _, id := range v.GoodLegs(assembly) {
			if n.Legs[id].Bdev == "" {
				return fmt.Errorf("%s: leg %s is not attached", a, id)
			}
		}
		n.Raid = &RaidView{Online: true, Slots: v.Slots(len(v.GoodLegs(assembly))), Legs: v.GoodLegs(assembly)}
		n.Raid.SizeBytes = w.smallest(v, n.Raid.Legs)
	case GrowReplica:
		return w.grow(v, a)
	case GrowRaid:
		if n.Raid.SizeBytes = w.smallest(v, n.Raid.Legs); n.Raid.SizeBytes != v.SizeBytes {
			return fmt.Errorf("%s: its legs have %d bytes", a, n.Raid.SizeBytes)
		}
	case AddLeg:
		if r := v.Replica(a.Replica); w.nodes[r.Node].Replicas[r.ID].SizeBytes < n.Raid.SizeBytes {
			return fmt.Errorf("%s: it is smaller than the raid", a)
		}
		if assembly, _ := v.RunningOn(a.Node); assembly.Held || n.Legs[a.Replica].Bdev == "" {
			return fmt.Errorf("%s: held, or not attached", a)
		}
		n.Raid.Legs = append(n.Raid.Legs, a.Replica)
	case EjectLeg:
		if len(n.Raid.Legs) == 1 {
			return fmt.Errorf("%s: the last leg", a)
		}
		n.Raid.Legs = slices.DeleteFunc(slices.Clone(n.Raid.Legs), func(id string) bool { return id == a.Replica })
	case DeleteRaid:
		if n.Target != nil {
			return fmt.Errorf("%s: it is exported", a)
		}
		n.Raid = nil
	case ExportTarget:
		if n.Raid == nil || !n.Raid.Online {
			return fmt.Errorf("%s: no raid", a)
		}
		assembly, _ := v.RunningOn(a.Node)
		n.Target = &TargetView{Complete: true, Hosts: v.HostNQNs(), Held: assembly.Held}
	case UnexportTarget:
		n.Target = nil
	}
	return nil
}

// grow refuses a replica that is attached twice, unless it is no source.
func (w *world) grow(v *Volume, a Action) error {
	attached := 0
	for name, n := range w.nodes {
		if _, ok := n.Legs[a.Replica]; ok && !w.down[name] {
			attached++
		}
	}
	if v.Replica(a.Replica).State != ReplicaOutOfSync && attached > 1 {
		return fmt.Errorf("%s: %d raid hosts have it", a, attached)
	}
	r := w.nodes[a.Node].Replicas[a.Replica]
	if r.SizeBytes == 0 || r.SizeBytes >= v.SizeBytes {
		return fmt.Errorf("%s: it has %d bytes", a, r.SizeBytes)
	}
	r.SizeBytes = v.SizeBytes
	w.nodes[a.Node].Replicas[a.Replica] = r
	return nil
}

// smallest returns the size of the smallest of the replicas.
func (w *world) smallest(v *Volume, ids []string) int64 {
	size := int64(math.MaxInt64)
	for _, id := range ids {
		size = min(size, w.nodes[v.Replica(id).Node].Replicas[id].SizeBytes)
	}
	return size
}

// settle plans and applies until nothing is left to do. Of the actions of one round a random part is carried out, in random
// order, as a crash would leave it.
func (w *world) settle(t *testing.T, v *Volume, rnd *rand.Rand) Steps {
	t.Helper()
	for range 200 {
		steps := Plan(v, w.observe())
		if len(steps.Now) == 0 {
			return steps
		}
		rnd.Shuffle(len(steps.Now), func(i, j int) { steps.Now[i], steps.Now[j] = steps.Now[j], steps.Now[i] })
		for _, a := range steps.Now[:1+rnd.IntN(len(steps.Now))] {
			if err := w.apply(v, a); err != nil {
				t.Fatalf("the plan breaks a rule: %v\nrecord %+v", err, v)
			}
		}
	}
	t.Fatalf("no end: %v", Plan(v, w.observe()).Now)
	return Steps{}
}

func (w *world) empty() bool {
	for _, n := range w.nodes {
		if len(n.Replicas)+len(n.Legs) > 0 || n.Raid != nil || n.Target != nil {
			return false
		}
	}
	return true
}

func record(nodes ...string) *Volume {
	v := &Volume{ID: IDFor("x"), Name: "x", UUID: uuid.UUID{1}, SizeBytes: 1 << 30, Phase: PhaseCreating}
	for i, n := range nodes {
		v.Replicas = append(v.Replicas, Replica{ID: fmt.Sprintf("%08d", i), Node: n, LvStore: "lvs", State: ReplicaPlanned})
	}
	return v
}

// made puts on record that the replicas exist.
func made(v *Volume) {
	v.Phase = PhaseReady
	for i := range v.Replicas {
		v.Replicas[i].State = ReplicaInSync
	}
}

func ids(v *Volume) (all []string) {
	for _, r := range v.Replicas {
		all = append(all, r.ID)
	}
	return all
}

func TestPlanTakesAVolumeThroughItsLife(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		w, v := newWorld("a", "b", "c", "d"), record("a", "b", "c")
		w.settle(t, v, rnd)
		made(v)
		v.Assembly, v.Assemblies = &Assembly{Number: 1, RaidHost: "d", Legs: ids(v)}, 1
		v.Publications = []Publication{{Node: "n"}}
		w.settle(t, v, rnd)
		if target := w.nodes["d"].Target; target == nil || !slices.Equal(target.Hosts, []string{HostNQN("n")}) {
			t.Fatalf("seed %d: target %+v", seed, target)
		}
		v.Publications, v.Assembly.Stopping = nil, true
		w.settle(t, v, rnd)
		v.Assembly, v.Phase = nil, PhaseDeleting
		if steps := w.settle(t, v, rnd); !steps.Done() || !w.empty() {
			t.Fatalf("seed %d: left over: %+v, blocked %v", seed, w.nodes, steps.Blocked)
		}
	}
}

func TestPlanDeletesAtAnyPoint(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		w, v := newWorld("a", "b", "c"), record("a", "b", "c")
		w.settle(t, v, rnd)
		made(v)
		v.Assembly, v.Assemblies = &Assembly{Number: 1, RaidHost: "a", Legs: ids(v)}, 1
		v.Publications = []Publication{{Node: "n"}}
		for range rnd.IntN(12) {
			for _, a := range Plan(v, w.observe()).Now[:min(1, len(Plan(v, w.observe()).Now))] {
				if err := w.apply(v, a); err != nil {
					t.Fatal(err)
				}
			}
		}
		v.Phase, v.Publications = PhaseDeleting, nil
		if steps := w.settle(t, v, rnd); !steps.Done() || !w.empty() {
			t.Fatalf("seed %d: left over: %+v", seed, w.nodes)
		}
	}
}

func TestPlanWaitsForANodeThatHoldsAReplicaToDelete(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	w, v := newWorld("a", "b"), record("a", "b")
	w.settle(t, v, rnd)
	v.Phase = PhaseDeleting
	w.down["b"] = true
	steps := w.settle(t, v, rnd)
	if len(steps.Blocked) != 1 || steps.Blocked[0].Node != "b" || steps.Done() {
		t.Fatalf("blocked by %v", steps.Blocked)
	}
	if len(w.nodes["a"].Replicas) != 0 {
		t.Fatal("the replica on the node that answers is still there")
	}
	w.down["b"] = false
	if steps := w.settle(t, v, rnd); !steps.Done() || !w.empty() {
		t.Fatalf("left over: %+v", w.nodes)
	}
}

// The raid host's process was started again: its raid, legs and target are gone, and a replica is stale by now.
func TestPlanMakesARaidAgainOfGoodLegsOnly(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 4))
	w, v := newWorld("a", "b", "c"), record("a", "b", "c")
	w.settle(t, v, rnd)
	made(v)
	v.Assembly, v.Assemblies = &Assembly{Number: 1, RaidHost: "a", Legs: ids(v), Running: true}, 1
	v.Publications = []Publication{{Node: "n"}}
	w.settle(t, v, rnd)
	v.Replicas[1].State = ReplicaOutOfSync
	a := w.nodes["a"]
	a.Raid, a.Target, a.Legs = nil, nil, map[string]LegView{}
	w.settle(t, v, rnd)
	if a.Raid == nil || !slices.Equal(a.Raid.Legs, []string{v.Replicas[0].ID, v.Replicas[2].ID}) {
		t.Fatalf("the raid is %+v", a.Raid)
	}
}

func TestPlanKeepsAFormerRaidHostOffTheReplicas(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 3))
	w, v := newWorld("a", "b", "c"), record("b", "c")
	w.settle(t, v, rnd)
	made(v)
	v.Assembly, v.Assemblies = &Assembly{Number: 1, RaidHost: "a", Legs: ids(v)}, 1
	v.Publications = []Publication{{Node: "n"}}
	w.settle(t, v, rnd)
	// a is cut off; the volume moves to b without the replica on c, which can be reached.
	w.down["a"] = true
	v.Retired = []Assembly{*v.Assembly}
	v.Assembly, v.Assemblies = &Assembly{Number: 2, RaidHost: "b", Legs: []string{v.Replicas[0].ID}}, 2
	if steps := w.settle(t, v, rnd); len(steps.Blocked) != 0 {
		t.Fatalf("a former raid host that is down blocks the volume: %v", steps.Blocked)
	}
	for _, n := range []string{"b", "c"} {
		for id, r := range w.nodes[n].Replicas {
			if slices.Contains(r.Hosts, SPDKHostNQN("a")) {
				t.Errorf("replica %s still lets the former raid host in", id)
			}
		}
	}
	w.down["a"] = false
	w.settle(t, v, rnd)
	if w.nodes["a"].Target != nil || w.nodes["a"].Raid != nil || len(w.nodes["a"].Legs) != 0 {
		t.Fatalf("left over on the former raid host: %+v", w.nodes["a"])
	}
	if gone := Gone(v, w.observe()); gone.Empty() {
		t.Fatal("the former assembly is not seen to be gone")
	}
}

func TestNamesFitTheirLimitsAndAreReadBack(t *testing.T) {
	v := record("a")
	v.UUID = uuid.New()
	r := v.Replicas[0]
	if n := len(v.LvolName(r)); n > maxObjectName {
		t.Errorf("lvol name has %d characters", n)
	}
	if len(v.ReplicaNQN(r)) > maxNQN || len(v.Serial()) > 20 {
		t.Error("NQN or serial number is too long")
	}
	for _, name := range []string{v.LvolName(r), v.LegController(r), v.LegController(r) + "n1"} {
		if id, ok := v.ReplicaOf(name); !ok || id != r.ID {
			t.Errorf("%s is read back as %q, %t", name, id, ok)
		}
	}
	if _, ok := v.ReplicaOf(v.RaidName()); ok {
		t.Error("the raid is taken for a replica")
	}
}

func TestControllerIDRangesOfNeighboursDontMeet(t *testing.T) {
	for n := uint32(1); n < 200; n++ {
		low, high := Assembly{Number: n}.CNTLIDs()
		nextLow, nextHigh := Assembly{Number: n + 1}.CNTLIDs()
		if low == 0 || high >= 0xfff0 || low > high {
			t.Fatalf("assembly %d: %d-%d", n, low, high)
		}
		if nextLow <= high && low <= nextHigh {
			t.Fatalf("assemblies %d and %d share ids", n, n+1)
		}
	}
}

func TestParametersAreCheckedWithTheirNames(t *testing.T) {
	for key, value := range map[string]string{
		ParamReplicas: "0", ParamThin: "maybe", ParamLvStore: "a/b", ParamNodeSelector: "zone", ParamFSType: "ntfs",
		ParamReplicaStallBudget: "10", ParamTargetLossBudget: "-1m", "replica": "3",
	} {
		_, err := ParseParameters(map[string]string{key: value})
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s=%s: %v", key, value, err)
		}
	}
	if _, err := ParseParameters(map[string]string{ParamReplicaStallBudget: "10s", ParamTargetLossBudget: "10s"}); err == nil {
		t.Error("equal budgets are accepted")
	}
	p, err := ParseParameters(map[string]string{ParamReplicas: "2", ParamNodeSelector: "a=b, c=d", "csi.storage.k8s.io/pvc/name": "x"})
	if err != nil || p.Replicas != 2 || p.NodeSelector["c"] != "d" || !p.Thin {
		t.Errorf("%+v, %v", p, err)
	}
}
