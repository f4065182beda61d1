package controller_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/controller"
	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

func (b *bench) cordon(cordoned bool, nodes ...string) {
	b.t.Helper()
	for _, node := range nodes {
		b.must(b.Store.SetCordon(b.t.Context(), node, cordoned))
	}
}

func TestCordonedNodeGetsNoReplica(t *testing.T) {
	b := newBench(t, 4, cluster.Options{})
	b.cordon(true, "n2")
	id := b.mustCreate(order("away", 8*mib))
	if nodes := nodesOf(b.Record(id)); !slices.Equal(nodes, []string{"n1", "n3", "n4"}) {
		t.Errorf("its replicas are on %v", nodes)
	}
	v := b.Record(id)
	n1, err := b.Node("n1")
	b.must(err)
	b.must(n1.DeleteLvol(within(t), cluster.Pool, v.LvolName(on(v, "n1"))))
	b.cordon(true, "n1")
	b.must(b.Sweep(within(t)))
	b.must(b.Sweep(within(t)))
	if nodes := nodesOf(b.Record(id)); !slices.Equal(nodes, []string{"n3", "n4"}) {
		t.Errorf("the lost replica is gone and not replaced, and there are %v", nodes)
	}
	b.cordon(false, "n2")
	b.must(b.Sweep(within(t)))
	if nodes := nodesOf(b.Record(id)); !slices.Equal(nodes, []string{"n2", "n3", "n4"}) {
		t.Errorf("its replicas are on %v", nodes)
	}
}

func TestVolumeIsNotMadeWhereTooFewNodesAreOpen(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	b.cordon(true, "n2")
	_, err := b.create(order("refused", 8*mib))
	wantError(t, err, volume.ErrNoSpace)
	if !strings.Contains(err.Error(), "cordoned, and left out, are n2") {
		t.Errorf("the reason is %v", err)
	}
	capacity, err := b.GetCapacity(within(t), &csi.GetCapacityRequest{Parameters: order("any", 8*mib).GetParameters()})
	b.must(err)
	if capacity.GetAvailableCapacity() != 0 {
		t.Errorf("there is room for %d bytes", capacity.GetAvailableCapacity())
	}
}

func TestCordonedNodeIsNoRaidHost(t *testing.T) {
	for name, test := range map[string]struct{ cordoned, hosts []string }{
		"a holder is left":     {[]string{"n1", "n2"}, []string{"n3"}},
		"no holder is left":    {[]string{"n1", "n2", "n3"}, []string{"n4"}},
		"all nodes are closed": {[]string{"n1", "n2", "n3", "n4"}, []string{"n1", "n2", "n3"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 4, cluster.Options{})
			b.cordon(true, "n4")
			id := b.mustCreate(order("runs", 8*mib))
			b.cordon(false, "n4")
			b.cordon(true, test.cordoned...)
			b.must(b.publish(id))
			if h := b.Record(id).Assembly.RaidHost; !slices.Contains(test.hosts, h) {
				t.Errorf("the raid host is %s", h)
			}
			b.wantPublished(id)
		})
	}
}

// screen is a display that keeps the last picture, and ends its context then.
type screen struct {
	picture condition.Picture
	shown   context.CancelFunc
}

func (s *screen) Show(_ context.Context, p condition.Picture) error {
	s.picture = p
	s.shown()
	return nil
}

func TestDisplayIsShownVolumesAndNodes(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("seen", 8*mib))
	b.kill("n2")
	ctx, cancel := context.WithCancel(within(t))
	s := &screen{shown: cancel}
	server, err := controller.New(ctx, controller.Options{Store: b.Store, Cluster: b.Cluster.Cluster, Clock: clock.RealClock{}, ThinOvercommit: 1, Display: s})
	b.must(err)
	server.SweepEvery(ctx, clock.RealClock{}, 1)
	if len(s.picture.Volumes) != 1 || s.picture.Volumes[0].ID != id || condition.Assess(s.picture.Volumes[0], s.picture.Sight).State != condition.StateDegraded {
		t.Errorf("shown is %+v", s.picture.Volumes)
	}
	for _, n := range s.picture.Nodes {
		if answers := n.Name != "n2"; answers != (len(n.LvStores) == 1) {
			t.Errorf("%s is shown with lvstores %v", n.Name, n.LvStores)
		}
	}
}
