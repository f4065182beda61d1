package controller_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// newZonedBench has two SPDK nodes in each of the zones a, b and c, n1 and n2 in a and so on, and, if odd, a seventh without a zone.
func newZonedBench(t *testing.T, odd bool) *bench {
	t.Helper()
	nodes := 6
	if odd {
		nodes++
	}
	b := newBench(t, nodes, cluster.Options{})
	for i, n := range b.Nodes() {
		if i < 6 {
			n.Zone = string(rune('a' + i/2))
		}
	}
	return b
}

// segment is what a CSI node announces; parts that are "" are left out.
func segment(node, zone string) *csi.Topology {
	s := map[string]string{}
	if node != "" {
		s[volume.TopologyNode] = node
	}
	if zone != "" {
		s[volume.TopologyZone] = zone
	}
	return &csi.Topology{Segments: s}
}

// wanted is an order with accessibility requirements; all of preferred are requisite, as a CO has it.
func wanted(r *csi.CreateVolumeRequest, preferred ...*csi.Topology) *csi.CreateVolumeRequest {
	r.AccessibilityRequirements = &csi.TopologyRequirement{Requisite: preferred, Preferred: preferred}
	return r
}

func (b *bench) zonesOf(id string) []string {
	var zones []string
	for _, r := range b.Record(id).Replicas {
		n, err := b.Node(r.Node)
		b.must(err)
		zones = append(zones, n.Zone)
	}
	return zones
}

func TestFirstReplicaGoesToTheMachineOfThePodAndTheOthersElsewhere(t *testing.T) {
	b := newZonedBench(t, true)
	for i, c := range []struct{ node, zone, first string }{
		{"n4", "b", "n4"},         // an SPDK node is on the machine
		{"worker", "c", ""},       // none is, but some are in its zone
		{"n7", "", "n7"},          // the machine has no zone
		{"worker", "unheard", ""}, // nothing is there
	} {
		id := b.mustCreate(wanted(order(fmt.Sprint("v", i), 8*mib), segment(c.node, c.zone), segment("worker", "a"), segment("worker", "b"), segment("worker", "c")))
		v, zones := b.Record(id), b.zonesOf(id)
		if c.first != "" && v.Replicas[0].Node != c.first {
			t.Errorf("%+v: the first replica is on %s", c, v.Replicas[0].Node)
		}
		if c.zone == "c" && zones[0] != "c" || c.zone == "unheard" && zones[0] != "a" {
			t.Errorf("%+v: the first replica is in zone %q", c, zones[0])
		}
		slices.Sort(zones)
		if len(slices.Compact(zones)) != 3 {
			t.Errorf("%+v: the zones are %v", c, zones)
		}
	}
}

// One that is full, or gone, is no reason to fail.
func TestWishForAPlaceGivesWayToRoom(t *testing.T) {
	b := newZonedBench(t, false)
	b.kill("n3")
	b.kill("n4")
	id := b.mustCreate(wanted(order("x", 8*mib, volume.ParamReplicas, "2"), segment("n3", "b")))
	if zones := b.zonesOf(id); slices.Contains(zones, "b") {
		t.Errorf("the zones are %v", zones)
	}
}

func TestVolumeIsAccessibleFromEverywhereUnlessRestricted(t *testing.T) {
	b := newZonedBench(t, true)
	anywhere, err := b.CreateVolume(within(t), wanted(order("anywhere", 8*mib), segment("n1", "a")))
	b.must(err)
	if got := anywhere.GetVolume().GetAccessibleTopology(); got != nil {
		t.Errorf("got %v", got)
	}
	zonal := func(name string, replicas string, in ...string) (*csi.CreateVolumeResponse, error) {
		r := order(name, 8*mib, volume.ParamReplicas, replicas, volume.ParamAccess, string(volume.AccessZone))
		var segments []*csi.Topology
		for _, zone := range in {
			segments = append(segments, segment("worker", zone))
		}
		if len(in) > 0 {
			r = wanted(r, segments...)
		}
		return b.CreateVolume(within(t), r)
	}
	for i, c := range []struct {
		replicas string
		in, want []string
	}{
		{"2", []string{"b"}, []string{"b"}},
		{"2", []string{"c", "a"}, []string{"a", "c"}},
		{"1", []string{"c", "a"}, []string{"c"}},
		{"3", nil, []string{"a", "b", "c"}},
	} {
		for range 2 { // the call may come twice
			resp, err := zonal(fmt.Sprint("zonal", i), c.replicas, c.in...)
			b.must(err)
			var got []string
			for _, topology := range resp.GetVolume().GetAccessibleTopology() {
				if len(topology.GetSegments()) != 1 {
					t.Errorf("segments %v", topology.GetSegments())
				}
				got = append(got, topology.GetSegments()[volume.TopologyZone])
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%+v: got %v", c, got)
			}
		}
	}
	_, err = zonal("too many", "3", "b")
	wantError(t, err, volume.ErrNoSpace)
	_, err = zonal("zonal0", "2", "a")
	wantError(t, err, volume.ErrIncompatible)
}

