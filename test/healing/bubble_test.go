package healing

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/go-logr/logr"
	"github.com/go-logr/logr/testr"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/controller"
	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// patience is how long, in a bubble's time, what is to happen may take.
const patience = 5 * time.Minute

// sweepEvery is how often the controller of a bubble looks after the volumes.
const sweepEvery = 5 * time.Second

// bubble is what bench is, in a bubble of testing/synctest: hours of it take seconds, and its services can be ended and begun again. Its
// volumes are used as raw block devices, so that a byte of the device is the same byte of each replica.
type bubble struct {
	*cluster.Bubble
	t   *testing.T
	ctx context.Context
	// host is the CSI node whose node service it is.
	host       string
	machine    *userspace.Machine
	controller *controller.Server
	node       *node.Server
	stop       func()
	// bytes is what the volume is to have at least.
	bytes int64
	// parameters are those of volumes that are made, besides what all have.
	parameters map[string]string
}

func newBubble(t *testing.T, nodes int, o cluster.Options) *bubble {
	t.Helper()
	o.Stall = stall
	logger := logr.Discard()
	if testing.Verbose() {
		logger = testr.NewWithOptions(t, testr.Options{LogTimestamp: true})
	}
	b := &bubble{host: host, Bubble: cluster.NewBubble(t, nodes, o), t: t, ctx: klog.NewContext(context.WithoutCancel(t.Context()), logger)}
	b.RegisterHosts(host)
	var err error
	b.machine, err = userspace.New(userspace.Options{Dir: filepath.Join(b.Dir, "dev"), Dial: b.Dial, Fault: o.Steps.Machine})
	b.must(err)
	t.Cleanup(b.machine.Close)
	b.start()
	t.Cleanup(func() { b.stop() })
	return b
}

// start begins a life of the controller and of the node service. A controller that can't read the records begins again.
func (b *bubble) start() {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.ctx)
	b.must(b.again(func() (err error) {
		b.controller, err = controller.New(ctx, controller.Options{Store: b.Store, Cluster: b.Cluster.Cluster, Clock: clock.RealClock{}, ThinOvercommit: 1})
		return err
	}))
	var err error
	b.node, err = node.New(node.Options{
		Name: host, Store: b.Store, Cluster: b.Cluster.Cluster, Fabrics: b.machine, FileSystems: b.machine, Encryption: b.machine, Mounts: b.machine,
		StateDir: filepath.Join(b.Dir, "state"), Clock: clock.RealClock{},
	})
	b.must(err)
	var running sync.WaitGroup
	running.Go(func() { b.controller.SweepEvery(ctx, clock.RealClock{}, sweepEvery) })
	running.Go(func() {
		if err := b.node.Watch(ctx); err != nil {
			b.t.Error(err)
		}
	})
	b.stop = func() {
		cancel()
		running.Wait()
	}
}

func (b *bubble) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// await lets time pass until ok says so.
func (b *bubble) await(what string, ok func() bool) error {
	for end := time.Now().Add(patience); !ok(); time.Sleep(300 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("not within %s: %s", patience, what)
		}
	}
	return nil
}

// again calls f until it succeeds.
func (b *bubble) again(f func() error) error {
	var err error
	_ = b.await("a call succeeds", func() bool { err = f(); return err == nil })
	return err
}

var rawBlock = &csi.VolumeCapability{
	AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
	AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
}

// create makes a volume of 8 MiB.
func (b *bubble) create(name string, replicas int) string {
	b.t.Helper()
	parameters := map[string]string{
		volume.ParamReplicaStallBudget: stall.String(), volume.ParamReplicas: fmt.Sprint(replicas), volume.ParamReplaceAfter: "3s",
	}
	maps.Copy(parameters, b.parameters)
	resp, err := b.controller.CreateVolume(b.ctx, &csi.CreateVolumeRequest{
		Name: name, VolumeCapabilities: []*csi.VolumeCapability{rawBlock}, CapacityRange: &csi.CapacityRange{RequiredBytes: 8 * mib}, Parameters: parameters,
	})
	b.must(err)
	b.bytes = 0
	return resp.GetVolume().GetVolumeId()
}

