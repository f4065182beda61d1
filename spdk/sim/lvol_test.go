package sim

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
)

const mib = 1 << 20

func TestThinLvolTakesClustersWhenWrittenAndGivesThemBackWhenUnmapped(t *testing.T) {
	n := newNode(t, "n", nil)
	c := dialNode(t, n)
	c.thin("v", 16)
	before := c.free("lvs")
	data := pattern(1, 4096)
	mustWrite(t, n, "lvs/v", 3*mib, data)
	mustWrite(t, n, "lvs/v", 3*mib+8192, data)
	mustWrite(t, n, "lvs/v", 5*mib, data)
	if got := c.allocated("lvs/v"); got != 2 || c.free("lvs") != before-2 {
		t.Fatalf("%d clusters allocated, %d of %d free", got, c.free("lvs"), before)
	}
	mustHold(t, n, "lvs/v", 3*mib+4096, make([]byte, 4096))
	n.unmapBdev(t, "lvs/v", 3*mib, 4096)
	if got := c.allocated("lvs/v"); got != 2 {
		t.Fatalf("unmapping a part of a cluster left %d clusters", got)
	}
	n.unmapBdev(t, "lvs/v", 3*mib, mib)
	if got := c.allocated("lvs/v"); got != 1 || c.free("lvs") != before-1 {
		t.Fatalf("after unmapping a cluster: %d allocated, %d of %d free", got, c.free("lvs"), before)
	}
	mustHold(t, n, "lvs/v", 3*mib, make([]byte, mib))
	mustHold(t, n, "lvs/v", 5*mib, data)
}

func TestWriteFailsForWantOfSpaceWhenThePoolIsFull(t *testing.T) {
	n := newNode(t, "n", nil)
	c := dialNode(t, n)
	c.thin("v", 1024)
	total := c.free("lvs")
	mustWrite(t, n, "lvs/v", 0, pattern(1, 4096))
	c.fails(-32602, "No space left on device", "bdev_lvol_create", fmt.Sprintf(`{"lvs_name":"lvs","lvol_name":"thick","size_in_mib":%d}`, total))
	c.ok("bdev_lvol_create", fmt.Sprintf(`{"lvs_name":"lvs","lvol_name":"thick","size_in_mib":%d}`, total-1))
	if got := c.free("lvs"); got != 0 {
		t.Fatalf("%d clusters are free in a full pool", got)
	}
	if err := n.writeBdev("lvs/v", 900*mib, pattern(1, 4096)); !errors.Is(err, errNOSPC) {
		t.Fatalf("a write that needs a cluster of a full pool: %v", err)
	}
	mustWrite(t, n, "lvs/v", 8192, pattern(2, 4096))
	c.ok("bdev_lvol_delete", `{"name":"lvs/thick"}`)
	mustWrite(t, n, "lvs/v", 900*mib, pattern(1, 4096))
}

func TestLimitPoolMakesWritesFailUntilLifted(t *testing.T) {
	n := newNode(t, "n", nil)
	c := dialNode(t, n)
	c.thin("v", 16)
	mustWrite(t, n, "lvs/v", 0, pattern(1, 4096))
	if err := n.LimitPool("lvs", 1); err != nil {
		t.Fatal(err)
	}
	if err := n.writeBdev("lvs/v", mib, pattern(1, 4096)); !errors.Is(err, errNOSPC) {
		t.Fatalf("write beyond the limit: %v", err)
	}
	if err := n.LimitPool("lvs", -1); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, n, "lvs/v", mib, pattern(1, 4096))
}

func TestThickLvolReadsZeroesWhereAnotherHasBeen(t *testing.T) {
	for _, noUnmap := range []bool{false, true} {
		n := newNode(t, "n", func(c *Config) { c.Pools[0].NoUnmap = noUnmap })
		c := dialNode(t, n)
		c.ok("bdev_lvol_create", `{"lvs_name":"lvs","lvol_name":"a","size_in_mib":4}`)
		old := pattern(1, 4*mib)
		mustWrite(t, n, "lvs/a", 0, old)
		c.ok("bdev_lvol_delete", `{"name":"lvs/a"}`)
		c.ok("bdev_lvol_create", `{"lvs_name":"lvs","lvol_name":"b","size_in_mib":4}`)
		got := n.readBdev(t, "lvs/b", 0, 4*mib)
		if zero := bytes.Equal(got, make([]byte, len(got))); zero == noUnmap {
			t.Errorf("without unmap %v: the new lvol reads zeroes: %v", noUnmap, zero)
		}
	}
}

