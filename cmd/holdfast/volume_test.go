package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/go-logr/logr/testr"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/controller"
	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/operator"
	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// host is the CSI node of the tests.
const host = "worker-1"

var capability = &csi.VolumeCapability{
	AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
	AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
}

// bench is a cluster with both services, whose store is served as a controller serves it.
type bench struct {
	*cluster.Cluster
	t          *testing.T
	ctx        context.Context
	controller *controller.Server
	node       *node.Server
	flags      []string
}

func newBench(t *testing.T, nodes int) *bench {
	t.Helper()
	b := &bench{Cluster: cluster.New(t, nodes, cluster.Options{}), t: t}
	var cancel context.CancelFunc
	b.ctx, cancel = context.WithTimeout(klog.NewContext(context.Background(), testr.New(t)), 3*time.Minute)
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(cancel)
	b.RegisterHosts(host)
	machine, err := userspace.New(userspace.Options{Dir: filepath.Join(b.Dir, "dev"), Dial: b.Network.Dialer(sim.Outside, (&net.Dialer{}).DialContext)})
	b.must(err)
	t.Cleanup(machine.Close)
	b.controller, err = controller.New(b.ctx, controller.Options{Store: b.Store, Cluster: b.Cluster.Cluster, Clock: clock.RealClock{}, ThinOvercommit: 1})
	b.must(err)
	b.node, err = node.New(node.Options{
		Name: host, Store: b.Store, Cluster: b.Cluster.Cluster, Fabrics: machine, FileSystems: machine, Encryption: machine, Mounts: machine,
		StateDir: filepath.Join(b.Dir, "state"), Clock: clock.RealClock{},
	})
	b.must(err)
	run := func(part func() error) {
		wg.Go(func() {
			if err := part(); err != nil {
				t.Error(err)
			}
		})
	}
	run(func() error { return b.node.Watch(b.ctx) })
	store := "unix://" + filepath.Join(b.Dir, "store.sock")
	run(func() error { return b.Config.ServeStore(b.ctx, store, b.Store) })
	config, err := yaml.Marshal(b.Config)
	b.must(err)
	path := filepath.Join(b.Dir, "config.yaml")
	b.must(os.WriteFile(path, config, 0o600))
	b.flags = []string{"--config", path, "--store", store}
	return b
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// create makes a volume.
func (b *bench) create(name, replicas string) *volume.Volume {
	b.t.Helper()
	resp, err := b.controller.CreateVolume(b.ctx, &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: 8 << 20}, VolumeCapabilities: []*csi.VolumeCapability{capability},
		Parameters: map[string]string{volume.ParamReplicas: replicas, volume.ParamReplicaStallBudget: cluster.StallBudget.String()},
	})
	b.must(err)
	return b.Record(resp.GetVolume().GetVolumeId())
}

// use publishes and stages it.
func (b *bench) use(id string) {
	b.t.Helper()
	_, err := b.controller.ControllerPublishVolume(b.ctx, &csi.ControllerPublishVolumeRequest{VolumeId: id, NodeId: host, VolumeCapability: capability})
	b.must(err)
	_, err = b.node.NodeStageVolume(b.ctx, &csi.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: filepath.Join(b.Dir, id), VolumeCapability: capability})
	b.must(err)
}

// holdfast runs the program.
func (b *bench) holdfast(args ...string) (string, error) {
	var out bytes.Buffer
	cmd := root()
	cmd.SetArgs(append(args, b.flags...))
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.ExecuteContext(b.ctx)
	b.t.Logf("$ holdfast %s\n%s%v", strings.Join(args, " "), out.String(), err)
	return out.String(), err
}

// want runs the program, which is to succeed and to print all of texts.
func (b *bench) want(args []string, texts ...string) {
	b.t.Helper()
	out, err := b.holdfast(args...)
	b.must(err)
	b.contains(out, texts...)
}

// refused runs the program, which is to fail with all of texts in what it prints and in the error.
func (b *bench) refused(args []string, texts ...string) {
	b.t.Helper()
	out, err := b.holdfast(args...)
	if err == nil {
		b.t.Fatalf("holdfast %v succeeds", args)
	}
	b.contains(out+err.Error(), texts...)
}

func (b *bench) contains(out string, texts ...string) {
	b.t.Helper()
	for _, text := range texts {
		if !strings.Contains(out, text) {
			b.t.Errorf("no %q in %q", text, out)
		}
	}
}

