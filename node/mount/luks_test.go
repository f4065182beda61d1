package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

const (
	mappingName = "holdfast-0f9c1f2e-8f3b-4f43-8a86-5a0d6f0b8a11"
	hidden      = "the passphrase that nobody may see"
)

// mapper is a machine with sysfs as the device mapper shows it, and files for devices.
type mapper struct {
	*machine
	m   *Mounter
	dev string
}

// newMapper has nvme3n1, of so many bytes that read zero.
func newMapper(t *testing.T, bytes int64) *mapper {
	k, m := newMachine(t)
	m.devRoot = t.TempDir()
	x := &mapper{machine: k, m: m, dev: filepath.Join(m.devRoot, "nvme3n1")}
	x.write("", x.dev)
	if err := os.Truncate(x.dev, bytes); err != nil {
		t.Fatal(err)
	}
	x.attribute("nvme3n1/size", fmt.Sprint(bytes/512))
	k.do["blkid"] = exits(2)
	k.do["cryptsetup"], k.do["dmsetup"] = x.cryptsetup, x.dmsetup
	return x
}

func (x *mapper) write(content, path string) {
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
		x.t.Error(err)
	}
}

func (x *mapper) attribute(name, value string) {
	x.write(value+"\n", filepath.Join(x.m.sysRoot, "class", "block", name))
}

// show has sysfs show a mapping on nvme3n1.
func (x *mapper) show(name string, bytes int64, readOnly string) {
	x.attribute("dm-2/dm/name", name)
	x.attribute("dm-2/dm/uuid", "CRYPT-LUKS2-0123456789abcdef-"+name)
	x.attribute("dm-2/size", fmt.Sprint(bytes/512))
	x.attribute("dm-2/ro", readOnly)
	x.attribute("dm-2/slaves/nvme3n1/dev", "259:3")
}

func (x *mapper) cryptsetup(args []string) (string, int) {
	if x.stdin != hidden {
		return "No key available with this passphrase.", cryptsetupNoPermission
	}
	switch args[0] {
	case "open":
		readOnly := "0"
		if slices.Contains(args, "--readonly") {
			readOnly = "1"
		}
		x.show(args[len(args)-1], 48*mib, readOnly)
	case "resize":
		x.show(args[len(args)-1], 112*mib, "0")
	}
	return "", 0
}

func (x *mapper) dmsetup([]string) (string, int) {
	if err := os.RemoveAll(filepath.Join(x.m.sysRoot, "class", "block", "dm-2")); err != nil {
		x.t.Error(err)
	}
	return "", 0
}

// wantSecret fails the test if the passphrase is anywhere but on standard input.
func (x *mapper) wantSecret(err error) {
	x.t.Helper()
	all := strings.Join(append(x.commands(), x.env...), "\n")
	if err != nil {
		all += err.Error()
	}
	if strings.Contains(all, hidden) {
		x.t.Errorf("the passphrase shows in %s", all)
	}
}

func TestPassphraseGoesThroughStandardInputAlone(t *testing.T) {
	x := newMapper(t, 64*mib)
	ctx := t.Context()
	if err := x.m.FormatLUKS(ctx, x.dev, LUKSOptions{Passphrase: []byte(hidden), SectorBytes: 4096}); err != nil {
		t.Fatal(err)
	}
	at, err := x.m.OpenLUKS(ctx, x.dev, mappingName, []byte(hidden), false)
	if want := (Mapping{Name: mappingName, Path: filepath.Join(x.m.devRoot, "dm-2"), Below: "nvme3n1", SizeBytes: 48 * mib}); err != nil || at != want {
		t.Fatalf("opened %+v, %v", at, err)
	}
	x.attribute("nvme3n1/size", fmt.Sprint(128*mib/512))
	if at, err = x.m.ResizeLUKS(ctx, mappingName, []byte(hidden)); err != nil || at.SizeBytes != 112*mib {
		t.Fatalf("resized %+v, %v", at, err)
	}
	if !slices.Contains(x.env, "DM_DISABLE_UDEV=1") {
		t.Error("libdevmapper waits for udev")
	}
	if err := x.m.CloseLUKS(ctx, mappingName); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"blkid -p -o export " + x.dev,
		"cryptsetup luksFormat --batch-mode --type luks2 --cipher aes-xts-plain64 --key-size 512 --hash sha256 --pbkdf argon2id --pbkdf-memory 65536 " +
			"--pbkdf-force-iterations 4 --pbkdf-parallel 4 --sector-size 4096 --offset 32768 --key-file=- " + x.dev,
		"cryptsetup open --batch-mode --type luks2 --allow-discards --key-file=- " + x.dev + " " + mappingName,
		"cryptsetup resize --batch-mode --key-file=- " + mappingName,
		"dmsetup remove " + mappingName,
	}
	if got := x.commands(); !slices.Equal(got, want) {
		t.Errorf("ran %q\nwant %q", got, want)
	}
	x.wantSecret(nil)
}

