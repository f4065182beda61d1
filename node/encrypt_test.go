package node_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/node/mount"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

var (
	right = map[string]string{node.SecretPassphrase: "correct horse"}
	wrong = map[string]string{node.SecretPassphrase: "battery staple"}
)

// encrypted is a bench with a published volume that is to be encrypted.
func encrypted(t *testing.T, name string) (*bench, string) {
	t.Helper()
	b := newBench(t, 2, cluster.Options{})
	b.secrets = right
	return b, b.publishedAs(name, volume.EncryptionLUKS2)
}

// onDevice runs f on the bytes of a staged volume's block device, past the encryption.
func (b *bench) onDevice(id string, f func(*userspace.File)) {
	b.t.Helper()
	v := b.Record(id)
	device, err := b.machine.Device(within(b.t), v.NQN(), v.UUID)
	b.must(err)
	file, err := b.machine.Open(device.Path)
	b.must(err)
	f(file)
}

// content reads all of a staged volume's block device.
func (b *bench) content(id string) []byte {
	b.t.Helper()
	var all []byte
	b.onDevice(id, func(f *userspace.File) {
		all = make([]byte, f.SizeBytes())
		b.must(f.ReadAt(within(b.t), all, 0))
	})
	return all
}

func (b *bench) wantUsed(id string) {
	b.t.Helper()
	b.must(b.stage(id))
	b.must(b.publish(id))
	b.wantUsable(b.target())
	b.must(b.unpublish(id))
}

func TestEncryptedVolumeIsUsedAndReplicasHoldCiphertext(t *testing.T) {
	b, id := encrypted(t, "secret")
	for range 2 { // each call may come twice
		b.must(b.stage(id))
		b.must(b.publish(id))
	}
	b.wantUsable(b.target()) // writes 0xa5, 64 KiB of it
	if bytes.Contains(b.content(id), bytes.Repeat([]byte{0xa5}, 64)) {
		t.Error("what was written is on the volume's device as it was written")
	}
	want := volume.FileSystem{Type: "ext4", State: volume.FileSystemMade, SizeBytes: 8 * mib, LUKS: volume.FileSystemMade}
	if v := b.Record(id); v.FileSystem != want {
		t.Errorf("on record is %+v", v.FileSystem)
	}
	for range 2 {
		b.must(b.unpublish(id))
		b.must(b.unstage(id))
	}
	b.wantDetached(id)
	b.wantUsed(id)
}

func TestWrongPassphraseChangesNothing(t *testing.T) {
	b, id := encrypted(t, "wrong")
	b.must(b.stage(id))
	b.must(b.publish(id))
	b.wantUsable(b.target())
	before, record := b.content(id), b.Record(id)
	b.must(b.unpublish(id))
	b.must(b.unstage(id))

	b.secrets = wrong
	b.formatted.Store(false)
	wantError(t, b.stage(id), mount.ErrPassphrase)
	if len(b.machine.All())+len(b.machine.Mappings()) > 0 {
		t.Errorf("open %v, mounted %+v", b.machine.Mappings(), b.machine.All())
	}
	if after := b.content(id); !bytes.Equal(before, after) || b.Record(id).FileSystem != record.FileSystem {
		t.Errorf("something changed; on record is %+v", b.Record(id).FileSystem)
	}
	b.wantUnformatted()
	b.must(b.unstage(id))
	b.wantDetached(id)

	b.secrets = right
	b.must(b.stage(id))
	b.must(b.publish(id))
	f, err := b.machine.Open(b.target())
	b.must(err)
	got := make([]byte, 64<<10)
	b.must(f.ReadAt(within(t), got, 4096))
	if !bytes.Equal(got, bytes.Repeat([]byte{0xa5}, len(got))) {
		t.Error("what was written is not there")
	}
}

func TestMissingPassphraseIsRefusedBeforeAnythingIsDone(t *testing.T) {
	b, id := encrypted(t, "missing")
	for _, secrets := range []map[string]string{nil, {"passphrase": "x"}, {node.SecretPassphrase: ""}, {node.SecretPassphrase: strings.Repeat("x", mount.MaxPassphraseBytes+1)}} {
		b.secrets = secrets
		if err := b.stage(id); status.Code(err) != codes.InvalidArgument {
			t.Errorf("with %d secrets: %v", len(secrets), err)
		}
	}
	b.wantDetached(id)
	if fs := b.Record(id).FileSystem; fs != (volume.FileSystem{}) {
		t.Errorf("on record is %+v", fs)
	}
}

// The record decides, not what comes with the call.
func TestVolumeThatIsNotEncryptedIsNotAlthoughThereIsAPassphrase(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	b.secrets = right
	id := b.published("plain")
	b.wantUsed(id)
	if fs := b.Record(id).FileSystem; fs.LUKS != volume.FileSystemNone || len(b.machine.Mappings()) > 0 {
		t.Errorf("on record is %+v, open are %v", fs, b.machine.Mappings())
	}
}

