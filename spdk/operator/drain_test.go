package operator_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/operator"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

func TestDrainMovesEveryVolumeThatRunsThere(t *testing.T) {
	b := newBench(t, 3)
	var ids []string
	for i := range 4 {
		v := b.volume(fmt.Sprint("moved-", i), "n1", "n2", "n3")
		b.claim(v.ID, "n1")
		ids = append(ids, v.ID)
	}
	stays := b.volume("stays", "n1", "n2", "n3")
	b.claim(stays.ID, "n2")
	idle := b.volume("idle", "n1", "n2", "n3")
	told := 0
	b.must(b.Drain(t.Context(), "n1", 2, func(m operator.Moved) {
		told++
		if m.Err != nil || m.Done != told || m.Of != len(ids) {
			t.Errorf("move %d: %+v", told, m)
		}
	}))
	if told != len(ids) {
		t.Errorf("%d moves were told", told)
	}
	on := map[string]int{}
	for _, id := range ids {
		on[b.Record(id).Assembly.RaidHost]++
	}
	if on["n1"] != 0 || on["n2"] > 2 || on["n3"] > 3 {
		t.Errorf("they run on %v", on)
	}
	if b.Record(stays.ID).Assembly.RaidHost != "n2" || b.Record(idle.ID).Assembly != nil {
		t.Error("a volume that doesn't run there was moved")
	}
	r, err := b.Remains(t.Context(), "n1")
	b.must(err)
	if !r.MayStop() || r.Replicas != 6 {
		t.Errorf("remains: %+v", r)
	}
}

func TestDrainWaitsUntilFormerAssembliesAreTakenApart(t *testing.T) {
	b := newBench(t, 2)
	v := b.volume("x", "n1", "n2")
	b.claim(v.ID, "n1")
	b.change(v.ID, func(v *volume.Volume) {
		v.Retired = []volume.Assembly{{Number: 7, RaidHost: "n2"}, {Number: 8, RaidHost: "n2"}}
	})
	b.must(b.Drain(t.Context(), "n1", 1, func(operator.Moved) {}))
	if got := b.Record(v.ID).Assembly.RaidHost; got != "n2" {
		t.Errorf("it runs on %s", got)
	}
}

func TestDrainWaitsNoLongerThanItsContext(t *testing.T) {
	b := newBench(t, 2)
	b.owner.idle = true
	v, busy := b.volume("x", "n1", "n2"), b.volume("y", "n1", "n2")
	b.claim(v.ID, "n1")
	b.claim(busy.ID, "n1")
	b.change(busy.ID, func(v *volume.Volume) { v.Retired = []volume.Assembly{{Number: 7, RaidHost: "n2"}} })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	told := 0
	err := b.Drain(ctx, "n1", 1, func(m operator.Moved) {
		if told++; m.Err == nil {
			t.Errorf("%s is told to be moved", m.Volume.Name)
		}
	})
	wantError(t, err, context.DeadlineExceeded)
	if told != 2 {
		t.Errorf("%d moves were told", told)
	}
}

func TestDrainOfAnUnknownNodeIsRefused(t *testing.T) {
	b := newBench(t, 1)
	wantError(t, b.Drain(t.Context(), "n9", 1, func(operator.Moved) {}), volume.ErrNodeUnknown)
}

func TestDrainReportsWhatCanNotBeMoved(t *testing.T) {
	b := newBench(t, 2)
	v := b.volume("alone", "n1")
	b.claim(v.ID, "n1")
	wantError(t, b.Drain(t.Context(), "n1", 1, func(operator.Moved) {}), volume.ErrNoGoodReplica)
	r, err := b.Remains(t.Context(), "n1")
	b.must(err)
	if r.MayStop() || len(r.Running) != 1 || len(r.LastCopies) != 1 {
		t.Errorf("remains: %+v", r)
	}
}

// busy is a node that answers and runs some raids.
func busy(raids int) condition.NodeSight {
	n := condition.NodeSight{Health: spdk.Health{Raids: map[string]spdk.RaidState{}}}
	for i := range raids {
		n.Health.Raids[fmt.Sprint(i)] = spdk.RaidState{}
	}
	return n
}

