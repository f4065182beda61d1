package sim

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
)

// writing keeps writing to the volume from a host of its own until stop is called,
// which returns what was written last where, and fails the test if a write failed.
func (c *testCluster) writing() (stop func() map[int64]uint64) {
	c.t.Helper()
	host := c.connect()
	ctx, cancel := context.WithCancel(context.Background())
	written := map[int64]uint64{}
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			for seed := uint64(1); ; seed++ {
				off := int64(seed%(volumeMiB*16)) * 64 << 10
				wctx, stop := context.WithTimeout(context.Background(), 30*time.Second)
				err := host.Write(wctx, 1, pattern(seed, 4096), off)
				stop()
				if err != nil {
					return fmt.Errorf("write %d: %w", seed, err)
				}
				written[off] = seed
				select {
				case <-ctx.Done():
					return nil
				default:
				}
			}
		}()
	}()
	return func() map[int64]uint64 {
		c.t.Helper()
		cancel()
		if err := <-done; err != nil {
			c.t.Fatal(err)
		}
		return written
	}
}

// holds checks that replicas hold what was written.
func (c *testCluster) holds(written map[int64]uint64, replicas ...int) {
	c.t.Helper()
	for _, i := range replicas {
		data := c.data(i)
		for off, seed := range written {
			if string(data[off:off+4096]) != string(pattern(seed, 4096)) {
				c.t.Fatalf("replica %d at %d does not hold write %d", i, off, seed)
			}
		}
	}
}

// legs are the names of the raid's legs, "" for an empty slot.
func (c *testCluster) legs() (names []string) {
	c.t.Helper()
	for _, l := range c.raid().Legs {
		if l.Name == nil || !l.Configured {
			names = append(names, "")
			continue
		}
		names = append(names, *l.Name)
	}
	return names
}

func (c *testCluster) ejected(i int) func() bool {
	return func() bool { return c.legs()[i] == "" }
}

func (c *testCluster) settled() bool { return c.raid().Process == nil }

func TestRaidWithAMissingLegWaitsForItAndThenComesUp(t *testing.T) {
	n := newNode(t, "n", nil)
	c := dialNode(t, n)
	cl := &testCluster{t: t, rpc: []*testClient{c}}
	c.ok("bdev_null_create", `{"name":"a","block_size":4096,"num_blocks":4096}`)
	c.ok("bdev_raid_create", `{"name":"vol","raid_level":"raid1","base_bdevs":["a","b"]}`)
	if r := cl.raid(); r.State != "configuring" || r.Discovered != 1 {
		t.Fatalf("raid with a missing leg: %+v", r)
	}
	c.fails(-19, "No such device", "bdev_get_bdevs", `{"name":"vol"}`)
	c.ok("bdev_null_create", `{"name":"b","block_size":4096,"num_blocks":4096}`)
	c.ok("bdev_get_bdevs", `{"name":"vol","timeout":5000}`)
	if r := cl.raid(); r.State != "online" || r.Discovered != 2 {
		t.Fatalf("raid with both legs: %+v", r)
	}
}

func TestDegradedStartOverNullPlaceholdersKeepsTheData(t *testing.T) {
	c := newCluster(t, nil)
	c.assemble()
	stop := c.writing()
	eventually(t, "writes have gone through", func() bool { return c.rpc[1].allocated("lvs/r") > 4 })
	written := stop()
	c.rpc[0].ok("bdev_raid_delete", `{"name":"vol"}`)
	c.rpc[0].ok("bdev_null_create", `{"name":"null","block_size":4096,"num_blocks":4096}`)
	c.rpc[0].ok("bdev_raid_create", `{"name":"vol","raid_level":"raid1","base_bdevs":["r0n1","null"]}`)
	c.rpc[0].ok("bdev_raid_remove_base_bdev", `{"name":"null"}`)
	c.rpc[0].ok("bdev_null_delete", `{"name":"null"}`)
	if r := c.raid(); r.State != "online" || r.Operational != 1 || r.Legs[1].Name != nil {
		t.Fatalf("degraded raid: %+v", r)
	}
	for off, seed := range written {
		mustHold(t, c.nodes[0], "vol", off, pattern(seed, 4096))
	}
}

func TestVolumeSurvivesTheDeathOfAReplicaUnderLoad(t *testing.T) {
	c := newCluster(t, nil)
	c.assemble()
	stop := c.writing()
	c.nodes[2].Kill()
	eventually(t, "the dead leg is ejected", c.ejected(2))
	eventually(t, "its controller is given up", func() bool { return c.ctrlrState(2) == "" })
	c.holds(stop(), 0, 1)
	if r := c.raid(); r.State != "online" || r.Operational != 2 {
		t.Errorf("raid without a leg: %+v", r)
	}
}

func TestVolumeSurvivesAReplicaThatHangsUnderLoad(t *testing.T) {
	c := newCluster(t, nil)
	c.assemble()
	stop := c.writing()
	c.nodes[1].Hang(true)
	eventually(t, "the hang is noticed", func() bool { return c.ctrlrState(1) == "resetting" })
	eventually(t, "the hung leg is ejected", c.ejected(1))
	written := stop()
	c.nodes[1].Hang(false)
	c.holds(written, 0, 2)
}

