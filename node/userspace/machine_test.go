package userspace_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/node/mount"
	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp/dhchap"
)

var (
	_ node.Fabrics     = (*userspace.Machine)(nil)
	_ node.FileSystems = (*userspace.Machine)(nil)
	_ node.Mounts      = (*userspace.Machine)(nil)
)

const (
	testNQN = "nqn.2026-11.dev.holdfast.csi:volume:test"
	hostNQN = "nqn.2026-11.dev.holdfast.csi:host:test"
)

var (
	nsUUID = uuid.MustParse("0f9c1f2e-8f3b-4f43-8a86-5a0d6f0b8a11")
	hostID = uuid.MustParse("11111111-2222-4333-8444-555555555555")
)

// memory is the storage behind the target's namespace.
type memory struct {
	mu   sync.Mutex
	data []byte
}

func (d *memory) BlockSize() int   { return 4096 }
func (d *memory) SizeBytes() int64 { return int64(len(d.data)) }
func (d *memory) ReadAt(_ context.Context, p []byte, off int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(p, d.data[off:])
	return nil
}

func (d *memory) WriteAt(_ context.Context, p []byte, off int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.data[off:], p)
	return nil
}

func (d *memory) WriteZeroes(_ context.Context, off, n int64, _ bool) error {
	return d.WriteAt(context.Background(), make([]byte, n), off)
}
func (d *memory) Unmap(ctx context.Context, off, n int64) error {
	return d.WriteZeroes(ctx, off, n, true)
}
func (d *memory) Flush(context.Context) error { return nil }

// bench is a machine and a target that it may attach.
type bench struct {
	*userspace.Machine
	t      *testing.T
	medium *memory
	target *nvmetcp.Target
	// subsystem is what the target exports.
	subsystem *nvmetcp.Subsystem
	dir       string
	connect   nvmeof.Target
}

func newBench(t *testing.T, fault userspace.Fault) *bench {
	t.Helper()
	b := &bench{t: t, medium: &memory{data: make([]byte, 16<<20)}, dir: t.TempDir(), target: nvmetcp.NewTarget(nvmetcp.TargetConfig{})}
	t.Cleanup(func() { _ = b.target.Close() })
	b.must(b.target.Listen("127.0.0.1:0"))
	var err error
	b.subsystem, err = b.target.AddSubsystem(nvmetcp.SubsystemConfig{NQN: testNQN, ANAReporting: true})
	b.must(err)
	b.must(b.subsystem.AddListener(b.target.Addr()))
	b.subsystem.AllowHost(hostNQN)
	b.must(b.subsystem.AddNamespace(nvmetcp.NamespaceConfig{NSID: 1, Device: b.medium, UUID: nsUUID, NGUID: nsUUID}))
	b.Machine, err = userspace.New(userspace.Options{Dir: filepath.Join(b.dir, "dev"), Fault: fault})
	b.must(err)
	t.Cleanup(b.Close)
	b.connect = nvmeof.Target{
		NQN: testNQN, NSUUID: nsUUID, Paths: []nvmeof.Path{{Address: b.target.Addr()}}, HostNQN: hostNQN, HostID: hostID,
		KeepAliveSec: 5, ReconnectDelaySec: 1, CtrlLossSec: 60,
	}
	return b
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) attach() string {
	b.t.Helper()
	path, err := b.Connect(patient(b.t), b.connect)
	b.must(err)
	return path
}

// patient is a context for what must happen.
func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

func TestAttachingTwiceIsOneDeviceAndDetachingLeavesNothing(t *testing.T) {
	b := newBench(t, nil)
	first, second := b.attach(), b.attach()
	if first != second {
		t.Errorf("the same namespace became %s and %s", first, second)
	}
	device, err := b.Device(patient(t), testNQN, nsUUID)
	b.must(err)
	if device.Path != first || device.SizeBytes != 16<<20 || device.BlockSize != 4096 || device.NSID != 1 {
		t.Errorf("device is %+v", device)
	}
	b.must(b.Disconnect(patient(t), testNQN))
	b.must(b.Disconnect(patient(t), testNQN))
	_, err = b.Device(patient(t), testNQN, nsUUID)
	wantError(t, err, nvmeof.ErrNotConnected)
	if left, _ := os.ReadDir(filepath.Join(b.dir, "dev")); len(left) != 0 || len(b.Attached()) != 0 {
		t.Errorf("left: %v, %v", left, b.Attached())
	}
	if again := b.attach(); again == first {
		t.Errorf("a new device got the old one's name %s", again)
	}
}