func TestSnapshotKeepsWhatItsLvolOverwrites(t *testing.T) {
	n := newNode(t, "n", nil)
	c := dialNode(t, n)
	c.thin("v", 8)
	first, second := pattern(1, 2*mib), pattern(2, 4096)
	mustWrite(t, n, "lvs/v", 0, first)
	c.ok("bdev_lvol_snapshot", `{"lvol_name":"lvs/v","snapshot_name":"s"}`)
	if c.allocated("lvs/v") != 0 || c.allocated("lvs/s") != 2 {
		t.Fatalf("after a snapshot: lvol %d, snapshot %d clusters", c.allocated("lvs/v"), c.allocated("lvs/s"))
	}
	mustWrite(t, n, "lvs/v", 4096, second)
	if got := c.allocated("lvs/v"); got != 1 {
		t.Fatalf("a write to shared data allocated %d clusters", got)
	}
	mustHold(t, n, "lvs/s", 0, first)
	mustHold(t, n, "lvs/v", 0, append(append(append([]byte{}, first[:4096]...), second...), first[8192:]...))
	if err := n.writeBdev("lvs/s", 0, second); err == nil {
		t.Fatal("a snapshot took a write")
	}
	n.unmapBdev(t, "lvs/v", mib, mib)
	mustHold(t, n, "lvs/s", 0, first)
}

func TestDeletingASnapshotGivesItsClustersToItsOneClone(t *testing.T) {
	n := newNode(t, "n", nil)
	c := dialNode(t, n)
	c.thin("v", 8)
	data := pattern(1, 2*mib)
	mustWrite(t, n, "lvs/v", 0, data)
	c.ok("bdev_lvol_snapshot", `{"lvol_name":"lvs/v","snapshot_name":"s"}`)
	c.ok("bdev_lvol_clone", `{"snapshot_name":"lvs/s","clone_name":"k"}`)
	c.fails(-32603, "Operation not permitted", "bdev_lvol_delete", `{"name":"lvs/s"}`)
	mustHold(t, n, "lvs/k", 0, data)
	c.ok("bdev_lvol_delete", `{"name":"lvs/k"}`)
	free := c.free("lvs")
	c.ok("bdev_lvol_delete", `{"name":"lvs/s"}`)
	if got := c.lvol("lvs/v").Driver.Lvol; got.Allocated != 2 || got.Clone || c.free("lvs") != free {
		t.Fatalf("after the snapshot's end: %+v, %d free, %d before", got, c.free("lvs"), free)
	}
	mustHold(t, n, "lvs/v", 0, data)
}

func TestInflateAndDecoupleMakeACloneStandAlone(t *testing.T) {
	for _, method := range []string{"bdev_lvol_inflate", "bdev_lvol_decouple_parent"} {
		n := newNode(t, "n", nil)
		c := dialNode(t, n)
		c.thin("v", 8)
		data := pattern(1, 2*mib)
		mustWrite(t, n, "lvs/v", 0, data)
		c.ok("bdev_lvol_snapshot", `{"lvol_name":"lvs/v","snapshot_name":"s"}`)
		c.ok("bdev_lvol_clone", `{"snapshot_name":"lvs/s","clone_name":"k"}`)
		c.ok(method, `{"name":"lvs/k"}`)
		want := 2
		if method == "bdev_lvol_inflate" {
			want = 8
		}
		if got := c.lvol("lvs/k").Driver.Lvol; got.Allocated != want || got.Clone {
			t.Errorf("after %s: %+v, want %d clusters", method, got, want)
		}
		mustHold(t, n, "lvs/k", 0, append(append([]byte{}, data...), make([]byte, mib)...))
		c.ok("bdev_lvol_delete", `{"name":"lvs/s"}`)
		mustHold(t, n, "lvs/k", 0, data)
	}
}