func TestOperatorMovesVolumesInUseAndDrainsANode(t *testing.T) {
	b := newBench(t, 3)
	first, second := b.create("first", "3"), b.create("second", "3")
	b.use(first.ID)
	b.use(second.ID)
	b.want([]string{"volume", "list"}, "first", "second", "healthy", host)
	from := b.Record(first.ID).Assembly.RaidHost
	to := first.Replicas[0].Node
	if to == from {
		to = first.Replicas[1].Node
	}
	b.want([]string{"volume", "move", "first", "--to", to}, "first: runs on "+to)
	if got := b.Record(first.ID).Assembly; got.RaidHost != to || got.Held {
		t.Errorf("it runs as %+v", got)
	}
	b.want([]string{"volume", "show", "first"}, "raid host "+to, "published to "+host, "staged on "+host, "replicas: 3 wanted")
	b.refused([]string{"volume", "move", "first", "--to", "n9"}, "no such SPDK node")
	b.want([]string{"node", "drain", to}, to+" may be stopped.")
	for _, id := range []string{first.ID, second.ID} {
		if got := b.Record(id).Assembly.RaidHost; got == to {
			t.Errorf("%s still runs on %s", id, got)
		}
	}
	b.want([]string{"node", "list"}, "n1", "n2", "n3", "yes")
}

func TestOperatorSalvagesAVolumeAndForgetsTheDeadNode(t *testing.T) {
	b := newBench(t, 3)
	v := b.create("x", "2")
	dead, other := v.Replicas[0], v.Replicas[1]
	_, err := volume.Modify(t.Context(), b.Store, v.ID, func(v *volume.Volume) (bool, error) {
		v.SetReplicaState(other.ID, volume.ReplicaOutOfSync, time.Now())
		return true, nil
	})
	b.must(err)
	salvage := []string{"volume", "salvage", "x", "--replica", other.ID}
	b.refused(append(salvage, "--yes-lose-writes"), "in-sync and can be reached")
	b.Sim(dead.Node).Kill()
	b.want([]string{"volume", "list"}, "waiting, 0 of 2", "SPDK node does not answer: "+dead.Node)
	b.refused([]string{"node", "forget", dead.Node, "--yes-never-returns"}, "no in-sync replica would be left")
	b.refused([]string{"volume", "salvage", "x"}, other.ID, dead.ID, "choose a replica", "nothing was changed")
	b.refused(salvage, "--yes-lose-writes", "nothing was changed")
	b.want(append(salvage, "--yes-lose-writes"), "is the source of x now")
	b.refused([]string{"node", "forget", dead.Node}, "replica "+dead.ID, "--yes-never-returns", "nothing was changed")
	b.want([]string{"node", "forget", dead.Node, "--yes-never-returns"}, "replica "+dead.ID, dead.Node+": "+cluster.Pool+"/"+v.LvolName(dead))
	b.want([]string{"node", "forget", dead.Node, "--yes-never-returns"}, "No record names "+dead.Node)
	if got := b.Record(v.ID); len(got.Replicas) != 1 || got.Replicas[0].ID != other.ID || got.Replicas[0].State != volume.ReplicaInSync {
		t.Errorf("the record has %+v", got.Replicas)
	}
}

func TestOperatorForgetsAReplicaWhoseDiskIsLost(t *testing.T) {
	b := newBench(t, 2)
	v := b.create("x", "2")
	lost := v.Replicas[0]
	forget := []string{"volume", "forget-replica", "x", "--replica", lost.ID}
	b.refused(append(forget, "--yes-never-returns"), "is there")
	b.Sim(lost.Node).Kill()
	b.refused(forget, "nothing was changed")
	b.want(append(forget, "--yes-never-returns"), "replica "+lost.ID+" (in-sync)")
	if b.Record(v.ID).Replica(lost.ID) != nil {
		t.Error("it is still on record")
	}
}

func TestShowSaysHowFarAVolumeHasGrown(t *testing.T) {
	b := newBench(t, 2)
	v := b.create("x", "2")
	from := v.SizeBytes
	v, err := volume.Modify(t.Context(), b.Store, v.ID, func(v *volume.Volume) (bool, error) { return true, v.Grow(2 * from) })
	b.must(err)
	n, err := b.Node(v.Replicas[0].Node)
	b.must(err)
	b.must(n.ResizeLvol(t.Context(), cluster.Pool, v.LvolName(v.Replicas[0]), v.SizeBytes))
	small := v.Replicas[1]
	b.want([]string{"volume", "show", "x"}, "healthy", fmt.Sprintf("grows from %d MiB to %d MiB", from>>20, 2*from>>20), fmt.Sprintf("replica %s on %s has %d MiB", small.ID, small.Node, from>>20))
}