func TestTargetThatIsNotThereOrRefusesLeavesNothing(t *testing.T) {
	b := newBench(t, nil)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	b.must(err)
	gone := b.connect
	gone.Paths = []nvmeof.Path{{Address: closed.Addr().String()}}
	b.must(closed.Close())
	_, err = b.Connect(patient(t), gone)
	wantError(t, err, nvmeof.ErrUnreachable)
	stranger := b.connect
	stranger.HostNQN += "-2"
	_, err = b.Connect(patient(t), stranger)
	wantError(t, err, nvmeof.ErrRejected)
	if len(b.Attached()) != 0 {
		t.Errorf("attached: %v", b.Attached())
	}
}

// key is one of 32 bytes of that value.
func key(value byte) string { return spdk.NewKey("", bytes.Repeat([]byte{value}, 32)).Text() }

func TestMachineAndTargetProveThemselvesToEachOther(t *testing.T) {
	b := newBench(t, nil)
	source := func(value byte) nvmetcp.KeySource { return func() (string, error) { return key(value), nil } }
	b.target.SetAuthAlgorithms(nvmetcp.AuthAlgorithms{Groups: []dhchap.Group{dhchap.NoGroup}})
	b.subsystem.SetHostKeys(hostNQN, &nvmetcp.HostKeys{Host: source(1), Controller: source(2)})
	_, err := b.Connect(patient(t), b.connect)
	wantError(t, err, nvmeof.ErrRejected)
	for name, wrong := range map[string][2]byte{"of the host": {3, 2}, "of the target": {1, 3}} {
		target := b.connect
		target.HostKey, target.ControllerKey = nvmeof.NewSecret(key(wrong[0])), nvmeof.NewSecret(key(wrong[1]))
		if _, err := b.Connect(patient(t), target); !errors.Is(err, nvmeof.ErrRejected) || len(b.Attached()) != 0 {
			t.Errorf("another key %s: %v, attached %v", name, err, b.Attached())
		}
	}
	b.connect.HostKey, b.connect.ControllerKey = nvmeof.NewSecret(key(1)), nvmeof.NewSecret(key(2))
	f, err := b.Open(b.attach())
	b.must(err)
	b.subsystem.RemoveListener(b.target.Addr()) // which ends the connection; the next one authenticates, too
	b.must(b.subsystem.AddListener(b.target.Addr()))
	b.must(f.WriteAt(patient(t), make([]byte, 4096), 0))
}

func TestOneNQNIsNotAttachedAsTwoHosts(t *testing.T) {
	b := newBench(t, nil)
	b.attach()
	other := b.connect
	other.HostNQN += "-2"
	_, err := b.Connect(patient(t), other)
	wantError(t, err, nvmeof.ErrForeign)
}

func TestFileSystemIsReadFromTheDeviceAndNeverMadeOverData(t *testing.T) {
	b := newBench(t, nil)
	device := b.attach()
	content, err := b.Probe(patient(t), device)
	b.must(err)
	if !content.Blank {
		t.Fatalf("a device of zeroes reads %+v", content)
	}
	b.medium.data[1<<20] = 1
	wantError(t, b.Format(patient(t), device, mount.FormatOptions{FSType: "ext4"}), mount.ErrNotBlank)
	b.medium.data[1<<20] = 0
	b.must(b.Format(patient(t), device, mount.FormatOptions{FSType: "ext4"}))
	content, err = b.Probe(patient(t), device)
	b.must(err)
	if content.FSType != "ext4" || content.Blank {
		t.Fatalf("formatted, it reads %+v", content)
	}
	wantError(t, b.Format(patient(t), device, mount.FormatOptions{FSType: "xfs"}), mount.ErrNotBlank)
	if err := b.Mount(patient(t), device, filepath.Join(b.dir, "mnt"), "xfs", nil, false); err == nil {
		t.Fatal("ext4 was mounted as xfs")
	}
	b.medium.data[100] ^= 1 // damage in the superblock
	content, err = b.Probe(patient(t), device)
	b.must(err)
	if content.FSType != "" || content.Blank {
		t.Fatalf("with a damaged superblock it reads %+v", content)
	}
}

func TestInterruptedFormatLeavesNeitherBlankNorFileSystem(t *testing.T) {
	crash := errors.New("crash")
	b := newBench(t, func(op userspace.Op, at userspace.Moment) error {
		if op == userspace.OpFormat && at == userspace.Midway {
			return crash
		}
		return nil
	})
	device := b.attach()
	wantError(t, b.Format(patient(t), device, mount.FormatOptions{FSType: "ext4"}), crash)
	content, err := b.Probe(patient(t), device)
	b.must(err)
	if content.Blank || content.FSType != "" {
		t.Fatalf("it reads %+v", content)
	}
}