func TestShallowCopyCopiesWhatTheSnapshotHasOfItsOwn(t *testing.T) {
	n := newNode(t, "n", nil)
	c := dialNode(t, n)
	c.thin("v", 4)
	data := pattern(1, mib)
	mustWrite(t, n, "lvs/v", 2*mib, data)
	c.ok("bdev_lvol_snapshot", `{"lvol_name":"lvs/v","snapshot_name":"s"}`)
	c.thin("copy", 4)
	id := decodeAs[struct {
		ID int `json:"operation_id"`
	}](t, c.ok("bdev_lvol_start_shallow_copy", `{"src_lvol_name":"lvs/s","dst_bdev_name":"lvs/copy"}`)).ID
	eventually(t, "the copy is complete", func() bool {
		return strings.Contains(string(c.ok("bdev_lvol_check_shallow_copy", fmt.Sprintf(`{"operation_id":%d}`, id))), "complete")
	})
	mustHold(t, n, "lvs/copy", 2*mib, data)
	if got := c.allocated("lvs/copy"); got != 1 {
		t.Errorf("the copy has %d clusters, want the 1 that the source has", got)
	}
}

func TestPoolsSurviveARestartAndNothingElseDoes(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		n := newNode(t, "n", func(c *Config) { c.Dir = dir })
		c := dialNode(t, n)
		c.thin("v", 4)
		data := pattern(1, 4096)
		mustWrite(t, n, "lvs/v", mib, data)
		c.ok("bdev_lvol_snapshot", `{"lvol_name":"lvs/v","snapshot_name":"s"}`)
		c.ok("bdev_null_create", `{"name":"null","block_size":4096,"num_blocks":256}`)
		c.ok("nvmf_create_subsystem", `{"nqn":"nqn.2026-01.dev.holdfast:x"}`)
		if err := n.Restart(); err != nil {
			t.Fatal(err)
		}
		c = dialNode(t, n)
		mustHold(t, n, "lvs/v", mib, data)
		if got := c.lvol("lvs/v").Driver.Lvol; got.Base != "s" {
			t.Errorf("the lvol came back as %+v", got)
		}
		c.fails(-19, "No such device", "bdev_get_bdevs", `{"name":"null"}`)
		c.fails(-32602, "Subsystem with NQN 'nqn.2026-01.dev.holdfast:x' not found", "nvmf_get_subsystems", `{"nqn":"nqn.2026-01.dev.holdfast:x"}`)
	}
}

func TestRenamingAnLvolTo64CharactersLosesItsPoolAtTheNextStart(t *testing.T) {
	n := newNode(t, "n", nil)
	c := dialNode(t, n)
	c.thin("v", 4)
	c.ok("bdev_lvol_rename", fmt.Sprintf(`{"old_name":"lvs/v","new_name":%q}`, strings.Repeat("x", 64)))
	if err := n.Restart(); err != nil {
		t.Fatal(err)
	}
	c = dialNode(t, n)
	c.fails(-19, "No such device", "bdev_lvol_get_lvstores", `{"lvs_name":"lvs"}`)
	c.ok("bdev_lvol_create_lvstore", `{"bdev_name":"aio_lvs","lvs_name":"lvs"}`)
}

func TestShrinkingAnExportedLvolIsRefusedAndTruncatesItAllTheSame(t *testing.T) {
	n := newNode(t, "n", nil)
	c := dialNode(t, n)
	c.thin("v", 8)
	c.ok("nvmf_create_subsystem", `{"nqn":"nqn.2026-01.dev.holdfast:x"}`)
	c.ok("nvmf_subsystem_add_ns", `{"nqn":"nqn.2026-01.dev.holdfast:x","namespace":{"bdev_name":"lvs/v"}}`)
	c.fails(-32602, "Device or resource busy", "bdev_lvol_resize", `{"name":"lvs/v","size_in_mib":4}`)
	if got := c.lvol("lvs/v").Blocks; got != 8*mib/4096 {
		t.Fatalf("the bdev has %d blocks", got)
	}
	if err := n.Restart(); err != nil {
		t.Fatal(err)
	}
	if got := dialNode(t, n).lvol("lvs/v").Blocks; got != 4*mib/4096 {
		t.Fatalf("after a restart the lvol has %d blocks", got)
	}
}
