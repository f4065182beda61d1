package controller_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// spoil gives a node SPDK's default options, under which a hung replica is never noticed, and an NVMe controller, so that they can't be
// changed any more: a node that was started without its configuration.
func (b *bench) spoil(node string) {
	b.t.Helper()
	ctx := within(b.t)
	rpc, err := spdk.Dial("unix://"+b.Sim(node).Socket(), spdk.Options{CallTimeout: timeouts.RPC})
	b.must(err)
	b.t.Cleanup(func() { _ = rpc.Close() })
	b.must(spdk.BdevNVMeSetOptions(ctx, rpc, spdk.BdevNVMeSetOptionsParams{ActionOnTimeout: "none", KeepAliveTimeoutMS: 10000}))
	n, err := b.Node(node)
	b.must(err)
	_, err = n.CreateLvol(ctx, spdk.LvolSpec{LvStore: cluster.Pool, Name: "disk", SizeBytes: 8 * mib, Thin: true})
	b.must(err)
	nqn, host := "nqn.2026-11.dev.holdfast:disk:"+node, "nqn.2026-11.dev.holdfast:self:"+node
	b.must(n.Export(ctx, spdk.Export{NQN: nqn, Serial: "1", Model: "disk", Bdev: cluster.Pool + "/disk", NSUUID: uuid.New(), Listen: n.NVMf, Hosts: []string{host}}))
	_, err = n.AttachLeg(ctx, spdk.Leg{Controller: "disk", NQN: nqn, Address: n.NVMf, HostNQN: host, CtrlrLossSec: 6, ReconnectDelaySec: 1, FastIOFailSec: 2})
	b.must(err)
	b.restart() // what it knew of the node is out of date
}

func nodesOf(v *volume.Volume) []string {
	var nodes []string
	for _, r := range v.Replicas {
		nodes = append(nodes, r.Node)
	}
	slices.Sort(nodes)
	return nodes
}

func TestNewVolumeGoesToNodesThatHoldItsBudgets(t *testing.T) {
	b := newBench(t, 4, cluster.Options{})
	b.spoil("n2")
	id := b.mustCreate(order("careful", 8*mib))
	if nodes := nodesOf(b.Record(id)); !slices.Equal(nodes, []string{"n1", "n3", "n4"}) {
		t.Errorf("its replicas are on %v", nodes)
	}
}

func TestNewVolumeIsRefusedWithTheReasonIfTooFewNodesHoldItsBudgets(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	b.spoil("n2")
	_, err := b.create(order("refused", 8*mib))
	wantError(t, err, volume.ErrPrecondition)
	for _, want := range []string{"node n2: timeout_us is 0", "holdfast spdk-config --stall " + cluster.StallBudget.String()} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v doesn't say %q", err, want)
		}
	}
	if all, err := b.Store.List(t.Context(), "", 0); err != nil || len(all) > 0 {
		t.Errorf("on record are %d volumes, %v", len(all), err)
	}
	room := func(stall string) int64 {
		resp, err := b.GetCapacity(within(t), &csi.GetCapacityRequest{Parameters: map[string]string{volume.ParamReplicaStallBudget: stall}})
		b.must(err)
		return resp.GetAvailableCapacity()
	}
	if got := room(cluster.StallBudget.String()); got != 0 {
		t.Errorf("the capacity is %d bytes", got)
	}
}

// Other nodes don't answer: they may hold the budgets, so that nothing is refused for good.
func TestNewVolumeWaitsForSilentNodesWhereOthersDoNotHoldItsBudgets(t *testing.T) {
	b := newBench(t, 4, cluster.Options{})
	b.spoil("n2")
	b.kill("n3")
	_, err := b.create(order("waits", 8*mib))
	wantError(t, err, volume.ErrNodeDown)
}

func TestRaidHostIsOneThatHoldsTheBudgetsIfThereIsOne(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("prefers", 8*mib))
	b.spoil("n1")
	b.spoil("n2")
	b.must(b.publish(id))
	if h := b.Record(id).Assembly.RaidHost; h != "n3" {
		t.Errorf("the raid host is %s", h)
	}
	b.must(b.unpublish(id))
	b.spoil("n3")
	b.must(b.publish(id)) // nobody is kept from data for the sake of a budget
	b.wantPublished(id)
}

func TestLostReplicaIsReplacedWhereTheBudgetsDoNotHoldRatherThanNotAtAll(t *testing.T) {
	b := newBench(t, 4, cluster.Options{})
	b.spoil("n4")
	id := b.mustCreate(order("replaced", 8*mib))
	v := b.Record(id)
	lost := on(v, "n2")
	n2, err := b.Node("n2")
	b.must(err)
	b.must(n2.DeleteLvol(within(t), cluster.Pool, v.LvolName(lost)))
	b.must(b.Sweep(within(t)))
	if r := on(b.Record(id), "n4"); r.ID == "" {
		t.Errorf("its replicas are on %v", nodesOf(b.Record(id)))
	}
}
