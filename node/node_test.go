package node_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/go-logr/logr/testr"
	"github.com/google/uuid"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

const (
	mib  = int64(1) << 20
	host = "host"
)

// bench is a cluster with a machine and its node service. Volumes are put on record and made by hand: there is no controller.
type bench struct {
	*cluster.Cluster
	*node.Server
	t       *testing.T
	machine *userspace.Machine
	// fault, if not nil, is asked by the machine.
	fault userspace.Fault
	// secrets go with calls that take some.
	secrets map[string]string
	// formatted says that something was written by a mkfs.
	formatted atomic.Bool
}

func newBench(t *testing.T, nodes int, o cluster.Options) *bench {
	t.Helper()
	b := &bench{Cluster: cluster.New(t, nodes, o), t: t}
	var err error
	b.machine, err = userspace.New(userspace.Options{Dir: filepath.Join(b.Dir, "dev"), Fault: func(op userspace.Op, at userspace.Moment) error {
		if op == userspace.OpFormat && at == userspace.Midway {
			b.formatted.Store(true)
		}
		if err := o.Steps.Machine(op, at); err != nil || b.fault == nil {
			return err
		}
		return b.fault(op, at)
	}})
	b.must(err)
	t.Cleanup(b.machine.Close)
	b.restart()
	return b
}

// restart replaces the node service; the machine with what is attached and mounted stays.
func (b *bench) restart() {
	b.t.Helper()
	var err error
	b.Server, err = node.New(node.Options{
		Name: host, Store: b.Store, Cluster: b.Cluster.Cluster, Fabrics: b.machine, FileSystems: b.machine, Encryption: b.machine, Mounts: b.machine,
		StateDir: filepath.Join(b.Dir, "state"), Clock: clock.RealClock{},
	})
	b.must(err)
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(klog.NewContext(t.Context(), testr.New(t)), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

// published makes a volume of 8 MiB with a replica on each of the first two nodes, running on the first, and returns its ID.
func (b *bench) published(name string) string {
	b.t.Helper()
	return b.publishedAs(name, volume.EncryptionNone)
}

func (b *bench) publishedAs(name string, encryption volume.Encryption) string {
	b.t.Helper()
	return b.publishedWith(name, map[string]string{volume.ParamEncryption: string(encryption)})
}

func (b *bench) publishedWith(name string, more map[string]string) string {
	b.t.Helper()
	raw := map[string]string{volume.ParamReplicas: "2", volume.ParamReplicaStallBudget: cluster.StallBudget.String()}
	maps.Copy(raw, more)
	parameters, err := volume.ParseParameters(raw)
	b.must(err)
	v := &volume.Volume{
		ID: volume.IDFor(name), Name: name, UUID: uuid.New(), SizeBytes: 8*mib + parameters.HeaderBytes(), Parameters: parameters, Phase: volume.PhaseReady,
		Replicas: []volume.Replica{
			{ID: "00000001", Node: "n1", LvStore: cluster.Pool, State: volume.ReplicaPlanned},
			{ID: "00000002", Node: "n2", LvStore: cluster.Pool, State: volume.ReplicaPlanned},
		},
	}
	b.must(b.Store.Create(b.t.Context(), v))
	b.converge(v)
	for i := range v.Replicas {
		v.Replicas[i].State = volume.ReplicaInSync
	}
	v.Assembly, v.Assemblies = &volume.Assembly{Number: 1, RaidHost: "n1", Legs: []string{"00000001", "00000002"}}, 1
	v.Publications = []volume.Publication{{Node: host, Mode: volume.AccessSingleNodeWriter}}
	b.converge(v)
	v.Assembly.Running = true
	b.must(b.Store.Update(b.t.Context(), v))
	return v.ID
}

func (b *bench) converge(v *volume.Volume) {
	b.t.Helper()
	b.must(converge.New(b.Cluster.Cluster).Run(within(b.t), v))
}

// dispose deletes a volume, whatever its record says of its use.
func (b *bench) dispose(id string) {
	b.t.Helper()
	v := b.Record(id)
	v.Publications = nil
	if v.Assembly != nil {
		v.Assembly.Stopping = true
		b.converge(v)
	}
	v.Assembly, v.Phase = nil, volume.PhaseDeleting
	b.converge(v)
	b.must(b.Store.Delete(b.t.Context(), v))
}

func (b *bench) staging() string { return filepath.Join(b.Dir, "staging") }
func (b *bench) target() string  { return filepath.Join(b.Dir, "pods", "1") }

func mounted(fsType string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

func raw() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

func (b *bench) stage(id string) error { return b.stageAs(id, mounted("ext4")) }

func (b *bench) stageAs(id string, c *csi.VolumeCapability) error {
	_, err := b.NodeStageVolume(within(b.t), &csi.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: b.staging(), VolumeCapability: c, Secrets: b.secrets})
	return err
}

func (b *bench) publish(id string) error { return b.publishAs(id, mounted("ext4")) }

func (b *bench) publishAs(id string, c *csi.VolumeCapability) error {
	_, err := b.NodePublishVolume(within(b.t), &csi.NodePublishVolumeRequest{
		VolumeId: id, StagingTargetPath: b.staging(), TargetPath: b.target(), VolumeCapability: c,
	})
	return err
}

func (b *bench) unpublish(id string) error {
	_, err := b.NodeUnpublishVolume(within(b.t), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: b.target()})
	return err
}

func (b *bench) unstage(id string) error {
	_, err := b.NodeUnstageVolume(within(b.t), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: b.staging()})
	return err
}

