package condition_test

import (
	"testing"

	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// reportOf is a report in which the nodes answered.
func reportOf(nodes ...string) condition.Report {
	r := condition.Report{Nodes: map[string]condition.NodeReport{}, Told: map[string]condition.Told{}}
	for _, n := range nodes {
		r.Nodes[n] = condition.NodeReport{}
	}
	return r
}

func TestReportedRaidHasTheLegsThatTheRecordSpeaksOf(t *testing.T) {
	v := newVolume("x", "n1", "n2", "n3", "n4")
	runOn(v, "n1", "n2")
	v.Replicas[1].State, v.Replicas[2].State, v.Replicas[3].State = volume.ReplicaSuspect, volume.ReplicaRebuilding, volume.ReplicaOutOfSync
	r := reportOf("n1", "n2", "n3", "n4")
	told := condition.Told{Condition: condition.Condition{Good: 1, Wanted: 4, Rebuild: &condition.Rebuild{Replica: v.Replicas[2].ID, Percent: 42}}}
	r.Told[v.ID] = told
	s := r.Sight([]*volume.Volume{v}, r.Names()...)
	for i, want := range []condition.Leg{condition.LegMember, condition.LegFailing, condition.LegRebuilding, condition.LegNone} {
		if got, _ := s.Leg(v, v.Replicas[i]); got != want {
			t.Errorf("a replica that is %s is taken for a leg that is %q, want %q", v.Replicas[i].State, got, want)
		}
	}
	if c, _ := r.Assess(v, s); c.Rebuild == nil || c.Rebuild.Percent != 42 {
		t.Errorf("it is %s", c)
	}
	told.Rebuild.Copied = true
	s = r.Sight([]*volume.Volume{v}, r.Names()...)
	if c, _ := r.Assess(v, s); c.Rebuild == nil || !c.Rebuild.Copied {
		t.Errorf("with all copied it is %s", c)
	}
}

func TestWhatWasToldCountsIfItIsWorseThanTheRecord(t *testing.T) {
	v := newVolume("x", "n1", "n2")
	r := reportOf("n1", "n2")
	assess := func() (condition.Condition, []condition.Finding) {
		return r.Assess(v, r.Sight([]*volume.Volume{v}, r.Names()...))
	}
	if c, findings := assess(); c.State != condition.StateHealthy || len(findings) > 0 {
		t.Errorf("what was never told of is %s with %v", c, findings)
	}
	lost := condition.Finding{Severity: condition.DataLoss, Reason: condition.ReasonLastCopyLost, Message: "the last good replica is lost"}
	r.Told[v.ID] = condition.Told{Condition: condition.Condition{State: condition.StateWaiting, Wanted: 2}, Worst: lost}
	if c, findings := assess(); c.State != condition.StateWaiting || c.Good != 0 || len(findings) != 1 || findings[0] != lost {
		t.Errorf("with all lvols seen missing it is %s with %v", c, findings)
	}
	v.Replicas[0].State, v.Replicas[1].State = volume.ReplicaOutOfSync, volume.ReplicaOutOfSync
	r.Told[v.ID] = condition.Told{Condition: condition.Condition{State: condition.StateHealthy, Good: 2, Wanted: 2}}
	if c, findings := assess(); c.State != condition.StateWaiting || len(findings) != 1 {
		t.Errorf("with a record that is newer than what was told it is %s with %v", c, findings)
	}
}