func TestVolumeSurvivesAReplicaThatIsFencedUnderLoad(t *testing.T) {
	c := newCluster(t, nil)
	c.assemble()
	stop := c.writing()
	c.rpc[1].ok("nvmf_subsystem_remove_host", fmt.Sprintf(`{"nqn":%q,"host":%q}`, replicaNQN(1), hostNQN))
	eventually(t, "the fenced leg is ejected", c.ejected(1))
	before := c.data(1)
	c.holds(stop(), 0, 2)
	if string(before) != string(c.data(1)) {
		t.Error("a fenced replica was written to")
	}
}

func TestReplicaWithoutSpaceIsEjectedWhileItsControllerStaysEnabled(t *testing.T) {
	c := newCluster(t, nil)
	c.assemble()
	stop := c.writing()
	if err := c.nodes[1].LimitPool("lvs", 2); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the leg without space is ejected", c.ejected(1))
	if got := c.ctrlrState(1); got != "enabled" {
		t.Errorf("its controller is %s", got)
	}
	c.holds(stop(), 0, 2)
}

func TestReplicaWithABrokenDiskIsEjectedOnAWrite(t *testing.T) {
	c := newCluster(t, nil)
	c.assemble()
	stop := c.writing()
	if err := c.nodes[2].SetDiskFault("lvs", DiskFault{WriteError: true}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the leg with the broken disk is ejected", c.ejected(2))
	c.holds(stop(), 0, 1)
}

func TestReadGoesOnFromAnotherLegWhereADiskDoesNotRead(t *testing.T) {
	c := newCluster(t, nil)
	c.assemble()
	host := c.connect()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	data := pattern(3, 65536)
	if err := host.Write(ctx, 1, data, 0); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if err := c.nodes[i].SetDiskFault("lvs", DiskFault{ReadError: true}); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, len(data))
	if err := host.Read(ctx, 1, got, 0); err != nil || string(got) != string(data) {
		t.Fatalf("read with one good leg of three: %v", err)
	}
}

func TestRemovingTheLastLegAnswersTrueAndTheRaidIsGone(t *testing.T) {
	c := newCluster(t, nil)
	c.assemble()
	for i := range 3 {
		c.rpc[0].ok("bdev_raid_remove_base_bdev", fmt.Sprintf(`{"name":"r%dn1"}`, i))
	}
	eventually(t, "the raid is gone", func() bool { return c.raid() == nil })
	c.rpc[0].fails(-19, "No such device", "bdev_get_bdevs", `{"name":"vol"}`)
}

func TestWriteFailsWhenNoLegIsLeft(t *testing.T) {
	c := newCluster(t, nil)
	c.assemble()
	host := c.connect()
	for _, n := range c.nodes {
		if err := n.SetDiskFault("lvs", DiskFault{WriteError: true}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := host.Write(ctx, 1, pattern(1, 4096), 0)
	var se *nvmetcp.StatusError
	if !errors.As(err, &se) {
		t.Fatalf("a write that no leg took: %v", err)
	}
}

// What comes in while a killed process is being ended was once answered as done, and a write lost with it.
func TestEndingProcessAnswersNoIO(t *testing.T) {
	c := newCluster(t, nil)
	c.assemble()
	p := c.nodes[0].process()
	p.spawns.Lock()
	p.ended = true
	p.spawns.Unlock()
	p.mu.Lock()
	vol := p.bdevs.byName("vol")
	p.mu.Unlock()
	cut, cancel := context.WithCancel(context.Background())
	cancel() // the host is cut off
	if err := vol.WriteAt(cut, pattern(1, 4096), 0); err == nil {
		t.Error("a write was answered as done")
	}
	if err := vol.ReadAt(cut, make([]byte, 4096), 0); err == nil {
		t.Error("a read was answered as done")
	}
}

// What a bdev supports is fixed when it is registered: a raid that began with a bdev_null in one of its slots never says that it can unmap.
// It does so all the same.
func TestRaidThatBeganWithANullBdevDeallocatesUnannounced(t *testing.T) {
	c := newCluster(t, nil)
	for i := range 2 {
		c.attach(i)
	}
	c.rpc[0].ok("bdev_null_create", fmt.Sprintf(`{"name":"null","num_blocks":%d,"block_size":4096}`, volumeMiB<<20/4096))
	c.rpc[0].ok("bdev_raid_create", `{"name":"vol","raid_level":"raid1","base_bdevs":["r0n1","r1n1","null"]}`)
	c.rpc[0].ok("bdev_raid_remove_base_bdev", `{"name":"null"}`)
	c.exportVolume()
	vol := decodeAs[[]struct {
		Supported map[string]bool `json:"supported_io_types"`
	}](t, c.rpc[0].ok("bdev_get_bdevs", `{"name":"vol"}`))
	if vol[0].Supported["unmap"] {
		t.Error("the raid says that it can unmap")
	}
	host := c.connect()
	mustWrite(t, c.nodes[0], "vol", 0, pattern(1, mib))
	if err := host.Deallocate(context.Background(), 1, 0, mib); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if n := c.rpc[i].allocated("lvs/r"); n != 0 {
			t.Errorf("replica %d keeps %d clusters", i, n)
		}
	}
}
