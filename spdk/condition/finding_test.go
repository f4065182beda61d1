package condition_test

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// expected is a finding and texts that its message has.
type expected struct {
	severity condition.Severity
	reason   condition.Reason
	texts    []string
}

func wantFindings(t *testing.T, got []condition.Finding, want ...expected) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("found %+v", got)
	}
	for i, f := range got {
		t.Logf("%s %s: %s", f.Severity, f.Reason, f.Message)
		if f.Severity != want[i].severity || f.Reason != want[i].reason {
			t.Errorf("got %s %s, want %s %s", f.Severity, f.Reason, want[i].severity, want[i].reason)
		}
		for _, text := range want[i].texts {
			if !strings.Contains(f.Message, text) {
				t.Errorf("no %q in %q", text, f.Message)
			}
		}
	}
}

func down(s condition.Sight, nodes ...string) {
	for _, n := range nodes {
		s[n] = condition.NodeSight{Err: errDown}
	}
}

func TestEachConditionIsToldWithWhereSinceWhenAndWhy(t *testing.T) {
	n1, n2, n3 := replicaOn("n1"), replicaOn("n2"), replicaOn("n3")
	const when = "2026-11-22T15:00:00Z"
	for name, test := range map[string]struct {
		prepare func(v *volume.Volume, s condition.Sight)
		want    []expected
	}{
		"fully redundant, unused": {prepare: func(*volume.Volume, condition.Sight) {}},
		"fully redundant, running": {prepare: func(v *volume.Volume, s condition.Sight) {
			runOn(v, "n1", "n2")
			raidSeen(s, "n1", v, "", 0, n1, n2, n3)
		}},
		"being created": {prepare: func(v *volume.Volume, s condition.Sight) {
			v.Phase = volume.PhaseCreating
			down(s, "n1", "n2", "n3")
		}},
		"one out-of-sync, its node down": {func(v *volume.Volume, s condition.Sight) {
			v.Replica(n3).State = volume.ReplicaOutOfSync
			down(s, "n3")
		}, []expected{{condition.Degraded, condition.ReasonReplicasMissing, []string{"2 of 3", n3 + " on n3 is out-of-sync since " + when + ": n3 does not answer", "10m0s"}}}},
		"one suspect": {func(v *volume.Volume, _ condition.Sight) { v.Replica(n3).State = volume.ReplicaSuspect },
			[]expected{{condition.Degraded, condition.ReasonReplicasMissing, []string{n3 + " on n3 is suspect since " + when, "seen failing"}}}},
		"one lost again and again": {func(v *volume.Volume, _ condition.Sight) {
			v.Replica(n3).State, v.Replica(n3).Strikes = volume.ReplicaOutOfSync, 5
		}, []expected{{condition.Degraded, condition.ReasonReplicasMissing, []string{"lost 5 times in a row", "again at 2026-11-22T15:00:10Z"}}}},
		"one gone from the record": {func(v *volume.Volume, _ condition.Sight) { v.Replicas = v.Replicas[:2] },
			[]expected{{condition.Degraded, condition.ReasonReplicasMissing, []string{"2 of 3", "1 more to be placed"}}}},
		"lvol of an idle one gone": {func(v *volume.Volume, s condition.Sight) { stocked(s, "n2", v, true) },
			[]expected{{condition.Degraded, condition.ReasonReplicasMissing, []string{n2 + " on n2 is in-sync since " + when + ", but its lvol is not in lvstore pool"}}}},
		"lvol seen before the replica came to be": {prepare: func(v *volume.Volume, s condition.Sight) {
			stocked(s, "n2", v, true)
			v.Replica(n2).Since = since.Add(time.Hour)
		}},
		"disk of an idle one not loaded": {func(v *volume.Volume, s condition.Sight) { stocked(s, "n2", v, false) },
			[]expected{{condition.Degraded, condition.ReasonReplicasMissing, []string{"lvstore pool is not loaded on n2"}}}},
		"one rebuilding, another waiting": {func(v *volume.Volume, s condition.Sight) {
			v.Parameters.Replicas = 4
			v.Replica(n3).State = volume.ReplicaRebuilding
			v.Replicas = append(v.Replicas, volume.Replica{ID: replicaOn("n4"), Node: "n4", LvStore: "pool", State: volume.ReplicaOutOfSync, Since: since})
			s["n4"] = condition.NodeSight{}
			runOn(v, "n1", "n2")
			raidSeen(s, "n1", v, n3, 42, n1, n2)
		}, []expected{{condition.Degraded, condition.ReasonRebuilding, []string{"2 of 4", n3 + " on n3 is rebuilding since " + when + ", 42 % copied", "replica-n4 on n4 is out-of-sync since " + when + ": rebuilt after " + n3}}}},
		"one left": {func(v *volume.Volume, s condition.Sight) {
			v.Replica(n2).State, v.Replica(n3).State = volume.ReplicaOutOfSync, volume.ReplicaOutOfSync
			down(s, "n3")
		}, []expected{{condition.Degraded, condition.ReasonAtRisk, []string{"one of 3", n1 + " on n1", "next loss", n2 + " on n2 is out-of-sync since", "its rebuild has not begun", "n3 does not answer"}}}},
		"none can be reached": {func(v *volume.Volume, s condition.Sight) {
			v.Replica(n2).State = volume.ReplicaOutOfSync
			down(s, "n1", "n3")
		}, []expected{{condition.Inaccessible, condition.ReasonNoGoodReplica, []string{n1 + " on n1 is in-sync since " + when + ", but n1 does not answer", "bring its node back", "holdfast volume salvage x"}}}},
		"none in-sync on record": {func(v *volume.Volume, _ condition.Sight) {
			v.Replica(n1).State, v.Replica(n2).State, v.Replica(n3).State = volume.ReplicaSuspect, volume.ReplicaOutOfSync, volume.ReplicaRebuilding
		}, []expected{{condition.Inaccessible, condition.ReasonSalvageNeeded, []string{"waits for an operator", n1 + " on n1 is suspect", "holdfast volume salvage x"}}}},
		"all suspect, the raid goes on": {func(v *volume.Volume, s condition.Sight) {
			runOn(v, "n1", "n2")
			raidSeen(s, "n1", v, "", 0, n1, n2, n3)
			v.Replica(n1).State, v.Replica(n2).State, v.Replica(n3).State = volume.ReplicaSuspect, volume.ReplicaSuspect, volume.ReplicaSuspect
		}, []expected{{condition.Inaccessible, condition.ReasonNoGoodReplica, []string{"I/O may wait", "counts as good again"}}}},
		"last copy gone": {func(v *volume.Volume, s condition.Sight) {
			v.Replica(n2).State, v.Replica(n3).State = volume.ReplicaOutOfSync, volume.ReplicaOutOfSync
			stocked(s, "n1", v, true)
		}, []expected{
			{condition.DataLoss, condition.ReasonLastCopyLost, []string{n1 + " on n1 is in-sync since " + when + ", but its lvol is not in lvstore pool"}},
			{condition.Inaccessible, condition.ReasonSalvageNeeded, []string{"restore a backup"}},
		}},
		"last copy's disk not loaded": {func(v *volume.Volume, s condition.Sight) {
			v.Replica(n2).State, v.Replica(n3).State = volume.ReplicaOutOfSync, volume.ReplicaOutOfSync
			stocked(s, "n1", v, false)
		}, []expected{{condition.Inaccessible, condition.ReasonNoGoodReplica, []string{"its disk is gone, or not attached yet"}}}},
		"lvstores fill up": {func(_ *volume.Volume, s condition.Sight) {
			for node, free := range map[string]int64{"n1": 4, "n2": 14, "n3": 15} {
				s[node] = condition.NodeSight{Pools: map[string]condition.Pool{"pool": {TotalBytes: 100 << 30, FreeBytes: free << 30}}}
			}
		}, []expected{{condition.Degraded, condition.ReasonPoolNearlyFull, []string{"pool on n1 has less than 5 % free, and nothing new", "pool on n2 has less than 15 % free: "}}}},
		"lvstores of a thick volume are full": {prepare: func(v *volume.Volume, s condition.Sight) {
			v.Parameters.Thin = false
			s["n1"] = condition.NodeSight{Pools: map[string]condition.Pool{"pool": {TotalBytes: 100 << 30}}}
		}},
		"no standby": {func(v *volume.Volume, s condition.Sight) {
			runOn(v, "n1", "n2")
			raidSeen(s, "n1", v, "", 0, n1, n2, n3)
			v.Standby = nil
		}, []expected{{condition.Degraded, condition.ReasonStandbyMissing, []string{"no standby for raid host n1", "none is on record"}}}},
		"no standby yet of a volume that no node has staged": {prepare: func(v *volume.Volume, s condition.Sight) {
			runOn(v, "n1", "n2")
			raidSeen(s, "n1", v, "", 0, n1, n2, n3)
			v.Standby, v.Owner = nil, ""
		}},
		"standby's node down": {func(v *volume.Volume, s condition.Sight) {
			runOn(v, "n1", "n2")
			raidSeen(s, "n1", v, "", 0, n1, n2, n3)
			down(s, "n2")
		}, []expected{{condition.Degraded, condition.ReasonStandbyMissing, []string{"n2 does not answer"}}}},
		"raid host and all others silent while in use": {func(v *volume.Volume, s condition.Sight) {
			runOn(v, "n1", "n2")
			v.Parameters.Standby = false
			down(s, "n1", "n2", "n3")
		}, []expected{{condition.Degraded, condition.ReasonRaidHostSilent, []string{"n1 does not answer", "can't be seen", n3 + " on n3: in-sync"}}}},
		"another node taking over": {func(v *volume.Volume, s condition.Sight) {
			runOn(v, "n2", "n3")
			v.Standby, v.Assembly.Held = nil, true
			raidSeen(s, "n2", v, "", 0, n1, n2, n3)
		}, []expected{{condition.Degraded, condition.ReasonSwitchingOver, []string{"n2 is taking the volume over"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			v, s := newVolume("x", "n1", "n2", "n3"), allAnswer("n1", "n2", "n3")
			test.prepare(v, s)
			wantFindings(t, condition.Findings(v, s), test.want...)
		})
	}
}