// Nothing was ever written through a header that was begun: the passphrase of the retry counts.
func TestCrashWhileTheHeaderIsMadeIsFinishedByTheNextStage(t *testing.T) {
	b, id := encrypted(t, "header")
	b.failing(userspace.OpFormatLUKS, userspace.Midway, errDisk)
	wantError(t, b.stage(id), errDisk)
	if fs := b.Record(id).FileSystem; fs.LUKS != volume.FileSystemMaking {
		t.Errorf("on record is %+v", fs)
	}
	b.restart()
	b.failing(userspace.OpFormatLUKS, userspace.After, errDisk) // whole, but not on record
	wantError(t, b.stage(id), errDisk)
	b.restart()
	b.fault, b.secrets = nil, wrong
	b.wantUsed(id)
	b.must(b.unstage(id))
	b.secrets = right
	wantError(t, b.stage(id), mount.ErrPassphrase)
}

// Two nodes that each made a header would overwrite one another's.
func TestNodeThatDoesNotOwnAVolumeDoesNotEncryptIt(t *testing.T) {
	b, id := encrypted(t, "shared")
	for _, header := range []volume.FileSystemState{volume.FileSystemNone, volume.FileSystemMaking} {
		_, err := volume.Modify(within(t), b.Store, id, func(v *volume.Volume) (bool, error) {
			v.Owner, v.FileSystem.LUKS = "other", header
			if v.Publication("other") == nil {
				v.Publications = append(v.Publications, volume.Publication{Node: "other", Mode: v.Publications[0].Mode, Staged: true})
			}
			return true, nil
		})
		b.must(err)
		if err := b.stage(id); !errors.Is(err, volume.ErrBusy) {
			t.Errorf("header %q: %v", header, err)
		}
		if slices.ContainsFunc(b.content(id), func(c byte) bool { return c != 0 }) {
			t.Errorf("header %q: something was written", header)
		}
		if v := b.Record(id); v.FileSystem.LUKS != header {
			t.Errorf("on record is %q", v.FileSystem.LUKS)
		}
	}
}

func TestContentThatTheRecordDoesNotExplainIsNotEncrypted(t *testing.T) {
	b, id := encrypted(t, "foreign")
	b.must(b.stage(id))
	b.must(b.unstage(id))
	made := b.Record(id).FileSystem
	for name, fs := range map[string]volume.FileSystem{
		"a header that the record does not know":      {},
		"a file system without a header, on record":   {Type: "ext4", State: volume.FileSystemMade},
		"begun, but with a file system on the record": {Type: "ext4", State: volume.FileSystemMade, LUKS: volume.FileSystemMaking},
	} {
		b.setFileSystem(id, fs)
		if err := b.stage(id); !errors.Is(err, volume.ErrPrecondition) {
			t.Errorf("%s: %v", name, err)
		}
		b.must(b.unstage(id))
	}
	b.setFileSystem(id, made)
	b.wantUsed(id)
}

func TestEncryptedVolumeThatLostItsHeaderIsNotEncryptedAgain(t *testing.T) {
	b, id := encrypted(t, "lost")
	b.must(b.stage(id))
	b.onDevice(id, func(f *userspace.File) { b.must(f.WriteAt(within(t), make([]byte, f.SizeBytes()), 0)) })
	b.must(b.unstage(id))
	wantError(t, b.stage(id), volume.ErrPrecondition)
	if content := b.content(id); bytes.Count(content, []byte{0}) != len(content) {
		t.Error("something was written")
	}
	b.onDevice(id, func(f *userspace.File) { b.must(f.WriteAt(within(t), bytes.Repeat([]byte{0x11}, 4096), 64<<10)) })
	wantError(t, b.stage(id), volume.ErrPrecondition)
}

// A process that is started again takes what its predecessor has open, and closes it.
func TestServiceStartedAgainTakesWhatIsOpen(t *testing.T) {
	b, id := encrypted(t, "again")
	b.must(b.stage(id))
	b.must(b.publish(id))
	b.restart()
	b.failing(userspace.OpOpenLUKS, userspace.Before, errDisk)
	b.must(b.stage(id))
	b.must(b.publish(id))
	b.wantUsable(b.target())
	b.must(b.unpublish(id))
	b.restart()
	b.must(b.unstage(id))
	b.wantDetached(id)
}

