package controller_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/go-logr/logr/testr"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/controller"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

const (
	mib = int64(1) << 20
	// host is the CSI node that volumes are published to. No SPDK node is on its machine.
	host = "host"
)

// bench is a cluster with a controller.
type bench struct {
	*cluster.Cluster
	*controller.Server
	t     *testing.T
	clock clock.PassiveClock
}

func newBench(t *testing.T, nodes int, o cluster.Options) *bench {
	t.Helper()
	b := &bench{Cluster: cluster.New(t, nodes, o), t: t, clock: clock.RealClock{}}
	b.RegisterHosts(host)
	b.restart()
	return b
}

// restart replaces the controller by one that knows only what is on record.
func (b *bench) restart() {
	b.t.Helper()
	var err error
	b.Server, err = controller.New(b.t.Context(), controller.Options{
		Store: b.Store, Cluster: b.Cluster.Cluster, Clock: b.clock, ThinOvercommit: 1,
	})
	b.must(err)
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// within bounds what a CSI call of a test may take.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(klog.NewContext(t.Context(), testr.New(t)), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func capability() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

// order is a CreateVolume request of a small volume; parameters are pairs of key and value.
func order(name string, bytes int64, parameters ...string) *csi.CreateVolumeRequest {
	r := &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: bytes}, VolumeCapabilities: []*csi.VolumeCapability{capability()},
		Parameters: map[string]string{volume.ParamReplicaStallBudget: cluster.StallBudget.String()},
	}
	for pair := range slices.Chunk(parameters, 2) {
		r.Parameters[pair[0]] = pair[1]
	}
	return r
}

func (b *bench) create(r *csi.CreateVolumeRequest) (id string, err error) {
	resp, err := b.CreateVolume(within(b.t), r)
	return resp.GetVolume().GetVolumeId(), err
}

func (b *bench) publish(id string) error {
	_, err := b.ControllerPublishVolume(within(b.t), &csi.ControllerPublishVolumeRequest{VolumeId: id, NodeId: host, VolumeCapability: capability()})
	return err
}

func (b *bench) unpublish(id string) error {
	_, err := b.ControllerUnpublishVolume(within(b.t), &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: host})
	return err
}

func (b *bench) remove(id string) error {
	_, err := b.DeleteVolume(within(b.t), &csi.DeleteVolumeRequest{VolumeId: id})
	return err
}

// mustCreate returns the ID of a new volume.
func (b *bench) mustCreate(r *csi.CreateVolumeRequest) string {
	b.t.Helper()
	id, err := b.create(r)
	b.must(err)
	return id
}

// wantCreated checks that the volume has its replicas, each on a node of its own, and no others.
func (b *bench) wantCreated(id string, replicas int) {
	b.t.Helper()
	b.must(b.Sweep(within(b.t)))
	v := b.Record(id)
	seen := b.Observe(v)
	nodes := map[string]bool{}
	for _, r := range v.Replicas {
		nodes[r.Node] = true
		view := seen.Nodes[r.Node]
		if found, ok := view.Replicas[r.ID]; view.Err != nil || !ok || found.SizeBytes != v.SizeBytes {
			b.t.Errorf("replica %s on %s is %+v (%v)", r.ID, r.Node, found, view.Err)
		}
	}
	if v.Phase != volume.PhaseReady || len(v.Replicas) != replicas || len(v.InState(volume.ReplicaInSync)) != replicas || len(nodes) != replicas {
		b.t.Errorf("the record says %s with %+v", v.Phase, v.Replicas)
	}
}

// wantPublished checks that the volume's target is complete for its host, over the legs on record, and that the other replicas
// are on record as not in sync. It returns the legs.
func (b *bench) wantPublished(id string) []string {
	b.t.Helper()
	v := b.Record(id)
	if v.Assembly == nil || !v.Assembly.Running || v.Publication(host) == nil {
		b.t.Fatalf("the record says %+v with publications %+v", v.Assembly, v.Publications)
	}
	view := b.Observe(v).Nodes[v.Assembly.RaidHost]
	if view.Err != nil || view.Raid == nil || !view.Raid.Online || view.Target == nil || !view.Target.Complete ||
		!slices.Equal(view.Target.Hosts, []string{volume.HostNQN(host)}) {
		b.t.Fatalf("raid host %s has raid %+v and target %+v (%v)", v.Assembly.RaidHost, view.Raid, view.Target, view.Err)
	}
	for _, r := range v.Replicas {
		if in := slices.Contains(view.Raid.Legs, r.ID); in != (r.State == volume.ReplicaInSync) {
			b.t.Errorf("replica %s is a leg: %t, on record it is %s", r.ID, in, r.State)
		}
	}
	return view.Raid.Legs
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

func TestVolumeLivesFromCreateToDelete(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("life", 64*mib))
	b.wantCreated(id, 3)
	b.must(b.publish(id))
	if legs := b.wantPublished(id); len(legs) != 3 {
		t.Errorf("legs are %v", legs)
	}
	wantError(t, b.remove(id), volume.ErrInUse)
	b.must(b.unpublish(id))
	b.must(b.remove(id))
	b.WantEmpty()
}
