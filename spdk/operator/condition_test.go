package operator_test

import (
	"errors"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/operator"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

var errDown = errors.New("connection refused")

// raidSeen enters in a sight that a node runs the raid of a volume with these members, and rebuilds one more unless that is "".
func raidSeen(s operator.Sight, node string, v *volume.Volume, rebuilding string, percent int, members ...string) {
	raid := spdk.RaidState{Name: v.RaidName(), State: spdk.RaidOnline}
	controllers := map[string]spdk.LegState{}
	add := func(id string) string {
		controller := v.LegController(*v.Replica(id))
		controllers[controller] = spdk.LegState{State: spdk.LegEnabled}
		raid.Slots = append(raid.Slots, spdk.RaidSlot{Bdev: spdk.LegBdev(controller), Configured: true})
		return spdk.LegBdev(controller)
	}
	for _, id := range members {
		add(id)
	}
	if rebuilding != "" {
		raid.Rebuild = &spdk.RebuildProgress{Target: add(rebuilding), Percent: percent}
	}
	s[node] = operator.NodeSight{Health: spdk.Health{Raids: map[string]spdk.RaidState{raid.Name: raid}, Controllers: controllers}}
}

func TestConditionCountsWhatCanBeUsedNow(t *testing.T) {
	n1, n2, n3 := replicaOn("n1"), replicaOn("n2"), replicaOn("n3")
	for name, test := range map[string]struct {
		prepare func(v *volume.Volume, s operator.Sight)
		want    string
	}{
		"all good":                  {func(*volume.Volume, operator.Sight) {}, "healthy"},
		"being created":             {func(v *volume.Volume, _ operator.Sight) { v.Phase = volume.PhaseCreating }, "creating"},
		"being deleted":             {func(v *volume.Volume, _ operator.Sight) { v.Phase = volume.PhaseDeleting }, "deleting"},
		"one out-of-sync":           {func(v *volume.Volume, _ operator.Sight) { v.Replica(n3).State = volume.ReplicaOutOfSync }, "degraded 2 of 3"},
		"a suspect does not count":  {func(v *volume.Volume, _ operator.Sight) { v.Replica(n3).State = volume.ReplicaSuspect }, "degraded 2 of 3"},
		"node of an idle one down":  {func(_ *volume.Volume, s operator.Sight) { s["n3"] = operator.NodeSight{Err: errDown} }, "degraded 2 of 3"},
		"node not in configuration": {func(_ *volume.Volume, s operator.Sight) { delete(s, "n3") }, "degraded 2 of 3"},
		"RPC of a member's node down": {func(v *volume.Volume, s operator.Sight) {
			runOn(v, "n1")
			raidSeen(s, "n1", v, "", 0, n1, n2, n3)
			s["n3"] = operator.NodeSight{Err: errDown}
		}, "healthy"},
		"one left": {func(v *volume.Volume, _ operator.Sight) {
			v.Replica(n2).State, v.Replica(n3).State = volume.ReplicaOutOfSync, volume.ReplicaOutOfSync
		}, "at risk, 1 of 3"},
		"none left": {func(v *volume.Volume, s operator.Sight) {
			v.Replica(n2).State, v.Replica(n3).State = volume.ReplicaOutOfSync, volume.ReplicaOutOfSync
			s["n1"] = operator.NodeSight{Err: errDown}
		}, "waiting, 0 of 3"},
		"rebuild": {func(v *volume.Volume, s operator.Sight) {
			v.Replica(n3).State = volume.ReplicaRebuilding
			runOn(v, "n1")
			raidSeen(s, "n1", v, n3, 42, n1, n2)
		}, "rebuilding 42 %, 2 of 3"},
		"rebuild of the last but one": {func(v *volume.Volume, s operator.Sight) {
			v.Replica(n2).State, v.Replica(n3).State = volume.ReplicaRebuilding, volume.ReplicaOutOfSync
			runOn(v, "n1")
			raidSeen(s, "n1", v, n2, 7, n1)
		}, "at risk, 1 of 3, rebuilding 7 %"},
		"rebuild that has copied all": {func(v *volume.Volume, s operator.Sight) {
			v.Replica(n3).State = volume.ReplicaRebuilding
			runOn(v, "n1")
			raidSeen(s, "n1", v, "", 0, n1, n2, n3)
		}, "rebuilt, settling, 2 of 3"},
		"rebuild that nobody can be asked about": {func(v *volume.Volume, s operator.Sight) {
			v.Replica(n3).State = volume.ReplicaRebuilding
			runOn(v, "n4")
			s["n4"] = operator.NodeSight{Err: errDown}
		}, "degraded 2 of 3"},
	} {
		t.Run(name, func(t *testing.T) {
			v, s := newVolume("x", "n1", "n2", "n3"), allAnswer("n1", "n2", "n3")
			test.prepare(v, s)
			if got := operator.Assess(v, s).String(); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestVolumeOfOneReplicaIsHealthy(t *testing.T) {
	if got := operator.Assess(newVolume("x", "n1"), allAnswer("n1")).String(); got != "healthy" {
		t.Errorf("got %q", got)
	}
}

func TestShowTellsWhatIsWrongWithEachReplica(t *testing.T) {
	b := newBench(t, 4)
	v := b.volume("x", "n1", "n2", "n3", "n4")
	b.change(v.ID, func(v *volume.Volume) {
		v.Replica(replicaOn("n2")).LvStore = "other"
		v.Replica(replicaOn("n3")).ID = "elsewhere"
	})
	b.Sim("n4").Kill()
	d, err := b.Show(t.Context(), "x")
	b.must(err)
	type seen struct{ usable, answers, missing bool }
	for i, want := range []seen{{true, true, false}, {false, true, true}, {false, true, true}, {false, false, false}} {
		r := d.Replicas[i]
		if got := (seen{r.Usable(), r.Answers, r.Missing}); got != want {
			t.Errorf("replica on %s: got %+v, want %+v (%s)", r.Node, got, want, r.Problem)
		}
	}
}

func TestVolumeIsFoundByItsIDAndByItsName(t *testing.T) {
	b := newBench(t, 1)
	v := b.volume("x", "n1")
	for _, name := range []string{"x", v.ID} {
		found, err := b.Find(t.Context(), name)
		b.must(err)
		if found.ID != v.ID {
			t.Errorf("%q finds %s", name, found.ID)
		}
	}
	_, err := b.Find(t.Context(), "y")
	wantError(t, err, volume.ErrNotFound)
}

func TestNodesListsWhatRecordsNameToo(t *testing.T) {
	b := newBench(t, 2)
	v := b.volume("x", "n1", "n2")
	b.use(v.ID, "n1")
	b.change(v.ID, func(v *volume.Volume) {
		v.Replica(replicaOn("n2")).State = volume.ReplicaOutOfSync
		v.Retired = []volume.Assembly{{Number: 9, RaidHost: "former"}}
	})
	b.Sim("n2").Kill()
	nodes, err := b.Nodes(t.Context())
	b.must(err)
	if len(nodes) != 3 {
		t.Fatalf("listed %+v", nodes)
	}
	if n := nodes[0]; n.Name != "n1" || n.Problem != "" || n.Version == "" || n.Running != 1 || n.Replicas != 1 || n.NotInSync != 0 || n.FreeBytes == 0 {
		t.Errorf("n1: %+v", n)
	}
	if n := nodes[1]; n.Name != "n2" || n.Problem == "" || n.Replicas != 1 || n.NotInSync != 1 {
		t.Errorf("n2: %+v", n)
	}
	if n := nodes[2]; n.Name != "former" || n.Problem == "" || n.Retired != 1 {
		t.Errorf("former: %+v", n)
	}
}