// wantUsable checks that what is at path holds what is written to it.
func (b *bench) wantUsable(path string) {
	b.t.Helper()
	f, err := b.machine.Open(path)
	b.must(err)
	want, got := bytes.Repeat([]byte{0xa5}, 64<<10), make([]byte, 64<<10)
	b.must(f.WriteAt(within(b.t), want, 4096))
	b.must(f.ReadAt(within(b.t), got, 4096))
	if !bytes.Equal(got, want) {
		b.t.Error("what was written does not read back")
	}
}

// wantDetached checks that nothing of any volume is left on the machine and that its owner is none.
func (b *bench) wantDetached(id string) {
	b.t.Helper()
	if mounts, open, attached := b.machine.All(), b.machine.Mappings(), b.machine.Attached(); len(mounts)+len(open)+len(attached) > 0 {
		b.t.Errorf("left on the machine: %+v, %v, %v", mounts, open, attached)
	}
	if state, err := os.ReadDir(filepath.Join(b.Dir, "state")); err != nil || len(state) > 0 {
		b.t.Errorf("left of the node's state: %v, %v", state, err)
	}
	if v := b.Record(id); v.Owner != "" {
		b.t.Errorf("the record says that %s has it staged", v.Owner)
	}
}

func TestVolumeIsUsedFromStageToUnstage(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("life")
	for range 2 { // each call may come twice
		b.must(b.stage(id))
		b.must(b.publish(id))
	}
	v := b.Record(id)
	if v.Owner != host || v.FileSystem != (volume.FileSystem{Type: "ext4", State: volume.FileSystemMade, SizeBytes: 8 * mib}) {
		t.Errorf("the record says owner %q, file system %+v", v.Owner, v.FileSystem)
	}
	b.wantUsable(b.target())
	for range 2 {
		b.must(b.unpublish(id))
		b.must(b.unstage(id))
	}
	b.wantDetached(id)
	if _, err := os.Stat(b.target()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the target is still there: %v", err)
	}
	b.dispose(id)
	b.WantEmpty()
}

// A service that is started again finds what its predecessor has attached.
func TestServiceStartedAgainGoesOn(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("again")
	b.must(b.stage(id))
	b.must(b.publish(id))
	b.restart()
	ctx, cancel := context.WithTimeout(t.Context(), 3*timeouts.WatchInterval)
	defer cancel()
	b.must(b.Watch(ctx))
	b.must(b.stage(id))
	b.must(b.publish(id))
	b.wantUsable(b.target())
	b.must(b.unpublish(id))
	b.must(b.unstage(id))
	b.wantDetached(id)
}