func (b *bubble) publish(id string) error {
	_, err := b.controller.ControllerPublishVolume(b.ctx, &csi.ControllerPublishVolumeRequest{VolumeId: id, NodeId: b.host, VolumeCapability: rawBlock})
	return err
}

func (b *bubble) stage(id string) error {
	_, err := b.node.NodeStageVolume(b.ctx, &csi.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: b.staging(id), VolumeCapability: rawBlock})
	return err
}

// staged makes a volume that is in use and whole.
func (b *bubble) staged(name string, replicas int) string {
	b.t.Helper()
	id := b.create(name, replicas)
	b.must(b.publish(id))
	b.must(b.stage(id))
	b.must(b.awaitWhole(id))
	return id
}

// used is staged with a load of that many writers on the first blocks, begun before the volume is whole.
func (b *bubble) used(name string, blocks, writers int, pause time.Duration) (id string, l *cluster.Load) {
	b.t.Helper()
	id = b.create(name, 3)
	b.must(b.publish(id))
	b.must(b.stage(id))
	l = cluster.StartLoad(b.ctx, b.open(id), blocks, writers, pause)
	b.must(b.awaitWhole(id))
	return id, l
}

// wantWholeToTheEnd waits until a volume is whole, ends its load, wants all of its data to be there, and nothing when it is deleted.
func (b *bubble) wantWholeToTheEnd(id string, l *cluster.Load) {
	b.t.Helper()
	b.must(b.awaitWhole(id))
	b.must(l.End())
	b.must(b.unuse(id))
	b.wantData(id, l)
	b.remove(id)
}

func (b *bubble) staging(id string) string { return filepath.Join(b.Dir, "staging", id) }

// open returns the device of a staged volume.
func (b *bubble) open(id string) *userspace.File {
	b.t.Helper()
	v := b.Record(id)
	device, err := b.machine.Device(b.ctx, v.NQN(), v.UUID)
	b.must(err)
	file, err := b.machine.Open(device.Path)
	b.must(err)
	return file
}

// unuse unstages and unpublishes a volume.
func (b *bubble) unuse(id string) error {
	return errors.Join(
		b.again(func() error {
			_, err := b.node.NodeUnstageVolume(b.ctx, &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: b.staging(id)})
			return err
		}),
		b.again(func() error {
			_, err := b.controller.ControllerUnpublishVolume(b.ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: b.host})
			return err
		}))
}

// remove deletes a volume that nobody uses and wants nothing to be left of it, nor on the machine.
func (b *bubble) remove(id string) {
	b.t.Helper()
	b.must(b.again(func() error {
		_, err := b.controller.DeleteVolume(b.ctx, &csi.DeleteVolumeRequest{VolumeId: id})
		return err
	}))
	if err := b.await("nothing is left", func() bool { return len(b.Leftovers()) == 0 }); err != nil {
		b.t.Fatalf("%v: %q", err, b.Leftovers())
	}
	if mounts, attached := b.machine.All(), b.machine.Attached(); len(mounts)+len(attached) > 0 {
		b.t.Fatalf("left on the machine: %+v, %v", mounts, attached)
	}
}

