package node_test

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// enlarge puts a larger size on record, as ControllerExpandVolume does.
func (b *bench) enlarge(id string, bytes int64) {
	b.t.Helper()
	v := b.Record(id)
	if v.SizeBytes < bytes {
		b.must(v.Grow(bytes))
		b.must(b.Store.Update(b.t.Context(), v))
	}
}

func (b *bench) expand(id, path string) error {
	resp, err := b.NodeExpandVolume(within(b.t), &csi.NodeExpandVolumeRequest{VolumeId: id, VolumePath: path, Secrets: b.secrets})
	if v := b.Record(id); err == nil && resp.GetCapacityBytes() != v.CapacityBytes() {
		b.t.Errorf("%d bytes are answered, on record are %d", resp.GetCapacityBytes(), v.SizeBytes)
	}
	return err
}

// wantGrown checks that all of a staged volume has that many bytes; fs says that there is a file system.
func (b *bench) wantGrown(id string, bytes int64, fs bool) {
	b.t.Helper()
	v := b.Record(id)
	if v.GrowingFrom != 0 || v.SizeBytes != bytes {
		b.t.Errorf("on record are %d bytes, growing from %d", v.SizeBytes, v.GrowingFrom)
	}
	if err := volume.CheckGrown(v, b.Observe(v)); err != nil {
		b.t.Error(err)
	}
	device, err := b.machine.Device(within(b.t), v.NQN(), v.UUID)
	b.must(err)
	if device.SizeBytes != bytes {
		b.t.Errorf("the device has %d bytes", device.SizeBytes)
	}
	if !fs {
		return
	}
	size, err := b.machine.FileSystemBytes(within(b.t), device.Path)
	b.must(err)
	if size != bytes || v.FileSystem.SizeBytes != bytes {
		b.t.Errorf("the file system has %d bytes, on record %d", size, v.FileSystem.SizeBytes)
	}
}

func TestMountedVolumeGrowsWhileItIsUsed(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("mounted")
	b.must(b.stage(id))
	b.must(b.publish(id))
	b.wantUsable(b.target())
	b.enlarge(id, 16*mib)
	b.must(b.expand(id, b.target()))
	b.wantGrown(id, 16*mib, true)
	b.wantUsable(b.target())
	b.must(b.expand(id, b.staging()))
	b.wantGrown(id, 16*mib, true)
	b.must(b.unpublish(id))
	b.must(b.unstage(id))
	b.wantDetached(id)
}

func TestRawBlockVolumeGrows(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("raw")
	b.must(b.stageAs(id, raw()))
	b.enlarge(id, 16*mib)
	b.must(b.expand(id, b.staging()))
	b.wantGrown(id, 16*mib, false)
}

// The CO calls the controller alone for a volume that nobody uses.
func TestFileSystemOfAVolumeThatGrewMeanwhileGrowsAtStage(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("later")
	b.must(b.stage(id))
	b.must(b.unstage(id))
	b.enlarge(id, 16*mib)
	b.must(b.stage(id))
	b.wantGrown(id, 16*mib, true)
	b.must(b.publish(id))
	b.wantUsable(b.target())
}

// A volume is used at the size that it has when a replica can't grow, and grown when it can.
func TestVolumeThatCannotGrowIsStagedAtTheSizeThatItHas(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("stuck")
	b.must(b.stage(id))
	b.must(b.unstage(id))
	mended := b.Sim("n2").AddRPCFault(sim.RPCFault{Kind: sim.FailBefore, Method: "bdev_lvol_resize"})
	b.enlarge(id, 16*mib)
	b.must(b.stage(id))
	b.must(b.publish(id))
	b.wantUsable(b.target())
	v := b.Record(id)
	if device, err := b.machine.Device(within(t), v.NQN(), v.UUID); err != nil || device.SizeBytes != 8*mib || v.GrowingFrom != 8*mib || v.FileSystem.SizeBytes != 8*mib {
		t.Errorf("the device has %d bytes, the file system %d; growing from %d: %v", device.SizeBytes, v.FileSystem.SizeBytes, v.GrowingFrom, err)
	}
	if err := b.expand(id, b.target()); err == nil {
		t.Error("it is said to have grown")
	}
	mended()
	b.must(b.expand(id, b.target()))
	b.wantGrown(id, 16*mib, true)
}

