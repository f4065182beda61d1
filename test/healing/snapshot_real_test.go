package healing

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Under load, on real targets too: snapshots have the same bytes on all replicas, and the pause of I/O is short. What a snapshot holds is read
// from the replicas of a volume that is made of it.
func TestSnapshotsOfAVolumeInUseInRealTime(t *testing.T) {
	t.Parallel()
	b := newBench(t, 3)
	const size = 64 * mib
	id := b.create("a", size, nil)
	l := b.load(b.use(id))
	b.eventually("standby", func() bool { return b.whole(id) })
	l.pause()
	time.Sleep(2 * time.Second)
	t.Logf("longest write without a snapshot: %s", l.pause())
	var names []string
	for i := range 8 {
		name := fmt.Sprint("s", i)
		begin := time.Now()
		_, err := b.controller.CreateSnapshot(b.ctx, &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: id})
		b.must(err)
		took := time.Since(begin).Round(time.Millisecond)
		l.pauseUntilNextWrite()
		t.Logf("snapshot %d took %s; longest write meanwhile: %s", i, took, l.pause())
		b.wantAlike(name, 3, size)
		names = append(names, name)
	}
	l.verify()
	for i := range names { // the last as well as the first of the chain
		b.retry(func() error {
			_, err := b.controller.DeleteSnapshot(b.ctx, &csi.DeleteSnapshotRequest{SnapshotId: volume.SnapshotIDFor(names[(i*3)%len(names)])})
			return err
		})
	}
	b.release(id, l)
}

// wantAlike makes a volume of a snapshot and compares its replicas.
func (b *bench) wantAlike(name string, replicas int, size int64) {
	b.t.Helper()
	image := b.snapshotBytes(volume.SnapshotIDFor(name), replicas, size)
	if bytes.Equal(image, make([]byte, len(image))) {
		b.t.Errorf("the volume made of %s is blank", name)
	}
}

// snapshotBytes returns what a snapshot holds: it makes a volume of it and compares its replicas.
func (b *bench) snapshotBytes(snapshot string, replicas int, size int64) []byte {
	b.t.Helper()
	resp, err := b.controller.CreateVolume(b.ctx, &csi.CreateVolumeRequest{
		Name: "made of " + snapshot, VolumeCapabilities: []*csi.VolumeCapability{capability}, CapacityRange: &csi.CapacityRange{RequiredBytes: size},
		Parameters: map[string]string{volume.ParamReplicaStallBudget: stall.String()},
		VolumeContentSource: &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshot},
		}},
	})
	b.must(err)
	id := resp.GetVolume().GetVolumeId()
	v := b.Record(id)
	good := v.InState(volume.ReplicaInSync)
	if len(good) != replicas {
		b.t.Errorf("the volume made of %s has %+v", snapshot, v.Replicas)
	}
	first := b.replicaBytes(v, good[0])
	for _, r := range good[1:] {
		if !bytes.Equal(first, b.replicaBytes(v, r)) {
			b.t.Errorf("the replicas of %s differ", snapshot)
		}
	}
	b.retry(func() error {
		_, err := b.controller.DeleteVolume(b.ctx, &csi.DeleteVolumeRequest{VolumeId: id})
		return err
	})
	return first
}

// replicaBytes returns what a replica of a volume that nobody uses holds.
func (b *bench) replicaBytes(v *volume.Volume, r volume.Replica) []byte {
	b.t.Helper()
	node, err := b.Node(r.Node)
	b.must(err)
	nqn, me, ns := volume.NQNPrefix+"compare:"+r.ID, volume.NQNPrefix+"host:compare", uuid.New()
	b.must(node.Export(b.ctx, spdk.Export{
		NQN: nqn, Serial: "compare", Model: "compare", Bdev: r.LvStore + "/" + v.LvolName(r), NSUUID: ns, Listen: node.NVMf, Hosts: []string{me},
	}))
	head := nvmetcp.NewHead(nvmetcp.HeadConfig{SubNQN: nqn, HostNQN: me, HostID: volume.HostID(me), UUID: ns})
	b.must(head.AddPath(b.ctx, nvmetcp.PathConfig{Addr: node.NVMf.String()}))
	all := make([]byte, v.SizeBytes)
	for off := int64(0); off < v.SizeBytes; off += mib {
		b.must(head.ReadAt(b.ctx, all[off:off+mib], off))
	}
	b.must(head.RemovePath(b.ctx, node.NVMf.String()))
	b.must(head.Close())
	b.must(node.Unexport(b.ctx, nqn))
	return all
}