// whole says what a volume lacks of its good state: all replicas in-sync, nothing of former assemblies, and, while it is in use, one
// target that is optimized, a standby over all replicas, and a path to each of the two.
func (b *bubble) whole(id string) error {
	v := b.Record(id)
	good := v.InState(volume.ReplicaInSync)
	if len(good) != v.Parameters.Replicas || len(v.Replicas) != len(good) {
		return fmt.Errorf("it has %+v", v.Replicas)
	}
	if err := volume.CheckGrown(v, b.Observe(v)); err != nil || v.GrowingFrom > 0 || v.SizeBytes < b.bytes {
		return fmt.Errorf("it has %d bytes, growing from %d: %w", v.SizeBytes, v.GrowingFrom, err)
	}
	switch serving := b.Optimized(v); {
	case len(v.Retired) > 0:
		return fmt.Errorf("%+v are retired", v.Retired)
	case v.MoveTo != "":
		return fmt.Errorf("it is to move to %s", v.MoveTo)
	case v.Owner == "" && (v.Assembly != nil || v.Standby != nil || len(serving) > 0):
		return fmt.Errorf("nobody uses it, and it runs: %+v, %+v, %v", v.Assembly, v.Standby, serving)
	case v.Owner == "":
		return nil
	case !v.LimitsInForce(b.Observe(v)):
		return fmt.Errorf("its limits, %+v, are not in force", v.Parameters.Limits)
	case v.Assembly == nil || v.Assembly.Held || !slices.Equal(serving, []string{v.Assembly.RaidHost}):
		return fmt.Errorf("its assembly is %+v, served by %v", v.Assembly, serving)
	case v.Standby == nil || !v.Standby.Running || len(v.Standby.Legs) != len(good):
		return fmt.Errorf("its standby is %+v", v.Standby)
	}
	for _, a := range v.Running() {
		if raid := b.Observe(v).Nodes[a.RaidHost].Raid; raid == nil || len(raid.Legs) != len(good) || raid.SizeBytes != v.SizeBytes {
			return fmt.Errorf("the raid on %s is %+v", a.RaidHost, raid)
		}
	}
	return b.paths(v)
}

// paths compares the machine's paths with the record.
func (b *bubble) paths(v *volume.Volume) error { return b.pathsOf(v, b.machine) }

// pathsOf compares those of any machine.
func (b *bubble) pathsOf(v *volume.Volume, m *userspace.Machine) error {
	var want, have []string
	for _, a := range v.Running() {
		n, err := b.Node(a.RaidHost)
		b.must(err)
		want = append(want, n.NVMf.String())
	}
	paths, err := m.Paths(b.ctx, v.NQN())
	b.must(err)
	for _, p := range paths {
		have = append(have, p.Address)
	}
	slices.Sort(want)
	slices.Sort(have)
	if !slices.Equal(want, have) {
		return fmt.Errorf("it is connected to %v and runs at %v", have, want)
	}
	return nil
}

func (b *bubble) awaitWhole(id string) error {
	var lacks error
	err := b.await("the volume is whole", func() bool { lacks = b.whole(id); return lacks == nil })
	if err != nil {
		return fmt.Errorf("%w: %w", err, lacks)
	}
	return nil
}

// wantData compares every in-sync replica whose node runs with what was acknowledged.
func (b *bubble) wantData(id string, l *cluster.Load) {
	b.t.Helper()
	b.must(l.Err())
	v := b.Record(id)
	for _, r := range v.InState(volume.ReplicaInSync) {
		if !b.Sim(r.Node).Running() {
			continue
		}
		if err := l.Check(func(p []byte, off int64) error { return b.ReplicaBytes(v, r, p, off) }); err != nil {
			b.t.Fatalf("replica %s on %s: %v", r.ID, r.Node, err)
		}
	}
}

// otherThan returns a node with a replica that is neither the raid host nor the standby's.
func (b *bubble) otherThan(id string) string {
	b.t.Helper()
	v := b.Record(id)
	for _, r := range v.Replicas {
		if r.Node != v.Assembly.RaidHost && r.Node != v.Standby.RaidHost {
			return r.Node
		}
	}
	b.t.Fatal("no such node")
	return ""
}

// inState says how many replicas are in a state.
func (b *bubble) inState(id string, states ...volume.ReplicaState) int {
	return len(b.Record(id).InState(states...))
}
