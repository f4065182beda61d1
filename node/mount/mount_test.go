package mount

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	utilexec "k8s.io/utils/exec"
)

const device = "/dev/nvme3n1"

func TestMountOptionsByFileSystem(t *testing.T) {
	for _, c := range []struct {
		fsType   string
		flags    []string
		readOnly bool
		want     string
	}{
		{XFS, nil, false, "nouuid"},
		{XFS, []string{"noatime", "nouuid"}, true, "noatime,nouuid,ro"},
		{Ext4, nil, false, "errors=remount-ro"},
		{Ext4, []string{"errors=panic"}, true, "errors=panic,ro"},
	} {
		k, m := newMachine(t)
		at := filepath.Join(t.TempDir(), "new", "dir")
		for range 2 { // idempotent
			if err := m.Mount(t.Context(), device, at, c.fsType, c.flags, c.readOnly); err != nil {
				t.Fatal(err)
			}
		}
		want := []string{"mount -t " + c.fsType + " -o " + c.want + " " + device + " " + at}
		if c.fsType == Ext4 && !c.readOnly {
			want = append([]string{"e2fsck -p " + device}, want...)
		}
		if got := k.commands(); !slices.Equal(got, want) {
			t.Errorf("ran %q\nwant %q", got, want)
		}
		if st, err := os.Stat(at); err != nil || !st.IsDir() {
			t.Errorf("mount point: %v, %v", st, err)
		}
	}
}

func TestMountRefusesWhatIsThereOtherwise(t *testing.T) {
	for name, line := range map[string]func(*machine, string){
		"another device": func(k *machine, at string) { k.line(at, "/", "259:4", "ext4", "/dev/nvme4n1", "rw", "rw") },
		"another type":   func(k *machine, at string) { k.line(at, "/", "259:3", "xfs", device, "rw", "rw") },
		"read-only":      func(k *machine, at string) { k.line(at, "/", "259:3", "ext4", device, "ro", "ro") },
		"a bind of it":   func(k *machine, at string) { k.line(at, "/dir", "259:3", "ext4", device, "rw", "rw") },
		"something on top of itself": func(k *machine, at string) {
			k.line(at, "/", "259:3", "ext4", device, "rw", "rw")
			k.line(at, "/", "0:9", "tmpfs", "none", "rw", "rw")
		},
	} {
		k, m := newMachine(t)
		at := t.TempDir()
		line(k, at)
		if err := m.Mount(t.Context(), device, at, Ext4, nil, false); !errors.Is(err, ErrOtherMount) || len(k.commands()) != 0 {
			t.Errorf("%s: %v, ran %q", name, err, k.commands())
		}
	}
}

func TestFileSystemCheckDecidesWhetherToMount(t *testing.T) {
	for status, want := range map[int]error{
		0: nil, 1: nil, 2: nil, 3: nil,
		4: ErrCorrupt, 5: ErrCorrupt, 12: ErrCorrupt,
		8: utilexec.CodeExitError{}, 16: utilexec.CodeExitError{}, 32: utilexec.CodeExitError{}, 128: utilexec.CodeExitError{},
		missing: utilexec.ErrExecutableNotFound,
	} {
		k, m := newMachine(t)
		k.do["e2fsck"] = exits(status)
		err := m.Mount(t.Context(), device, t.TempDir(), Ext4, nil, false)
		var exit utilexec.CodeExitError
		switch {
		case want == nil && err != nil, want != nil && err == nil:
			t.Errorf("status %d: %v", status, err)
		case errors.As(want, &exit):
			if !errors.As(err, &exit) || errors.Is(err, ErrCorrupt) {
				t.Errorf("status %d: %v", status, err)
			}
		case !errors.Is(err, want):
			t.Errorf("status %d: %v", status, err)
		}
		mounted := slices.ContainsFunc(k.commands(), func(c string) bool { return strings.HasPrefix(c, "mount ") })
		if mounted != (want == nil) {
			t.Errorf("status %d: mounted is %v", status, mounted)
		}
	}
}

