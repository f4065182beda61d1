package node_test

import (
	"maps"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

func TestNodeAnnouncesItsSegmentAndItsZone(t *testing.T) {
	b := newBench(t, 1, cluster.Options{})
	for zone, want := range map[string]map[string]string{
		"":       {volume.TopologyNode: host},
		"rack-1": {volume.TopologyNode: host, volume.TopologyZone: "rack-1"},
	} {
		s, err := node.New(node.Options{
			Name: host, Zone: zone, Store: b.Store, Cluster: b.Cluster.Cluster, Fabrics: b.machine, FileSystems: b.machine, Encryption: b.machine, Mounts: b.machine,
			StateDir: filepath.Join(b.Dir, "state"), Clock: clock.RealClock{},
		})
		b.must(err)
		info, err := s.NodeGetInfo(within(t), &csi.NodeGetInfoRequest{})
		b.must(err)
		if got := info.GetAccessibleTopology().GetSegments(); !maps.Equal(got, want) {
			t.Errorf("zone %q: got %v", zone, got)
		}
	}
	if _, err := node.New(node.Options{Name: host, Zone: "rack 1"}); err == nil {
		t.Error("a zone that can't be announced is accepted")
	}
}
