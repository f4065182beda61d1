package volume

import (
	"slices"
	"strings"
	"testing"
)

func TestMutableParametersAreCheckedWithTheirNamesAndRange(t *testing.T) {
	p, err := ParseParameters(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ key, value, says string }{
		{ParamIOPSLimit, "0", "from 1000 to"}, {ParamIOPSLimit, "-1", "from 1000 to"}, {ParamIOPSLimit, "-1000", "from 1000 to"},
		{ParamIOPSLimit, "many", "multiple of 1000"}, {ParamIOPSLimit, "1500", "multiple of 1000"}, {ParamIOPSLimit, "200000000", "100000000"},
		{ParamBandwidthLimit, "0", "1Mi to 1024Gi"}, {ParamBandwidthLimit, "100", "such as 100Mi"}, {ParamBandwidthLimit, "-1Mi", "1Mi to 1024Gi"},
		{ParamBandwidthLimit, "1.5Gi", "1Mi to 1024Gi"}, {ParamBandwidthLimit, "9223372036854775807Gi", "1Mi to 1024Gi"},
		{ParamReadBandwidthLimit, "7Mi", "from 8Mi to 1024Gi with replicaStallBudget 20s"}, {ParamWriteBandwidthLimit, "1Mi", "from 8Mi"},
		{ParamReplicas, "0", "from 1 to 8"}, {ParamReplicas, "9", "from 1 to 8"},
		{ParamThin, "false", "belongs to the volume for good"}, {ParamFSType, "xfs", "belongs to the volume for good"},
		{"iops", "1000", "no such parameter"},
	} {
		_, err := p.Modified(map[string]string{c.key: c.value})
		if err == nil || !strings.Contains(err.Error(), c.key) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s=%s: %v", c.key, c.value, err)
		}
	}
}

func TestWhatIsNotNamedStaysAsItIs(t *testing.T) {
	p, err := ParseClasses(map[string]string{ParamReplicas: "2", ParamIOPSLimit: "4000"}, map[string]string{ParamIOPSLimit: "2000", ParamBandwidthLimit: "100Mi", "csi.storage.k8s.io/x": "y"})
	if want := (Limits{IOPS: 2000, Bandwidth: 100 << 20}); err != nil || p.Limits != want || p.Replicas != 2 {
		t.Fatalf("%+v, %v", p, err)
	}
	q, err := p.Modified(map[string]string{ParamIOPSLimit: "none", ParamWriteBandwidthLimit: "1Gi"})
	if want := (Limits{Bandwidth: 100 << 20, WriteBandwidth: 1 << 30}); err != nil || q.Limits != want || q.Replicas != 2 {
		t.Errorf("%+v, %v", q, err)
	}
	if q.Equal(p) || !q.EqualButMutable(p) {
		t.Error("other limits are not told from other volumes")
	}
}

func TestStallBudgetThatLeavesNoTimeRefusesLimits(t *testing.T) {
	_, err := ParseClasses(map[string]string{ParamReplicaStallBudget: "29s"}, map[string]string{ParamIOPSLimit: "100000"})
	if err == nil || !strings.Contains(err.Error(), "29s") || !strings.Contains(err.Error(), ParamIOPSLimit) {
		t.Error(err)
	}
}

func TestRaidWithOtherLimitsIsLimitedBesideItsExport(t *testing.T) {
	v, seen := crowded(2, "a", "b")
	runs(v, seen, "a", "b")
	v.Parameters.Limits = Limits{IOPS: 1000}
	for _, node := range []string{"a", "b"} {
		want := []Action{{Kind: LimitRaid, Node: node}, {Kind: ExportTarget, Node: node}}
		for _, a := range want {
			if got := Plan(v, seen).Now; !slices.Contains(got, a) {
				t.Errorf("no %s in %v", a, got)
			}
		}
		seen.Nodes[node].Raid.Limits = v.Parameters.Limits
		if got := Plan(v, seen).Now; slices.Contains(got, want[0]) {
			t.Errorf("limited again: %v", got)
		}
	}
	if !v.LimitsInForce(seen) {
		t.Error("the limits are not seen in force")
	}
}