func TestMountedFileSystemIsNotChecked(t *testing.T) {
	k, m := newMachine(t)
	k.line("/elsewhere", "/", "259:3", "ext4", device, "rw", "rw")
	if err := m.Mount(t.Context(), device, t.TempDir(), Ext4, nil, false); err != nil {
		t.Fatal(err)
	}
	if got := k.commands(); len(got) != 1 || !strings.HasPrefix(got[0], "mount ") {
		t.Errorf("ran %q", got)
	}
}

func TestMountThatMountinfoDoesNotShowIsAnError(t *testing.T) {
	k, m := newMachine(t)
	k.do["mount"] = exits(0)
	if err := m.Mount(t.Context(), device, t.TempDir(), XFS, nil, false); err == nil {
		t.Error("succeeded")
	}
}

func TestFlagsThatChangeMoreThanTheFileSystemAreRefused(t *testing.T) {
	for _, flag := range []string{
		"", "ro", "rw", "bind", "rbind", "remount", "loop", "loop=/dev/loop0", "offset=4096", "noatime,ro", "a b", "a\tb", "a\nb",
		"shared", "user", "X-mount.mkdir", `context="a",ro`, `x="a","b"`,
	} {
		if err := ValidateFlags([]string{"noatime", flag}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", flag, err)
		}
	}
	good := []string{"noatime", "discard", "data=ordered", "logbsize=256k", `context="system_u:object_r:container_file_t:s0:c1,c2"`, "defaults"}
	if err := ValidateFlags(good); err != nil {
		t.Error(err)
	}
	_, m := newMachine(t)
	if err := m.Mount(t.Context(), device, t.TempDir(), XFS, []string{"bind"}, false); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if err := m.Mount(t.Context(), device, t.TempDir(), "btrfs", nil, false); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

func TestBindIsReadOnlyAfterASecondStep(t *testing.T) {
	k, m := newMachine(t)
	source, at := t.TempDir(), filepath.Join(t.TempDir(), "target")
	// A crash between the two steps left the first one done.
	if err := m.BindMount(t.Context(), source, at, false); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := m.BindMount(t.Context(), source, at, true); err != nil {
			t.Fatal(err)
		}
	}
	if got := k.commands(); len(got) != 2 || !strings.Contains(got[1], "-o remount,bind,ro") {
		t.Errorf("ran %q", got)
	}
	if mounts, err := m.Mounts(at); err != nil || len(mounts) != 1 || !mounts[0].ReadOnly {
		t.Errorf("mounted %+v, %v", mounts, err)
	}
	if err := m.BindMount(t.Context(), t.TempDir(), at, true); !errors.Is(err, ErrOtherMount) {
		t.Errorf("another source: %v", err)
	}
}

func TestDeviceIsBoundToAFile(t *testing.T) {
	k, m := newMachine(t)
	at := filepath.Join(t.TempDir(), "pods", "dev")
	for range 2 {
		if err := m.BindDevice(t.Context(), device, at); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := os.Stat(at); err != nil || !st.Mode().IsRegular() || len(k.commands()) != 1 {
		t.Errorf("%v, %v, ran %q", st, err, k.commands())
	}
	for _, opened := range slices.Repeat([]string{filepath.Join(t.TempDir(), "dev")}, 2) {
		if err := m.BindDevice(t.Context(), "/dev/dm-3", opened); err != nil {
			t.Errorf("an open LUKS device: %v", err)
		}
	}
	if err := m.BindDevice(t.Context(), "/dev/nvme4n1", at); !errors.Is(err, ErrOtherMount) {
		t.Errorf("another device: %v", err)
	}
	if err := m.BindDevice(t.Context(), "/etc/passwd", at); !errors.Is(err, ErrInvalid) {
		t.Errorf("no device: %v", err)
	}
	if err := m.Remove(at); !errors.Is(err, ErrStillMounted) {
		t.Errorf("remove while bound: %v", err)
	}
	if err := errors.Join(m.Unmount(t.Context(), at), m.Remove(at), m.Remove(at)); err != nil {
		t.Error(err)
	}
}