func TestCloneIsRestrictedToItsZonesToo(t *testing.T) {
	b := newZonedBench(t, false)
	ordered := func(name string, zones ...string) *csi.CreateVolumeRequest {
		var segments []*csi.Topology
		for _, zone := range zones {
			segments = append(segments, segment("worker", zone))
		}
		return wanted(order(name, 8*mib, volume.ParamReplicas, "2", volume.ParamAccess, string(volume.AccessZone)), segments...)
	}
	source := &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{
		VolumeId: b.mustCreate(ordered("source", "a", "b")),
	}}}
	clone := ordered("clone", "a")
	clone.VolumeContentSource = source
	if zones := b.zonesOf(b.mustCreate(clone)); !slices.Equal(zones, []string{"a", "a"}) {
		t.Errorf("the clone is in %v", zones)
	}
	elsewhere := ordered("elsewhere", "c")
	elsewhere.VolumeContentSource = source
	if _, err := b.create(elsewhere); err == nil {
		t.Error("a clone is made where the source has no replica")
	}
}

// A replica that is lost is replaced in the zones that were asked for.
func TestRestrictionToZonesHoldsForReplacements(t *testing.T) {
	b := newZonedBench(t, false)
	id := b.mustCreate(wanted(order("x", 8*mib, volume.ParamReplicas, "2", volume.ParamAccess, string(volume.AccessZone)), segment("worker", "a"), segment("worker", "b")))
	v := b.Record(id)
	lost := v.Replicas[0]
	n, err := b.Node(lost.Node)
	b.must(err)
	b.must(n.DeleteLvol(within(t), cluster.Pool, v.LvolName(lost)))
	b.must(b.Sweep(within(t)))
	v = b.Record(id)
	if len(v.InState(volume.ReplicaInSync, volume.ReplicaOutOfSync, volume.ReplicaRebuilding)) != 2 || slices.Contains(b.zonesOf(id), "c") {
		t.Errorf("the replicas are %+v", v.Replicas)
	}
}

func TestCapacityOfATopology(t *testing.T) {
	b := newZonedBench(t, false)
	capacity := func(access volume.Access, replicas string, in *csi.Topology) (largest, total int64) {
		resp, err := b.GetCapacity(within(t), &csi.GetCapacityRequest{AccessibleTopology: in, Parameters: map[string]string{
			volume.ParamReplicas: replicas, volume.ParamAccess: string(access), volume.ParamReplicaStallBudget: cluster.StallBudget.String(),
		}})
		b.must(err)
		return resp.GetMaximumVolumeSize().GetValue(), resp.GetAvailableCapacity()
	}
	each, all := capacity(volume.AccessAnywhere, "1", nil)
	if each == 0 || all != 6*each {
		t.Fatalf("a node has %d of %d", each, all)
	}
	b.mustCreate(wanted(order("taken", 64*mib, volume.ParamReplicas, "1"), segment("n1", "a")))
	b.mustCreate(wanted(order("too", 64*mib, volume.ParamReplicas, "1"), segment("n2", "a")))
	less := each - 64*mib
	for _, c := range []struct {
		access         volume.Access
		replicas       string
		in             *csi.Topology
		largest, total int64
	}{
		{volume.AccessAnywhere, "1", segment("n1", "a"), each, 4*each + 2*less},
		{volume.AccessAnywhere, "2", segment("n1", ""), each, (4*each + 2*less) / 2},
		{volume.AccessZone, "1", nil, each, 4*each + 2*less},
		{volume.AccessZone, "1", segment("n1", "a"), less, 2 * less},
		{volume.AccessZone, "1", segment("n3", "b"), each, 2 * each},
		{volume.AccessZone, "2", segment("n1", "a"), less, 2 * less},
		{volume.AccessZone, "2", segment("n3", "b"), each, 2 * each},
		{volume.AccessZone, "6", segment("n3", "b"), less, less},
		{volume.AccessZone, "1", segment("n9", "nowhere"), 0, 0},
		{volume.AccessZone, "1", segment("n9", ""), 0, 0},
		{volume.AccessZone, "7", segment("n1", "a"), 0, 0},
	} {
		if largest, total := capacity(c.access, c.replicas, c.in); largest != c.largest || total != c.total {
			t.Errorf("%s, %s replicas in %v: got %d, %d, want %d, %d", c.access, c.replicas, c.in.GetSegments(), largest/mib, total/mib, c.largest/mib, c.total/mib)
		}
	}
}