func TestDestinationOfADrain(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(v *volume.Volume, s condition.Sight)
		want    string
	}{
		"the good replica's node with the fewest raids": {func(*volume.Volume, condition.Sight) {}, "n3"},
		"the standby's": {func(v *volume.Volume, _ condition.Sight) { v.Standby = &volume.Assembly{RaidHost: "n4"} }, "n4"},
		"not a standby that is down": {func(v *volume.Volume, s condition.Sight) {
			v.Standby, s["n4"] = &volume.Assembly{RaidHost: "n4"}, condition.NodeSight{Err: errDown}
		}, "n3"},
		"not one that is down": {func(_ *volume.Volume, s condition.Sight) { s["n3"] = condition.NodeSight{Err: errDown} }, "n2"},
		"not one with a replica that is out-of-sync": {func(v *volume.Volume, _ condition.Sight) {
			v.Replica(replicaOn("n3")).State = volume.ReplicaOutOfSync
		}, "n2"},
		"not one where a former assembly may be": {func(v *volume.Volume, _ condition.Sight) {
			v.Retired = []volume.Assembly{{RaidHost: "n3"}}
		}, "n2"},
		"none": {func(_ *volume.Volume, s condition.Sight) {
			s["n2"], s["n3"] = condition.NodeSight{Err: errDown}, condition.NodeSight{Err: errDown}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVolume("x", "n1", "n2", "n3")
			runOn(v, "n1")
			s := condition.Sight{"n1": busy(1), "n2": busy(3), "n3": busy(2), "n4": busy(9)}
			test.prepare(v, s)
			moves := operator.PlanDrain([]*volume.Volume{v}, "n1", s)
			if len(moves) != 1 || moves[0].To != test.want || (test.want == "") != (moves[0].Err != nil) {
				t.Errorf("planned %+v, want %q", moves, test.want)
			}
		})
	}
}

func TestDrainSpreadsVolumes(t *testing.T) {
	var volumes []*volume.Volume
	for i := range 6 {
		v := newVolume(fmt.Sprint(i), "n1", "n2", "n3")
		runOn(v, "n1")
		volumes = append(volumes, v)
	}
	on := map[string]int{}
	for _, m := range operator.PlanDrain(volumes, "n1", condition.Sight{"n1": busy(6), "n2": busy(2), "n3": busy(0)}) {
		on[m.To]++
	}
	if on["n2"] != 2 || on["n3"] != 4 {
		t.Errorf("they go to %v", on)
	}
}

func TestNodeWithTheOnlyGoodReplicaMustNotBeStopped(t *testing.T) {
	for name, test := range map[string]struct {
		prepare              func(v *volume.Volume, s condition.Sight)
		lastCopies, atRisk   int
		mayStop              bool
		unstaged, standbys   int
		goodReplicasOnTheOne int
	}{
		"three good ones": {prepare: func(*volume.Volume, condition.Sight) {}, mayStop: true, goodReplicasOnTheOne: 1},
		"two good ones": {prepare: func(v *volume.Volume, _ condition.Sight) { v.Replica(replicaOn("n2")).State = volume.ReplicaRebuilding },
			mayStop: true, atRisk: 1, goodReplicasOnTheOne: 1},
		"the others are not in-sync": {prepare: func(v *volume.Volume, _ condition.Sight) {
			v.Replica(replicaOn("n2")).State, v.Replica(replicaOn("n3")).State = volume.ReplicaRebuilding, volume.ReplicaOutOfSync
		}, lastCopies: 1, goodReplicasOnTheOne: 1},
		"the others' nodes are down": {prepare: func(_ *volume.Volume, s condition.Sight) {
			s["n2"], s["n3"] = condition.NodeSight{Err: errDown}, condition.NodeSight{Err: errDown}
		}, lastCopies: 1, goodReplicasOnTheOne: 1},
		"its own is not in-sync": {prepare: func(v *volume.Volume, _ condition.Sight) { v.Replica(replicaOn("n1")).State = volume.ReplicaOutOfSync },
			mayStop: true},
		"assembled there for nobody": {prepare: func(v *volume.Volume, _ condition.Sight) {
			runOn(v, "n1")
			v.Owner = ""
		}, mayStop: true, unstaged: 1, goodReplicasOnTheOne: 1},
		"standby there": {prepare: func(v *volume.Volume, _ condition.Sight) {
			runOn(v, "n2")
			v.Standby = &volume.Assembly{RaidHost: "n1"}
		}, mayStop: true, standbys: 1, goodReplicasOnTheOne: 1},
		"deleted": {prepare: func(v *volume.Volume, _ condition.Sight) { v.Phase = volume.PhaseDeleting }, mayStop: true},
	} {
		t.Run(name, func(t *testing.T) {
			v, s := newVolume("x", "n1", "n2", "n3"), allAnswer("n1", "n2", "n3")
			test.prepare(v, s)
			r := operator.RemainsOn([]*volume.Volume{v}, "n1", s)
			if r.MayStop() != test.mayStop || len(r.LastCopies) != test.lastCopies || len(r.AtRisk) != test.atRisk ||
				len(r.Unstaged) != test.unstaged || r.Standbys != test.standbys || r.Replicas != test.goodReplicasOnTheOne {
				t.Errorf("got %+v", r)
			}
		})
	}
}
