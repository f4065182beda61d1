package mount

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sparse is a file in a device's place, with a byte set where wanted.
func sparse(t *testing.T, size int64, nonzeroAt ...int64) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, at := range nonzeroAt {
		if _, err := f.WriteAt([]byte{1}, at); err != nil {
			t.Fatal(err)
		}
	}
	return f.Name()
}

func says(out string) func([]string) (string, int) {
	return func([]string) (string, int) { return out, 0 }
}

func TestBlankNeedsBlkidAndZeroes(t *testing.T) {
	const size = 200 * mib
	for name, c := range map[string]struct {
		disk  string
		blkid func([]string) (string, int)
		want  Content
		fails bool
	}{
		"blank":                       {sparse(t, size), exits(2), Content{SizeBytes: size, Blank: true}, false},
		"first byte":                  {sparse(t, size, 0), exits(2), Content{SizeBytes: size}, false},
		"in the head":                 {sparse(t, size, 4*mib-1), exits(2), Content{SizeBytes: size}, false},
		"last byte":                   {sparse(t, size, size-1), exits(2), Content{SizeBytes: size}, false},
		"ext4's backup superblock":    {sparse(t, size, 128*mib+56), exits(2), Content{SizeBytes: size}, false},
		"an xfs allocation group":     {sparse(t, size, size/2), exits(2), Content{SizeBytes: size}, false},
		"a file system":               {sparse(t, size, 1080), says("DEVNAME=x\nUUID=u-1\nLABEL=l\nTYPE=ext4\nUSAGE=filesystem\n"), Content{SizeBytes: size, FSType: "ext4", UUID: "u-1", Label: "l"}, false},
		"a partition table":           {sparse(t, size, 511), says("PTUUID=x\nPTTYPE=gpt\n"), Content{SizeBytes: size, PartTable: "gpt"}, false},
		"blkid finds it in zeroes":    {sparse(t, size), says("TYPE=ext4\n"), Content{}, true},
		"blkid finds nothing to name": {sparse(t, size, 9), says("DEVNAME=x\n"), Content{}, true},
		"ambivalent":                  {sparse(t, size), exits(8), Content{}, true},
		"blkid's error":               {sparse(t, size), exits(4), Content{}, true},
		"blkid killed":                {sparse(t, size), exits(137), Content{}, true},
		"blkid not installed":         {sparse(t, size), exits(missing), Content{}, true},
		"no device":                   {"/no/such/device", exits(2), Content{}, true},
		"no size":                     {sparse(t, 0), exits(2), Content{}, true},
	} {
		k, m := newMachine(t)
		k.do["blkid"] = c.blkid
		got, err := m.Probe(t.Context(), c.disk)
		if (err != nil) != c.fails || got != c.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if err := m.Format(t.Context(), c.disk, FormatOptions{FSType: Ext4}); (err == nil) != c.want.Blank {
			t.Errorf("%s: format: %v", name, err)
		} else if !c.fails && err != nil && !errors.Is(err, ErrNotBlank) {
			t.Errorf("%s: format: %v", name, err)
		}
	}
}

func TestFormatOverwritesOnlyItsOwnUnfinishedWork(t *testing.T) {
	k, m := newMachine(t)
	k.do["blkid"] = says("TYPE=xfs\n")
	disk := sparse(t, 8*mib, 0)
	if err := m.Format(t.Context(), disk, FormatOptions{FSType: XFS, Unfinished: true}); err != nil {
		t.Fatal(err)
	}
	ran := k.commands()
	if last := ran[len(ran)-1]; last != "mkfs.xfs -q -K -f "+disk {
		t.Errorf("ran %q", last)
	}
	k.do["blkid"] = exits(4)
	if err := m.Format(t.Context(), disk, FormatOptions{FSType: XFS, Unfinished: true}); err == nil {
		t.Error("formatted what could not be probed")
	}
}

func TestFormatNeverForcesABlankDevice(t *testing.T) {
	k, m := newMachine(t)
	k.do["blkid"] = exits(2)
	disk := sparse(t, 8*mib)
	if err := m.Format(t.Context(), disk, FormatOptions{FSType: XFS, Args: []string{"-i", "size=512"}}); err != nil {
		t.Fatal(err)
	}
	if err := m.Format(t.Context(), disk, FormatOptions{FSType: "btrfs"}); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	ran := k.commands()
	if last := ran[len(ran)-1]; last != "mkfs.xfs -q -K -i size=512 "+disk {
		t.Errorf("ran %q", last)
	}
	if err := m.Format(t.Context(), disk, FormatOptions{FSType: Ext4, Args: []string{"-E", "lazy_itable_init=0", "-m", "2"}}); err != nil {
		t.Fatal(err)
	}
	ran = k.commands()
	if last := ran[len(ran)-1]; last != "mkfs.ext4 -q -F -m0 -E lazy_itable_init=0,nodiscard -m 2 "+disk {
		t.Errorf("ran %q", last)
	}
	k.do["mkfs.ext4"] = exits(1)
	if err := m.Format(t.Context(), disk, FormatOptions{FSType: Ext4}); err == nil || !strings.Contains(err.Error(), "said so") {
		t.Errorf("mkfs failed: %v", err)
	}
}

func TestSpansLieInTheDeviceAndCoverItsEnds(t *testing.T) {
	for _, size := range []int64{mib, mib + 512, 4 * mib, 5*mib + 4096, 64 * mib, 300 * mib, 1 << 40, 1<<40 + 4096} {
		all := spans(size)
		if all[0].from != 0 || all[0].to != min(size, 4*mib) || all[1].to != size || all[1].from > size-mib {
			t.Errorf("%d: ends: %v", size, all[:2])
		}
		for _, s := range all {
			if s.from < 0 || s.to > size || s.from >= s.to || s.from%directAlign != 0 || s.to-s.from > 4*mib {
				t.Errorf("%d: %v", size, s)
			}
		}
	}
}
