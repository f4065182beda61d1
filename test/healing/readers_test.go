package healing

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

func fileSystem(mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
	}
}

// A file system that one machine has filled is read by two. Their raid host is lost while the node service of one of them is down: a reader
// that can't say that it has left isn't waited for.
func TestTwoHostsReadAFileSystem(t *testing.T) {
	longTest(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 3, cluster.Options{})
		all := b.machines(nil, "left", "right")
		id := b.create("readers", 3)
		writer := all[0]
		writer.as = fileSystem(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)
		writer.use(id)
		file, err := writer.Open(writer.staging(id))
		b.must(err)
		l := cluster.StartLoad(b.ctx, file, 8, 2, 20*time.Millisecond)
		b.must(b.await("it is filled", func() bool { return l.Writes() > 20 }))
		b.must(l.End())
		if err := all[1].publish(id); err == nil {
			t.Fatal("a second node is let in beside a single one")
		}
		writer.unuse(id)

		for _, m := range all {
			m.as = fileSystem(csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY)
			m.use(id)
		}
		b.awaitShared(id, all...)
		read := func() {
			t.Helper()
			for _, m := range all {
				file, err := m.Open(m.staging(id))
				b.must(err)
				b.must(l.Check(func(p []byte, off int64) error { return file.ReadAt(b.ctx, p, off) }))
				if err := file.WriteAt(b.ctx, make([]byte, cluster.BlockBytes), 0); err == nil {
					t.Errorf("%s can write", m.name)
				}
			}
		}
		read()
		all[1].stop()
		lost := b.kill(b.Record(id).Assembly.RaidHost)
		b.must(b.await("it runs elsewhere", func() bool { a := b.Record(id).Assembly; return a.RaidHost != lost && !a.Held }))
		read()
		all[1].start()
		b.restart(lost)
		b.awaitShared(id, all...)
		read()
		for _, m := range all {
			m.unuse(id)
		}
		if v := b.Record(id); v.FileSystem.State != volume.FileSystemMade {
			t.Errorf("on record: %+v", v.FileSystem)
		}
		b.remove(id)
	})
}

// A snapshot of a volume that two machines write to has every acknowledged write of both, and takes none of them an I/O error.
func TestSnapshotOfASharedVolume(t *testing.T) {
	longTest(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, 3)
		before := [][]uint32{p.loads[0].Acknowledged(), p.loads[1].Acknowledged()}
		var snapshot *csi.Snapshot
		p.must(p.again(func() error {
			resp, err := p.controller.CreateSnapshot(p.ctx, &csi.CreateSnapshotRequest{SourceVolumeId: p.id, Name: "moment"})
			snapshot = resp.GetSnapshot()
			return err
		}))
		p.progress()
		sn := p.SnapshotRecord(snapshot.GetSnapshotId())
		for _, r := range sn.Replicas {
			for i, l := range p.loads {
				image := make([]byte, 8*cluster.BlockBytes)
				p.must(p.Sim(r.Node).ReadBdev(p.ctx, r.LvStore+"/"+sn.LvolName(r), image, int64(i)*mib))
				p.must(l.CheckMoment(before[i], image))
			}
		}
		p.must(p.again(func() error {
			_, err := p.controller.DeleteSnapshot(p.ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot.GetSnapshotId()})
			return err
		}))
		p.end()
		p.releaseBy(p.guest, p.owner)
	})
}