func TestFileSystemThatCannotBeGrownIsNoSuccess(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("resize2fs")
	b.must(b.stage(id))
	b.enlarge(id, 16*mib)
	b.failing(userspace.OpResize, userspace.Before, errDisk)
	wantError(t, b.expand(id, b.staging()), errDisk)
	b.must(b.unstage(id))
	b.must(b.stage(id)) // the volume can be used all the same
	b.fault = nil
	b.must(b.expand(id, b.staging()))
	b.wantGrown(id, 16*mib, true)
}

func TestNodeExpandThatCannotBeIsRefused(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("bad")
	wantError(t, b.expand(id, b.staging()), volume.ErrPrecondition)
	b.must(b.stage(id))
	wantError(t, b.expand(id, b.target()), volume.ErrNotFound)
	_, err := b.NodeExpandVolume(within(t), &csi.NodeExpandVolumeRequest{VolumeId: volume.IDFor("unknown"), VolumePath: b.staging()})
	wantError(t, err, volume.ErrNotFound)
	for name, c := range map[string]struct {
		req  *csi.NodeExpandVolumeRequest
		want codes.Code
	}{
		"no volume":                   {&csi.NodeExpandVolumeRequest{VolumePath: b.staging()}, codes.InvalidArgument},
		"no path":                     {&csi.NodeExpandVolumeRequest{VolumeId: id}, codes.InvalidArgument},
		"other than supported":        {&csi.NodeExpandVolumeRequest{VolumeId: id, VolumePath: b.staging(), VolumeCapability: mounted("btrfs")}, codes.InvalidArgument},
		"more than was put on record": {&csi.NodeExpandVolumeRequest{VolumeId: id, VolumePath: b.staging(), CapacityRange: &csi.CapacityRange{RequiredBytes: 16 * mib}}, codes.OutOfRange},
		"smaller than it is":          {&csi.NodeExpandVolumeRequest{VolumeId: id, VolumePath: b.staging(), CapacityRange: &csi.CapacityRange{LimitBytes: 4 * mib}}, codes.OutOfRange},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := b.NodeExpandVolume(within(t), c.req); status.Code(err) != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func TestReadOnlyFileSystemIsNotGrown(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("read-only")
	b.must(b.stage(id))
	b.must(b.unstage(id))
	v := b.Record(id)
	v.Publications[0].ReadOnly = true
	b.must(b.Store.Update(t.Context(), v))
	b.enlarge(id, 16*mib)
	b.must(b.stage(id))
	wantError(t, b.expand(id, b.staging()), volume.ErrPrecondition)
	if v := b.Record(id); v.GrowingFrom != 0 || v.FileSystem.SizeBytes != 8*mib {
		t.Errorf("growing from %d, the file system has %d bytes", v.GrowingFrom, v.FileSystem.SizeBytes)
	}
}

func TestEveryStepOfNodeExpandMayFail(t *testing.T) {
	everyStep(t, true,
		func(b *bench, id string) {
			b.t.Helper()
			inUse(b, id)
			b.enlarge(id, 16*mib)
		},
		func(b *bench, id string) error { return b.expand(id, b.target()) },
		func(b *bench, id string) {
			b.wantGrown(id, 16*mib, true)
			b.wantUsable(b.target())
		})
}

func TestEveryStepOfStagingAVolumeThatGrewMayFail(t *testing.T) {
	everyStep(t, true,
		func(b *bench, id string) {
			b.t.Helper()
			b.must(b.stage(id))
			b.must(b.unstage(id))
			b.enlarge(id, 16*mib)
		},
		(*bench).stage,
		func(b *bench, id string) {
			b.must(b.publish(id))
			b.must(b.expand(id, b.target())) // what failed when it was staged is tried again
			b.wantGrown(id, 16*mib, true)
			b.wantUsable(b.target())
		})
}
