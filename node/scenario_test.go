package node_test

import (
	"errors"
	"slices"
	"syscall"
	"testing"

	"github.com/holdfast-csi/holdfast/node/mount"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

var errDisk = errors.New("the disk can't be read")

// device attaches the volume as raw block, runs f on its bytes and detaches it.
func (b *bench) device(id string, f func(*userspace.File)) {
	b.t.Helper()
	v := b.Record(id)
	b.must(b.stageAs(id, raw()))
	device, err := b.machine.Device(within(b.t), v.NQN(), v.UUID)
	b.must(err)
	file, err := b.machine.Open(device.Path)
	b.must(err)
	f(file)
	b.must(b.unstage(id))
}

// setFileSystem changes what is on record of the volume's file system.
func (b *bench) setFileSystem(id string, fs volume.FileSystem) {
	b.t.Helper()
	v := b.Record(id)
	v.FileSystem = fs
	b.must(b.Store.Update(b.t.Context(), v))
}

// failing makes an operation of the machine fail at a moment.
func (b *bench) failing(op userspace.Op, at userspace.Moment, err error) {
	b.fault = func(gotOp userspace.Op, gotAt userspace.Moment) error {
		if gotOp == op && gotAt == at {
			return err
		}
		return nil
	}
}

// wantUnformatted fails the test if anything was formatted since formatted was last reset.
func (b *bench) wantUnformatted() {
	b.t.Helper()
	if b.formatted.Load() {
		b.t.Error("it was formatted")
	}
}

func TestDeviceThatCantBeProbedIsNotFormatted(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("unreadable")
	b.failing(userspace.OpProbe, userspace.Before, errDisk)
	wantError(t, b.stage(id), errDisk)
	b.wantUnformatted()
	if fs := b.Record(id).FileSystem; fs.State != volume.FileSystemNone {
		t.Errorf("on record: %+v", fs)
	}
	b.fault = nil
	b.must(b.stage(id))
}

func TestForeignContentIsNotFormatted(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("foreign")
	foreign := slices.Repeat([]byte{0x11}, 4096)
	b.device(id, func(f *userspace.File) { b.must(f.WriteAt(within(t), foreign, 64<<10)) })
	wantError(t, b.stage(id), volume.ErrPrecondition)
	b.must(b.unstage(id))
	got := make([]byte, 4096)
	b.device(id, func(f *userspace.File) { b.must(f.ReadAt(within(t), got, 64<<10)) })
	b.wantUnformatted()
	if !slices.Equal(got, foreign) {
		t.Error("what was on the device is gone")
	}
}

func TestVolumeThatLostItsFileSystemIsNotFormattedAgain(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("lost")
	b.must(b.stage(id))
	b.must(b.unstage(id))
	b.device(id, func(f *userspace.File) {
		b.must(f.WriteAt(within(t), make([]byte, f.SizeBytes()), 0))
	})
	b.formatted.Store(false)
	wantError(t, b.stage(id), volume.ErrPrecondition)
	b.wantUnformatted()
}

func TestCrashInMkfsIsFinishedByTheNextStage(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("mkfs")
	b.failing(userspace.OpFormat, userspace.Midway, errDisk)
	wantError(t, b.stage(id), errDisk)
	if state := b.Record(id).FileSystem.State; state != volume.FileSystemMaking {
		t.Errorf("on record the file system is %q", state)
	}
	b.restart()
	b.fault = nil
	b.must(b.stage(id))
	b.must(b.publish(id))
	b.wantUsable(b.target())
}

// The crash came between the end of mkfs and its record.
func TestFileSystemMadeButNotOnRecordIsKept(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("made")
	b.must(b.stage(id))
	b.must(b.publish(id))
	b.wantUsable(b.target())
	b.must(b.unpublish(id))
	b.must(b.unstage(id))
	b.setFileSystem(id, volume.FileSystem{Type: "ext4", State: volume.FileSystemMaking})
	b.formatted.Store(false)
	b.must(b.stage(id))
	b.wantUnformatted()
	if fs := b.Record(id).FileSystem; fs.State != volume.FileSystemMade {
		t.Errorf("on record: %+v", fs)
	}
}

// Clusters can hold what another volume has left in them: a file system that the record knows nothing of is nobody's to mount.
func TestFileSystemThatTheRecordDoesNotKnowIsRefused(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("unknown")
	b.must(b.stage(id))
	b.must(b.unstage(id))
	b.setFileSystem(id, volume.FileSystem{})
	b.formatted.Store(false)
	wantError(t, b.stage(id), volume.ErrPrecondition)
	b.wantUnformatted()
}

func TestOtherFileSystemThanTheOneMadeIsRefused(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("xfs")
	b.must(b.stage(id))
	b.must(b.unstage(id))
	wantError(t, b.stageAs(id, mounted("xfs")), volume.ErrPrecondition)
}

func TestUmountThatFailsIsNoSuccess(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("busy")
	b.must(b.stage(id))
	b.must(b.publish(id))
	b.failing(userspace.OpUnmount, userspace.Before, syscall.EBUSY)
	wantError(t, b.unpublish(id), mount.ErrStillMounted)
	wantError(t, b.unstage(id), mount.ErrStillMounted)
	if v := b.Record(id); v.Owner != host || len(b.machine.Attached()) != 1 {
		t.Errorf("owner %q, attached %v", v.Owner, b.machine.Attached())
	}
	b.fault = nil
	b.must(b.unpublish(id))
	b.must(b.unstage(id))
	b.wantDetached(id)
}

func TestUnstageWithTheTargetDeadLeavesNothing(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("dead")
	b.must(b.stage(id))
	b.must(b.publish(id))
	b.Sim("n1").Kill()
	b.must(b.unpublish(id))
	b.must(b.unstage(id))
	b.wantDetached(id)
}

// The store is away: what is attached is in the node's own notes, but ownership can't be given back.
func TestUnstageIsFinishedWhenTheRecordIsGone(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("forgotten")
	b.must(b.stage(id))
	v := b.Record(id)
	b.must(b.Store.Delete(t.Context(), v))
	b.must(b.unstage(id))
	if mounts, attached := b.machine.All(), b.machine.Attached(); len(mounts)+len(attached) > 0 {
		t.Errorf("left on the machine: %+v, %v", mounts, attached)
	}
}

// A volume was deleted by force while it was staged here, and another made under its name.
func TestEarlierVolumeOfTheSameNameIsDetached(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("name")
	b.must(b.stage(id))
	earlier := b.Record(id)
	b.dispose(id)
	if again := b.published("name"); again != id {
		t.Fatalf("the IDs differ: %s, %s", id, again)
	}
	b.must(b.stage(id))
	v := b.Record(id)
	if attached := b.machine.Attached(); !slices.Equal(attached, []string{v.NQN()}) || v.NQN() == earlier.NQN() {
		t.Errorf("attached: %v", attached)
	}
	b.must(b.publish(id))
	b.wantUsable(b.target())
}

func TestVolumeOfAnotherNodeIsNotStaged(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("mine")
	v := b.Record(id)
	v.Owner = "elsewhere"
	b.must(b.Store.Update(t.Context(), v))
	wantError(t, b.stage(id), volume.ErrInUse)
	v = b.Record(id)
	v.Owner, v.Publications[0].Node = "", "elsewhere"
	b.must(b.Store.Update(t.Context(), v))
	wantError(t, b.stage(id), volume.ErrPrecondition)
	if attached := b.machine.Attached(); len(attached) > 0 {
		t.Errorf("attached: %v", attached)
	}
}