// The kernel gave the target up under an open volume: what is open is dead, and is closed once nothing holds it.
func TestVolumeThatIsOpenOnADeviceThatIsGoneIsOpenedAnew(t *testing.T) {
	b, id := encrypted(t, "gone")
	b.must(b.stage(id))
	b.must(b.publish(id))
	b.wantUsable(b.target())
	nqn := b.Record(id).NQN()
	b.must(b.machine.Disconnect(within(t), nqn))
	wantError(t, b.stage(id), volume.ErrBusy)
	b.must(b.unpublish(id))
	b.must(b.machine.Unmount(within(t), b.staging()))
	b.wantUsed(id)
	b.must(b.machine.Disconnect(within(t), nqn))
	b.must(b.unstage(id))
	b.wantDetached(id)
}

func TestUnstageOfAnEncryptedVolumeWithTheTargetDeadLeavesNothing(t *testing.T) {
	b, id := encrypted(t, "dead")
	b.must(b.stage(id))
	b.Sim("n1").Kill()
	b.must(b.unstage(id))
	b.wantDetached(id)
}

// A volume was deleted by force while it was open here, and another made under its name.
func TestEarlierEncryptedVolumeOfTheSameNameIsClosed(t *testing.T) {
	b, id := encrypted(t, "name")
	b.must(b.stage(id))
	b.dispose(id)
	b.publishedAs("name", volume.EncryptionLUKS2)
	b.wantUsed(id)
	if open, want := b.machine.Mappings(), []string{volume.MappingName(b.Record(id).UUID)}; !slices.Equal(open, want) {
		t.Errorf("open are %v", open)
	}
}

func TestEncryptedRawBlockVolumeIsPublishedAsItIsOpen(t *testing.T) {
	b, id := encrypted(t, "raw")
	b.must(b.stageAs(id, raw()))
	b.must(b.publishAs(id, raw()))
	b.wantUsable(b.target())
	if bytes.Contains(b.content(id), bytes.Repeat([]byte{0xa5}, 64)) {
		t.Error("what was written is on the volume's device as it was written")
	}
	b.must(b.unpublish(id))
	b.must(b.unstage(id))

	v := b.Record(id)
	v.Publications[0].ReadOnly = true
	b.must(b.Store.Update(t.Context(), v))
	b.must(b.stageAs(id, raw()))
	b.must(b.publishAs(id, raw()))
	f, err := b.machine.Open(b.target())
	b.must(err)
	if err := f.WriteAt(within(t), make([]byte, 4096), 0); err == nil {
		t.Error("a read-only volume was written to")
	}
	b.must(b.unpublish(id))
	b.must(b.unstage(id))
	b.wantDetached(id)
}

func TestEncryptedVolumeGrowsWhileItIsUsed(t *testing.T) {
	for _, block := range []bool{false, true} {
		t.Run(fmt.Sprintf("raw block %t", block), func(t *testing.T) {
			b, id := encrypted(t, "grows")
			capability := mounted("ext4")
			if block {
				capability = raw()
			}
			b.must(b.stageAs(id, capability))
			b.must(b.publishAs(id, capability))
			b.enlarge(id, 32*mib)
			b.secrets = nil
			if err := b.expand(id, b.target()); status.Code(err) != codes.InvalidArgument {
				t.Errorf("without a passphrase: %v", err)
			}
			b.secrets = wrong
			wantError(t, b.expand(id, b.target()), mount.ErrPassphrase)
			b.secrets = right
			b.must(b.expand(id, b.target()))
			b.wantGrown(id, 32*mib, false)
			b.wantOpen(id, 16*mib, !block)
			b.secrets = nil
			b.must(b.expand(id, b.target())) // it has its size: there is nothing to open
			b.wantUsable(b.target())
		})
	}
}

// wantOpen checks what an encrypted volume offers: how large it is open, and its file system.
func (b *bench) wantOpen(id string, bytes int64, fs bool) {
	b.t.Helper()
	v := b.Record(id)
	at, open, err := b.machine.Mapping(volume.MappingName(v.UUID))
	if err != nil || !open || at.SizeBytes != bytes || v.CapacityBytes() != bytes {
		b.t.Errorf("it is open as %+v (%t, %v) and offers %d bytes", at, open, err, v.CapacityBytes())
	}
	if !fs {
		return
	}
	size, err := b.machine.FileSystemBytes(within(b.t), at.Path)
	b.must(err)
	if size != bytes || v.FileSystem.SizeBytes != bytes || v.FileSystem.LUKS != volume.FileSystemMade {
		b.t.Errorf("the file system has %d bytes, on record is %+v", size, v.FileSystem)
	}
}

func TestEncryptedVolumeThatGrewMeanwhileIsGrownAtStage(t *testing.T) {
	b, id := encrypted(t, "later")
	b.must(b.stage(id))
	b.must(b.unstage(id))
	b.enlarge(id, 32*mib)
	b.must(b.stage(id))
	b.wantOpen(id, 16*mib, true)

	// It grows while the service is away, and is staged again as it is.
	b.enlarge(id, 40*mib)
	b.restart()
	b.must(b.stage(id))
	b.wantOpen(id, 24*mib, true)
}
