package mount

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

func TestUnmountTakesEverythingThatIsStacked(t *testing.T) {
	k, m := newMachine(t)
	at := t.TempDir()
	for range 3 {
		k.line(at, "/", "259:3", "ext4", device, "rw", "rw")
	}
	for range 2 {
		if err := m.Unmount(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	if got := k.commands(); len(got) != 3 {
		t.Errorf("ran %q", got)
	}
}

// Whatever umount(8) says, mountinfo is what counts.
func TestUnmountIsDecidedByMountinfo(t *testing.T) {
	for name, c := range map[string]struct {
		goes   bool
		status int
		want   error
	}{
		"busy":                        {false, 32, ErrStillMounted},
		"success, but it is there":    {false, 0, ErrStillMounted},
		"error, but it is gone":       {true, 32, nil},
		"umount(8) was not installed": {false, missing, ErrStillMounted},
	} {
		k, m := newMachine(t)
		at := t.TempDir()
		k.line(at, "/", "259:3", "ext4", device, "rw", "rw")
		k.do["umount"] = func(args []string) (string, int) {
			if c.goes {
				k.umount(args)
			}
			return "", c.status
		}
		if err := m.Unmount(t.Context(), at); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The kernel takes a mount out of mountinfo before it writes back, so a blocked
// umount must not pass for success.
func TestBlockedUnmountIsAnErrorUntilItHasEnded(t *testing.T) {
	k, m := newMachine(t)
	at := t.TempDir()
	k.line(at, "/", "259:3", "ext4", device, "rw", "rw")
	release := make(chan struct{})
	k.do["umount"] = func(args []string) (string, int) {
		k.umount(args)
		<-release
		return "", 0
	}
	for range 3 {
		if err := m.Unmount(soon(t), at); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
	}
	if err := m.Close(soon(t)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("closed with a command running: %v", err)
	}
	close(release)
	if err := m.Unmount(t.Context(), at); err != nil || len(k.commands()) != 1 {
		t.Errorf("ran %q, %v", k.commands(), err)
	}
}

func TestMountWaitsForBlockedUnmountOfTheSameTarget(t *testing.T) {
	k, m := newMachine(t)
	at := t.TempDir()
	k.line(at, "/", "259:4", "ext4", "/dev/nvme4n1", "rw", "rw")
	release := make(chan struct{})
	ctx, begun := context.WithCancel(t.Context())
	k.do["umount"] = func(args []string) (string, int) {
		k.umount(args)
		begun()
		<-release
		return "", 0
	}
	if err := m.Unmount(ctx, at); err == nil {
		t.Fatal("unmounted")
	}
	if err := m.Mount(soon(t), device, at, XFS, nil, false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("mounted over a running umount: %v", err)
	}
	close(release)
	if err := m.Mount(t.Context(), device, at, XFS, nil, false); err != nil {
		t.Error(err)
	}
}

// What can't be looked at any more is unmounted all the same.
func TestMountPointIsNeverLookedAt(t *testing.T) {
	k, m := newMachine(t)
	at := filepath.Join(t.TempDir(), "not-there-for-stat")
	k.line(at, "/", "259:3", "ext4", device, "rw", "rw")
	if err := m.Unmount(t.Context(), at); err != nil {
		t.Error(err)
	}
}

func TestMountinfoIsReadAsTheKernelWritesIt(t *testing.T) {
	k, m := newMachine(t)
	dir := filepath.Join(t.TempDir(), "kubelet")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	k.line(dir+`/a\040b\134c`, `/sub\040dir`, "259:3", "ext4", device, "ro,noatime", "rw,stripe=32")
	at, err := m.Mounts(link + `/a b\c/`)
	if err != nil || len(at) != 1 {
		t.Fatalf("got %+v, %v", at, err)
	}
	got := at[0]
	if got.Root != "/sub dir" || got.Source != device || !got.ReadOnly || got.Major != 259 || got.Minor != 3 || !slices.Equal(got.SuperOptions, []string{"rw", "stripe=32"}) {
		t.Errorf("got %+v", got)
	}
	for _, path := range []string{"", "relative", "/", "/../"} {
		if _, err := m.Mounts(path); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestUnreadableMountinfoIsAnError(t *testing.T) {
	k, m := newMachine(t)
	if err := os.WriteFile(k.mountInfo, []byte("garbage\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := m.Unmount(t.Context(), "/mnt/x"); err == nil {
		t.Error("unmounted")
	}
}

func TestReadOnlyByMountinfoAndByErrorCount(t *testing.T) {
	for name, c := range map[string]struct {
		fsType, super, errors string
		want                  bool
	}{
		"healthy":                      {"ext4", "rw,errors=remount-ro", "0", false},
		"before 6.12":                  {"ext4", "ro,errors=remount-ro", "0", true},
		"since 6.15":                   {"ext4", "rw,emergency_ro", "0", true},
		"in between":                   {"ext4", "rw,errors=remount-ro", "2", true},
		"errors that do not stop it":   {"ext4", "rw,errors=continue", "2", false},
		"the kernel does not count":    {"ext4", "rw,errors=remount-ro", "", false},
		"xfs knows no such count":      {"xfs", "rw", "2", false},
		"xfs that shut down, new ones": {"xfs", "rw,shutdown", "", true},
	} {
		k, m := newMachine(t)
		k.line("/mnt/v", "/", "259:3", c.fsType, device, "rw", c.super)
		if c.errors != "" {
			dir := filepath.Join(m.sysRoot, "fs", "ext4", "nvme3n1")
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "errors_count"), []byte(c.errors+"\n"), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := m.ReadOnly("/mnt/v"); err != nil || got != c.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	_, m := newMachine(t)
	if _, err := m.ReadOnly("/mnt/v"); !errors.Is(err, ErrNotMounted) {
		t.Error(err)
	}
}

func TestStatsMeasureOnlyWhatIsMounted(t *testing.T) {
	k, m := newMachine(t)
	at := t.TempDir()
	if _, err := m.Stats(t.Context(), at); !errors.Is(err, ErrNotMounted) {
		t.Errorf("measured what is below: %v", err)
	}
	k.line(at, "/", "259:3", "ext4", device, "rw", "rw")
	u, err := m.Stats(t.Context(), at)
	if err != nil || u.TotalBytes <= 0 || u.UsedBytes+u.AvailableBytes > u.TotalBytes {
		t.Errorf("got %+v, %v", u, err)
	}
	if err := m.Responds(t.Context(), at); err != nil {
		t.Error(err)
	}
}

// A dead device keeps statfs in the kernel. Whoever asks meanwhile, at whatever path, waits for the same one, and no longer than it may.
func TestStatsOfAFileSystemThatHangsAreAskedForOnce(t *testing.T) {
	k, m := newMachine(t)
	first, second, well := t.TempDir(), t.TempDir(), t.TempDir()
	k.line(first, "/", "259:3", "ext4", device, "rw", "rw")
	k.line(second, "/", "259:3", "ext4", device, "rw", "rw")
	k.line(well, "/", "259:4", "ext4", "/dev/nvme4n1", "rw", "rw")
	answer := make(chan struct{})
	var asked atomic.Int32
	m.statfs = func(path string, st *unix.Statfs_t) error {
		if path != well {
			asked.Add(1)
			<-answer
		}
		st.Blocks, st.Bsize = 5, 4096
		return nil
	}
	for _, path := range []string{first, second, first} {
		if _, err := m.Stats(soon(t), path); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := m.Stats(t.Context(), well); err != nil {
		t.Errorf("another file system: %v", err)
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	close(answer)
	if u, err := m.Stats(t.Context(), second); err != nil || u.TotalBytes != 5*4096 {
		t.Errorf("got %+v, %v", u, err)
	}
}
