package sim

import (
	"bytes"
	"context"
	"fmt"
	"testing"
)

// openForTest opens a bdev as a module of the process would, without claiming it.
func (n *Node) openForTest(name string) (*bdev, func(), error) {
	p := n.process()
	var d *desc
	var rc errno
	p.locked(func() { d, rc = p.bdevs.open(name, false, nil) })
	if rc != 0 {
		return nil, nil, rc
	}
	return d.b, func() { p.locked(d.close) }, nil
}

// testChunk is the largest I/O of the tests, as of a host.
const testChunk = 128 << 10

// writeBdev writes to a bdev from within the process.
func (n *Node) writeBdev(name string, off int64, data []byte) error {
	b, release, err := n.openForTest(name)
	if err != nil {
		return err
	}
	defer release()
	for len(data) > 0 {
		k := min(len(data), testChunk)
		if err := b.WriteAt(context.Background(), data[:k], off); err != nil {
			return err
		}
		data, off = data[k:], off+int64(k)
	}
	return nil
}

// readBdev reads from a bdev from within the process.
func (n *Node) readBdev(t testing.TB, name string, off int64, size int) []byte {
	t.Helper()
	b, release, err := n.openForTest(name)
	if err != nil {
		t.Fatalf("open %s: %v", name, err)
	}
	defer release()
	data := make([]byte, size)
	for at := 0; at < size; at += testChunk {
		if err := b.ReadAt(context.Background(), data[at:min(at+testChunk, size)], off+int64(at)); err != nil {
			t.Fatalf("read %s: %v", name, err)
		}
	}
	return data
}

func (n *Node) unmapBdev(t testing.TB, name string, off, size int64) {
	t.Helper()
	b, release, err := n.openForTest(name)
	if err != nil {
		t.Fatalf("open %s: %v", name, err)
	}
	defer release()
	if err := b.Unmap(context.Background(), off, size); err != nil {
		t.Fatalf("unmap %s: %v", name, err)
	}
}

func mustWrite(t testing.TB, n *Node, name string, off int64, data []byte) {
	t.Helper()
	if err := n.writeBdev(name, off, data); err != nil {
		t.Fatalf("write %s: %v", name, err)
	}
}

func mustHold(t testing.TB, n *Node, name string, off int64, want []byte) {
	t.Helper()
	if !bytes.Equal(n.readBdev(t, name, off, len(want)), want) {
		t.Fatalf("%s holds something else than expected", name)
	}
}

type testLvol struct {
	Blocks uint64 `json:"num_blocks"`
	Driver struct {
		Lvol struct {
			Thin      bool     `json:"thin_provision"`
			Allocated int      `json:"num_allocated_clusters"`
			Snapshot  bool     `json:"snapshot"`
			Clone     bool     `json:"clone"`
			Base      string   `json:"base_snapshot"`
			Clones    []string `json:"clones"`
		} `json:"lvol"`
	} `json:"driver_specific"`
}

func (c *testClient) lvol(name string) testLvol {
	c.t.Helper()
	return decodeAs[[]testLvol](c.t, c.ok("bdev_get_bdevs", fmt.Sprintf(`{"name":%q}`, name)))[0]
}

func (c *testClient) allocated(name string) int { return c.lvol(name).Driver.Lvol.Allocated }

// free is the number of free clusters of a pool.
func (c *testClient) free(pool string) int {
	c.t.Helper()
	return decodeAs[[]struct {
		Free int `json:"free_clusters"`
	}](c.t, c.ok("bdev_lvol_get_lvstores", fmt.Sprintf(`{"lvs_name":%q}`, pool)))[0].Free
}

// thin creates a thin lvol in "lvs".
func (c *testClient) thin(name string, mib int) {
	c.t.Helper()
	c.ok("bdev_lvol_create", fmt.Sprintf(`{"lvs_name":"lvs","lvol_name":%q,"size_in_mib":%d,"thin_provision":true}`, name, mib))
}
