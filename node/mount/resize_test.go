package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const xfsDevice = "/dev/nvme4n1"

// resizable is a machine with an ext4 and an xfs mounted, whose file systems have as many blocks of 4 KiB as their tools say and their
// devices as many bytes.
func resizable(t *testing.T, blocks, bytes int64) (*machine, *Mounter) {
	t.Helper()
	k, m := newMachine(t)
	k.line("/mnt/e", "/", "259:3", "ext4", device, "rw", "rw")
	k.line("/mnt/x", "/", "259:4", "xfs", xfsDevice, "rw", "rw")
	for _, number := range []string{"259:3", "259:4"} {
		dir := filepath.Join(m.sysRoot, "dev", "block", number)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "size"), fmt.Appendf(nil, "%d\n", bytes/512), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	k.do["dumpe2fs"] = func([]string) (string, int) {
		return fmt.Sprintf("dumpe2fs 1.47.0 (5-Feb-2023)\nFilesystem volume name:   <none>\nInode count:              81920\nBlock count:              %d\nReserved block count:     0\nBlock size:               4096\n", blocks), 0
	}
	k.do["xfs_growfs"] = func(args []string) (string, int) {
		return fmt.Sprintf("meta-data=/dev/nvme4n1           isize=512    agcount=4, agsize=20480 blks\ndata     =                       bsize=4096   blocks=%d, imaxpct=25\nlog      =internal log           bsize=4096   blocks=16384, version=2\n", blocks), 0
	}
	return k, m
}

func TestResizeGrowsTheFileSystemThatIsMountedAndReadsItBack(t *testing.T) {
	k, m := resizable(t, 81920, 320*mib)
	if err := errors.Join(m.Resize(t.Context(), device, "/mnt/e"), m.Resize(t.Context(), xfsDevice, "/mnt/x")); err != nil {
		t.Fatal(err)
	}
	want := []string{"resize2fs " + device, "dumpe2fs -h " + device, "xfs_growfs /mnt/x", "xfs_growfs -n /mnt/x"}
	if got := k.commands(); !slices.Equal(got, want) {
		t.Errorf("ran %q", got)
	}
	if err := m.Resize(t.Context(), device, "/mnt/x"); !errors.Is(err, ErrOtherMount) {
		t.Errorf("another device: %v", err)
	}
	if err := m.Resize(t.Context(), device, "/mnt/none"); !errors.Is(err, ErrNotMounted) {
		t.Errorf("nothing mounted: %v", err)
	}
}

func TestFileSystemThatKeptItsSizeIsNoSuccess(t *testing.T) {
	_, m := resizable(t, 81920, 640*mib)
	for at, device := range map[string]string{"/mnt/e": device, "/mnt/x": xfsDevice} {
		if err := m.Resize(t.Context(), device, at); err == nil || !strings.Contains(err.Error(), "335544320 bytes") {
			t.Errorf("%s: %v", at, err)
		}
	}
}

func TestFileSystemMayLeaveItsLastGroupUnused(t *testing.T) {
	_, m := resizable(t, 81920, 324*mib)
	if err := m.Resize(t.Context(), device, "/mnt/e"); err != nil {
		t.Error(err)
	}
}

func TestSizeThatCannotBeReadBackIsAnError(t *testing.T) {
	k, m := resizable(t, 81920, 320*mib)
	k.do["dumpe2fs"] = func([]string) (string, int) { return "Block size:               4096\n", 0 }
	if err := m.Resize(t.Context(), device, "/mnt/e"); err == nil {
		t.Error("a size was made up")
	}
}
