package healing

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Under load, on real targets too: group snapshots of two volumes of one node service keep the order of the writes, and the pause of I/O is
// short.
func TestGroupSnapshotsOfVolumesInUseInRealTime(t *testing.T) {
	t.Parallel()
	b := newBench(t, 3)
	const size = 64 * mib
	first, second := b.create("a", size, nil), b.create("b", size, nil)
	a, z := b.useAt(first, b.staging()+"-a"), b.useAt(second, b.staging()+"-b")
	b.eventually("standby", func() bool { return b.whole(first) && b.whole(second) })
	o := order(b.ctx, 4, a, z)
	time.Sleep(2 * time.Second)
	_, longest, err := o.counts()
	b.must(err)
	t.Logf("longest write without a snapshot: %s", longest)
	head := size - a.SizeBytes() // the pretend file system keeps the head of the device to itself
	for i := range 6 {
		name := fmt.Sprint("g", i)
		before, _, err := o.counts()
		b.must(err)
		begin := time.Now()
		ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
		resp, err := b.controller.CreateVolumeGroupSnapshot(ctx, &csi.CreateVolumeGroupSnapshotRequest{Name: name, SourceVolumeIds: []string{first, second}})
		cancel()
		b.must(err)
		took := time.Since(begin).Round(time.Millisecond)
		time.Sleep(300 * time.Millisecond) // the write that waited is noted
		_, longest, err := o.counts()
		b.must(err)
		t.Logf("group %d took %s; longest write meanwhile: %s", i, took, longest)
		images := map[string][]byte{}
		for _, sn := range resp.GetGroupSnapshot().GetSnapshots() {
			images[sn.GetSourceVolumeId()] = b.snapshotBytes(sn.GetSnapshotId(), 3, size)[head:]
		}
		b.must(o.check(before, images[first], images[second]))
	}
	b.must(o.end())
	for i := range 6 {
		b.retry(func() error {
			_, err := b.controller.DeleteVolumeGroupSnapshot(b.ctx, &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: volume.GroupIDFor(fmt.Sprint("g", i))})
			return err
		})
	}
	b.unuseAt(first, b.staging()+"-a")
	b.unuseAt(second, b.staging()+"-b")
	for _, id := range []string{first, second} {
		b.retry(func() error {
			_, err := b.controller.DeleteVolume(b.ctx, &csi.DeleteVolumeRequest{VolumeId: id})
			return err
		})
	}
	b.eventually("nothing is left", func() bool { return len(b.Leftovers()) == 0 })
}