func TestMountsAreBoundAndWrittenThrough(t *testing.T) {
	b := newBench(t, nil)
	device := b.attach()
	staging, target, readOnly := filepath.Join(b.dir, "staging"), filepath.Join(b.dir, "pod", "target"), filepath.Join(b.dir, "ro")
	wantError(t, b.BindMount(patient(t), staging, target, false), mount.ErrNotMounted)
	b.must(b.Format(patient(t), device, mount.FormatOptions{FSType: "xfs"}))
	for range 2 { // each is idempotent
		b.must(b.Mount(patient(t), device, staging, "xfs", nil, false))
		b.must(b.BindMount(patient(t), staging, target, false))
		b.must(b.BindMount(patient(t), staging, readOnly, true))
	}
	wantError(t, b.BindMount(patient(t), staging, target, true), mount.ErrOtherMount)
	f, err := b.Open(target)
	b.must(err)
	want := bytes.Repeat([]byte{7}, 8192)
	b.must(f.WriteAt(patient(t), want, 4096))
	if !bytes.Equal(b.medium.data[1<<20+4096:1<<20+4096+8192], want) {
		t.Error("the bytes did not reach the target's medium behind the superblock")
	}
	wantError(t, f.WriteAt(patient(t), want, f.SizeBytes()), syscall.ENOSPC)
	protected, err := b.Open(readOnly)
	b.must(err)
	got := make([]byte, 8192)
	b.must(protected.ReadAt(patient(t), got, 4096))
	if !bytes.Equal(got, want) {
		t.Error("another bind reads other bytes")
	}
	wantError(t, protected.WriteAt(patient(t), want, 0), syscall.EROFS)
	wantError(t, b.Remove(target), mount.ErrStillMounted)
	for range 2 {
		b.must(b.Unmount(patient(t), target))
		b.must(b.Remove(target))
	}
	if at, err := b.Mounts(staging); err != nil || len(at) != 1 || at[0].Source != device || at[0].FSType != "xfs" {
		t.Errorf("at the staging path: %+v, %v", at, err)
	}
}

func TestRawDeviceAppearsAsAFile(t *testing.T) {
	b := newBench(t, nil)
	device, target := b.attach(), filepath.Join(b.dir, "pod", "disk")
	b.must(b.BindDevice(patient(t), device, target))
	b.must(b.BindDevice(patient(t), device, target))
	if st, err := os.Stat(target); err != nil || !st.Mode().IsRegular() {
		t.Errorf("the target is %v, %v", st, err)
	}
	f, err := b.Open(target)
	b.must(err)
	b.must(b.SetReadOnly(patient(t), testNQN, nsUUID, true))
	wantError(t, f.WriteAt(patient(t), make([]byte, 4096), 0), syscall.EROFS)
	b.must(b.SetReadOnly(patient(t), testNQN, nsUUID, false))
	b.must(f.WriteAt(patient(t), make([]byte, 4096), 0))
	_, err = b.Stats(patient(t), target)
	wantError(t, err, mount.ErrNotMounted)
}

func TestFailedUmountSaysThatItIsStillMounted(t *testing.T) {
	busy := true
	b := newBench(t, func(op userspace.Op, at userspace.Moment) error {
		if op == userspace.OpUnmount && at == userspace.Before && busy {
			return syscall.EBUSY
		}
		return nil
	})
	target := filepath.Join(b.dir, "disk")
	b.must(b.BindDevice(patient(t), b.attach(), target))
	wantError(t, b.Unmount(patient(t), target), mount.ErrStillMounted)
	if at, err := b.Mounts(target); err != nil || len(at) != 1 {
		t.Errorf("at the target: %v, %v", at, err)
	}
	busy = false
	b.must(b.Unmount(patient(t), target))
}

// A device that has lost its namespace on every path is gone for good, for whoever holds it; what is connected later is another one, also
// when a path was left.
func TestDeviceThatLostItsNamespaceIsNotUsedAgain(t *testing.T) {
	b := newBench(t, nil)
	first := b.attach()
	f, err := b.Open(first)
	b.must(err)
	b.must(b.subsystem.RemoveNamespace(1))
	for err = nil; err == nil; { // until the path has noticed
		_, err = b.Device(patient(t), testNQN, nsUUID)
	}
	wantError(t, err, nvmeof.ErrNotConnected)
	b.must(b.subsystem.AddNamespace(nvmetcp.NamespaceConfig{NSID: 1, Device: b.medium, UUID: nsUUID, NGUID: nsUUID}))
	second := b.attach()
	if second == first {
		t.Errorf("%s was made use of again", first)
	}
	if err := f.ReadAt(patient(t), make([]byte, 4096), 0); err == nil {
		t.Error("who holds the device that is gone reads from it")
	}
	again, err := b.Open(second)
	b.must(err)
	b.must(again.ReadAt(patient(t), make([]byte, 4096), 0))
}
