//go:build e2e

package mount

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// These run in the test VM (test/vm): what cryptsetup and the device mapper make of the arguments only they know.

const secret = "correct horse battery staple"

// shell runs a command. Busybox's shell prefers its own programs; others are named by their paths.
func shell(t *testing.T, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", command).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
	return strings.TrimSpace(string(out))
}

// disk attaches a file of zeroes as a block device.
func disk(t *testing.T, file string, bytes int64) string {
	t.Helper()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, bytes); err != nil {
		t.Fatal(err)
	}
	device := shell(t, "/usr/sbin/losetup -f --show "+file)
	t.Cleanup(func() { shell(t, "/usr/sbin/losetup -d "+device) })
	return device
}

func kernelMounter(t *testing.T) *Mounter {
	m := New(Options{KeySlotMiB: 1}) // 64 MiB take minutes in software emulation
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m
}

// holds says whether a text is anywhere in a file, but for the edges of the pieces that it is read in.
func holds(t *testing.T, file, text string) bool {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for buffer := make([]byte, 1<<20); ; {
		n, err := f.Read(buffer)
		if bytes.Contains(buffer[:n], []byte(text)) {
			return true
		}
		if errors.Is(err, io.EOF) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestKernelEncryptsGrowsAndClosesADevice(t *testing.T) {
	m, ctx := kernelMounter(t), t.Context()
	file, name := filepath.Join(t.TempDir(), "disk"), "holdfast-test"
	device := disk(t, file, 128<<20)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	must(m.FormatLUKS(ctx, device, LUKSOptions{Passphrase: []byte(secret), SectorBytes: 512}))
	t.Logf("header made after %s", time.Since(begin).Round(time.Millisecond))
	if c, err := m.Probe(ctx, device); err != nil || c.FSType != LUKSType {
		t.Fatalf("it holds %+v, %v", c, err)
	}
	if err := m.FormatLUKS(ctx, device, LUKSOptions{Passphrase: []byte(secret), SectorBytes: 512}); !errors.Is(err, ErrNotBlank) {
		t.Fatalf("encrypted again: %v", err)
	}
	if _, err := m.OpenLUKS(ctx, device, name, []byte("wrong"), false); !errors.Is(err, ErrPassphrase) {
		t.Fatalf("with a wrong passphrase: %v", err)
	}
	begin = time.Now()
	at, err := m.OpenLUKS(ctx, device, name, []byte(secret), false)
	must(err)
	t.Logf("opened after %s", time.Since(begin).Round(time.Millisecond))
	t.Cleanup(func() { _ = m.CloseLUKS(context.Background(), name) })
	if want := (Mapping{Name: name, Path: at.Path, Below: filepath.Base(device), SizeBytes: 112 << 20}); at != want {
		t.Errorf("it is %+v, want %+v", at, want)
	}
	if c, err := m.Probe(ctx, at.Path); err != nil || !c.Blank {
		t.Fatalf("a device to which nothing was written holds %+v, %v", c, err)
	}
	mountPoint := filepath.Join(t.TempDir(), "mnt")
	must(m.Format(ctx, at.Path, FormatOptions{FSType: Ext4}))
	must(m.Mount(ctx, at.Path, mountPoint, Ext4, nil, false))
	must(os.WriteFile(filepath.Join(mountPoint, "data"), bytes.Repeat([]byte("plain text "), 1<<20), 0o600))
	if err := m.CloseLUKS(ctx, name); !errors.Is(err, ErrStillOpen) {
		t.Errorf("closed while it is mounted: %v", err)
	}

	must(os.Truncate(file, 256<<20))
	shell(t, "/usr/sbin/losetup -c "+device)
	if _, err := m.ResizeLUKS(ctx, name, []byte("wrong")); !errors.Is(err, ErrPassphrase) {
		t.Fatalf("grown with a wrong passphrase: %v", err)
	}
	if at, err = m.ResizeLUKS(ctx, name, []byte(secret)); err != nil || at.SizeBytes != 240<<20 {
		t.Fatalf("grown: %+v, %v", at, err)
	}
	must(m.Resize(ctx, at.Path, mountPoint))
	if _, err := m.Trim(ctx, mountPoint); err != nil {
		t.Errorf("discards are not passed on: %v", err)
	}
	if readOnly, err := m.ReadOnly(mountPoint); readOnly || err != nil {
		t.Errorf("the file system is read-only: %t, %v", readOnly, err)
	}
	must(m.Unmount(ctx, mountPoint))
	if inUse, err := m.InUse(ctx, device); !inUse || err != nil {
		t.Errorf("the device below is in use: %t, %v", inUse, err)
	}
	for range 2 { // absent is success
		must(m.CloseLUKS(ctx, name))
	}
	if _, open, err := m.Mapping(name); open || err != nil {
		t.Errorf("open %t, %v", open, err)
	}
	if holds(t, file, "plain text ") {
		t.Error("what was written is on the disk as it was written")
	}
}

// The target is dead, and I/O to the device below waits: the mapping must go all the same.
func TestKernelClosesAMappingWhoseDeviceHangs(t *testing.T) {
	m, ctx := kernelMounter(t), t.Context()
	below := disk(t, filepath.Join(t.TempDir(), "disk"), 128<<20)
	const frozen, name = "holdfast-frozen", "holdfast-above"
	shell(t, "dmsetup create "+frozen+" --table \"0 $((128 * 2048)) linear "+below+" 0\"")
	t.Cleanup(func() { shell(t, "dmsetup resume "+frozen+" && dmsetup remove "+frozen) })
	device, err := filepath.EvalSymlinks("/dev/mapper/" + frozen)
	if err != nil || !strings.HasPrefix(filepath.Base(device), mappingPrefix) {
		device = "/dev/" + shell(t, "basename $(dirname $(dirname $(grep -l "+frozen+" /sys/class/block/dm-*/dm/name)))")
	}
	if err := m.FormatLUKS(ctx, device, LUKSOptions{Passphrase: []byte(secret), SectorBytes: 512}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.OpenLUKS(ctx, device, name, []byte(secret), true); err != nil {
		t.Fatal(err)
	}
	if at, _, err := m.Mapping(name); err != nil || !at.ReadOnly || at.SizeBytes != 128<<20-volume.LUKSHeaderBytes {
		t.Errorf("it is %+v, %v", at, err)
	}
	shell(t, "dmsetup suspend "+frozen)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := m.CloseLUKS(ctx, name); err != nil {
		t.Errorf("close it: %v", err)
	}
}
