package condition_test

import (
	"errors"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

var errDown = errors.New("connection refused")

// raidSeen enters in a sight that a node runs the raid of a volume with these members, and rebuilds one more unless that is "".
func raidSeen(s condition.Sight, node string, v *volume.Volume, rebuilding string, percent int, members ...string) {
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
	s[node] = condition.NodeSight{Health: spdk.Health{Raids: map[string]spdk.RaidState{raid.Name: raid}, Controllers: controllers}}
}

func TestConditionCountsWhatCanBeUsedNow(t *testing.T) {
	n1, n2, n3 := replicaOn("n1"), replicaOn("n2"), replicaOn("n3")
	for name, test := range map[string]struct {
		prepare func(v *volume.Volume, s condition.Sight)
		want    string
	}{
		"all good":                  {func(*volume.Volume, condition.Sight) {}, "healthy"},
		"being created":             {func(v *volume.Volume, _ condition.Sight) { v.Phase = volume.PhaseCreating }, "creating"},
		"being deleted":             {func(v *volume.Volume, _ condition.Sight) { v.Phase = volume.PhaseDeleting }, "deleting"},
		"one out-of-sync":           {func(v *volume.Volume, _ condition.Sight) { v.Replica(n3).State = volume.ReplicaOutOfSync }, "degraded 2 of 3"},
		"a suspect does not count":  {func(v *volume.Volume, _ condition.Sight) { v.Replica(n3).State = volume.ReplicaSuspect }, "degraded 2 of 3"},
		"node of an idle one down":  {func(_ *volume.Volume, s condition.Sight) { s["n3"] = condition.NodeSight{Err: errDown} }, "degraded 2 of 3"},
		"node not in configuration": {func(_ *volume.Volume, s condition.Sight) { delete(s, "n3") }, "degraded 2 of 3"},
		"RPC of a member's node down": {func(v *volume.Volume, s condition.Sight) {
			runOn(v, "n1", "n2")
			raidSeen(s, "n1", v, "", 0, n1, n2, n3)
			s["n3"] = condition.NodeSight{Err: errDown}
		}, "healthy"},
		"one left": {func(v *volume.Volume, _ condition.Sight) {
			v.Replica(n2).State, v.Replica(n3).State = volume.ReplicaOutOfSync, volume.ReplicaOutOfSync
		}, "at risk, 1 of 3"},
		"none left": {func(v *volume.Volume, s condition.Sight) {
			v.Replica(n2).State, v.Replica(n3).State = volume.ReplicaOutOfSync, volume.ReplicaOutOfSync
			s["n1"] = condition.NodeSight{Err: errDown}
		}, "waiting, 0 of 3"},
		"rebuild": {func(v *volume.Volume, s condition.Sight) {
			v.Replica(n3).State = volume.ReplicaRebuilding
			runOn(v, "n1", "n2")
			raidSeen(s, "n1", v, n3, 42, n1, n2)
		}, "rebuilding 42 %, 2 of 3"},
		"rebuild of the last but one": {func(v *volume.Volume, s condition.Sight) {
			v.Replica(n2).State, v.Replica(n3).State = volume.ReplicaRebuilding, volume.ReplicaOutOfSync
			runOn(v, "n1", "n2")
			raidSeen(s, "n1", v, n2, 7, n1)
		}, "at risk, 1 of 3, rebuilding 7 %"},
		"rebuild that has copied all": {func(v *volume.Volume, s condition.Sight) {
			v.Replica(n3).State = volume.ReplicaRebuilding
			runOn(v, "n1", "n2")
			raidSeen(s, "n1", v, "", 0, n1, n2, n3)
		}, "rebuilt, settling, 2 of 3"},
		"rebuild that nobody can be asked about": {func(v *volume.Volume, s condition.Sight) {
			v.Replica(n3).State = volume.ReplicaRebuilding
			runOn(v, "n4", "n2")
			s["n4"] = condition.NodeSight{Err: errDown}
		}, "degraded 2 of 3"},
	} {
		t.Run(name, func(t *testing.T) {
			v, s := newVolume("x", "n1", "n2", "n3"), allAnswer("n1", "n2", "n3")
			test.prepare(v, s)
			if got := condition.Assess(v, s).String(); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestVolumeOfOneReplicaIsHealthy(t *testing.T) {
	if got := condition.Assess(newVolume("x", "n1"), allAnswer("n1")).String(); got != "healthy" {
		t.Errorf("got %q", got)
	}
}