func TestOutputForPrograms(t *testing.T) {
	b := newBench(t, 2)
	v := b.create("x", "2")
	var list []operator.Summary
	b.decode(&list, "volume", "list", "-o", "json")
	if len(list) != 1 || list[0].ID != v.ID || list[0].State != condition.StateHealthy || list[0].Good != 2 {
		t.Errorf("listed %+v", list)
	}
	var d operator.Detail
	b.decode(&d, "volume", "show", "x", "--output", "json")
	if d.Record == nil || d.Record.ID != v.ID || len(d.Replicas) != 2 || !d.Replicas[0].Usable() {
		t.Errorf("shown %+v", d)
	}
	var nodes []operator.NodeSummary
	b.decode(&nodes, "node", "list", "-o", "json")
	if len(nodes) != 2 || nodes[0].Replicas != 1 {
		t.Errorf("nodes %+v", nodes)
	}
	b.refused([]string{"volume", "list", "-o", "yaml"}, "must be text or json")
	b.refused([]string{"volume", "show", "absent"}, "holdfast volume list")
}

func (b *bench) decode(into any, args ...string) {
	b.t.Helper()
	out, err := b.holdfast(args...)
	b.must(err)
	b.must(json.Unmarshal([]byte(out), into))
}

// untilPrinted cancels a context when a text has been printed a number of times.
type untilPrinted struct {
	bytes.Buffer
	text  string
	times int
	stop  context.CancelFunc
}

func (u *untilPrinted) Write(p []byte) (int, error) {
	n, err := u.Buffer.Write(p)
	if strings.Count(u.String(), u.text) >= u.times {
		u.stop()
	}
	return n, err
}

func TestWatchShowsAVolumeUntilItIsInterrupted(t *testing.T) {
	b := newBench(t, 1)
	b.create("x", "1")
	ctx, cancel := context.WithCancel(b.ctx)
	out := &untilPrinted{text: "healthy", times: 3, stop: cancel}
	cmd := root()
	cmd.SetArgs(append([]string{"volume", "show", "x", "--watch=10ms"}, b.flags...))
	cmd.SetOut(out)
	b.must(cmd.ExecuteContext(ctx))
	if strings.Contains(out.String(), "\x1b") {
		t.Error("what is no terminal got escape sequences")
	}
}

func TestSnapshotListShowsOnHowManyNodesEachIs(t *testing.T) {
	b := newBench(t, 3)
	v := b.create("source", "2")
	_, err := b.controller.CreateSnapshot(b.ctx, &csi.CreateSnapshotRequest{Name: "nightly", SourceVolumeId: v.ID})
	b.must(err)
	b.want([]string{"snapshot", "list"}, "nightly", volume.SnapshotIDFor("nightly"), v.ID, "8 MiB", "ready", v.Replicas[0].Node, v.Replicas[1].Node)
	b.want([]string{"snapshot", "list", "-o", "json"}, `"source": "`+v.ID+`"`)
	_, err = b.controller.CreateVolumeGroupSnapshot(b.ctx, &csi.CreateVolumeGroupSnapshotRequest{Name: "together", SourceVolumeIds: []string{v.ID}})
	b.must(err)
	b.want([]string{"snapshot", "list"}, "GROUP", "together", volume.GroupIDFor("together"))
}

func TestStatusAndOrphansShowWhatTheNodesHave(t *testing.T) {
	b := newBench(t, 2)
	v := b.create("x", "2")
	b.want([]string{"status"}, "1 healthy", "2 of 2 answer", "Nothing is wrong with any volume.")
	b.use(v.ID)
	b.want([]string{"orphans"}, "Every lvol of Holdfast's on the SPDK nodes that answer is on record.")
	at := v.Replicas[0]
	node, err := b.Node(at.Node)
	b.must(err)
	_, err = node.CreateLvol(b.ctx, spdk.LvolSpec{LvStore: at.LvStore, Name: "hf-of-nobody", SizeBytes: 4 << 20, Thin: true})
	b.must(err)
	b.want([]string{"orphans"}, at.Node, at.LvStore, "hf-of-nobody", "4 MiB")
	b.Sim(v.Replicas[1].Node).Kill()
	b.want([]string{"orphans"}, "hf-of-nobody", v.Replicas[1].Node+" is not looked at: ")
	b.want([]string{"status"}, "1 of 2 answer", "at risk, 1 of 2", "AtRisk")
	b.want([]string{"volume", "x"}, "raid host ")
}