func TestFailuresOfCryptsetupAreToldWithoutThePassphrase(t *testing.T) {
	for status, want := range map[int]string{
		cryptsetupNoPermission: ErrPassphrase.Error(), cryptsetupNoMemory: "too little memory", 1: "said so", missing: "not installed",
	} {
		x := newMapper(t, 64*mib)
		x.do["cryptsetup"] = exits(status)
		_, err := x.m.OpenLUKS(t.Context(), x.dev, mappingName, []byte(hidden), false)
		if err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, ErrPassphrase) != (status == cryptsetupNoPermission) {
			t.Errorf("status %d: %v", status, err)
		}
		x.wantSecret(err)
	}
	x := newMapper(t, 64*mib)
	for _, secret := range []string{"", strings.Repeat("x", MaxPassphraseBytes+1)} {
		if _, err := x.m.OpenLUKS(t.Context(), x.dev, mappingName, []byte(secret), false); !errors.Is(err, ErrInvalid) || len(x.commands()) > 0 {
			t.Errorf("%d bytes: %v, ran %q", len(secret), err, x.commands())
		}
	}
}

func TestDeviceWithContentIsNotEncrypted(t *testing.T) {
	x := newMapper(t, 64*mib)
	options := LUKSOptions{Passphrase: []byte(hidden), SectorBytes: 512}
	x.do["blkid"] = func([]string) (string, int) { return "TYPE=crypto_LUKS\n", 0 }
	if f, err := os.OpenFile(x.dev, os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	} else if _, err := f.WriteAt([]byte{1}, 100); err != nil || f.Close() != nil {
		t.Fatal(err)
	}
	if err := x.m.FormatLUKS(t.Context(), x.dev, options); !errors.Is(err, ErrNotBlank) {
		t.Errorf("got %v", err)
	}
	options.Unfinished = true
	if err := x.m.FormatLUKS(t.Context(), x.dev, options); err != nil {
		t.Errorf("one that was begun: %v", err)
	}
	options.SectorBytes = 520
	if err := x.m.FormatLUKS(t.Context(), x.dev, options); !errors.Is(err, ErrInvalid) {
		t.Errorf("sectors of 520 bytes: %v", err)
	}
}

// What was never written reads as noise through the encryption: blank is what the device below says.
func TestOpenDeviceIsBlankWhenTheDataBelowReadZero(t *testing.T) {
	x := newMapper(t, 64*mib)
	x.show(mappingName, 48*mib, "0")
	write := func(at int64) {
		t.Helper()
		f, err := os.OpenFile(x.dev, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte{1}, at); err != nil || f.Close() != nil {
			t.Fatal(err)
		}
	}
	write(volume.LUKSHeaderBytes - 1)
	open := filepath.Join(x.m.devRoot, "dm-2")
	if c, err := x.m.Probe(t.Context(), open); err != nil || !c.Blank || c.SizeBytes != 48*mib {
		t.Errorf("it holds %+v, %v", c, err)
	}
	write(volume.LUKSHeaderBytes + 1<<20)
	if c, err := x.m.Probe(t.Context(), open); err != nil || c.Blank {
		t.Errorf("written to, it holds %+v, %v", c, err)
	}
	x.do["blkid"] = func([]string) (string, int) { return "TYPE=ext4\n", 0 }
	if c, err := x.m.Probe(t.Context(), open); err != nil || c.Blank || c.FSType != Ext4 {
		t.Errorf("formatted, it holds %+v, %v", c, err)
	}
}

func TestMappingThatIsOpenOtherwiseIsNotTaken(t *testing.T) {
	x := newMapper(t, 64*mib)
	x.show(mappingName, 48*mib, "1")
	if at, err := x.m.OpenLUKS(t.Context(), x.dev, mappingName, []byte("any"), true); err != nil || !at.ReadOnly {
		t.Errorf("open already: %+v, %v", at, err)
	}
	if _, err := x.m.OpenLUKS(t.Context(), x.dev, mappingName, []byte(hidden), false); !errors.Is(err, ErrStillOpen) {
		t.Errorf("open read-only: %v", err)
	}
	if _, err := x.m.OpenLUKS(t.Context(), filepath.Join(x.m.devRoot, "nvme4n1"), mappingName, []byte(hidden), true); !errors.Is(err, ErrStillOpen) {
		t.Errorf("open on another device: %v", err)
	}
	x.attribute("dm-2/dm/uuid", "LVM-abc")
	if err := x.m.CloseLUKS(t.Context(), mappingName); !errors.Is(err, ErrInvalid) {
		t.Errorf("somebody else's: %v", err)
	}
	if len(x.commands()) > 0 {
		t.Errorf("ran %q", x.commands())
	}
}

func TestMappingThatIsHeldIsNotClosed(t *testing.T) {
	x := newMapper(t, 64*mib)
	x.show(mappingName, 48*mib, "0")
	x.do["dmsetup"] = exits(1)
	if err := x.m.CloseLUKS(t.Context(), mappingName); !errors.Is(err, ErrStillOpen) {
		t.Errorf("got %v", err)
	}
}

// A caller that gives up while another volume's key is derived leaves nothing behind; and one key is derived at a time.
func TestKeysAreDerivedOneAtATime(t *testing.T) {
	x := newMapper(t, 64*mib)
	entered, leave := make(chan struct{}), make(chan struct{})
	x.do["cryptsetup"] = func(args []string) (string, int) {
		close(entered)
		<-leave
		return x.cryptsetup(args)
	}
	var first sync.WaitGroup
	first.Go(func() {
		if _, err := x.m.OpenLUKS(context.Background(), x.dev, mappingName, []byte(hidden), false); err != nil {
			t.Error(err)
		}
	})
	<-entered
	if _, err := x.m.OpenLUKS(soon(t), x.dev, "holdfast-other", []byte(hidden), false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	close(leave)
	first.Wait()
	if got := x.commands(); len(got) != 1 {
		t.Errorf("ran %q", got)
	}
}
