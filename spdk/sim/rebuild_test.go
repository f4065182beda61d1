package sim

import (
	"bytes"
	"fmt"
	"testing"
)

// degrade writes, removes leg i, writes more and leaves the raid one leg short.
func (c *testCluster) degrade(i int) {
	c.t.Helper()
	c.assemble()
	mustWrite(c.t, c.nodes[0], "vol", 0, pattern(1, 2*mib))
	c.rpc[0].ok("bdev_raid_remove_base_bdev", fmt.Sprintf(`{"name":"r%dn1"}`, i))
	mustWrite(c.t, c.nodes[0], "vol", mib, pattern(2, 2*mib))
}

func TestRebuildMakesReplicasIdenticalAndInflatesTheThinOne(t *testing.T) {
	c := newCluster(t, nil)
	c.degrade(2)
	if bytes.Equal(c.data(0), c.data(2)) {
		t.Fatal("the removed replica was written to")
	}
	c.rpc[0].ok("bdev_raid_add_base_bdev", `{"raid_bdev":"vol","base_bdev":"r2n1"}`)
	eventually(t, "the rebuild is over", c.settled)
	if got := c.legs(); got[2] != "r2n1" {
		t.Fatalf("legs after the rebuild: %v", got)
	}
	if !bytes.Equal(c.data(0), c.data(2)) {
		t.Error("the rebuilt replica differs")
	}
	if got := c.rpc[2].allocated("lvs/r"); got != volumeMiB {
		t.Errorf("the rebuilt replica has %d clusters, want all %d", got, volumeMiB)
	}
}

func TestWritesDuringARebuildReachTheRebuiltReplica(t *testing.T) {
	c := newCluster(t, nil)
	c.rpc[0].ok("bdev_raid_set_options", `{"process_max_bandwidth_mb_sec":8}`)
	c.degrade(1)
	stop := c.writing()
	c.rpc[0].ok("bdev_raid_add_base_bdev", `{"raid_bdev":"vol","base_bdev":"r1n1"}`)
	r := c.raid()
	if r.Process == nil || r.Process.Type != "rebuild" || r.Process.Target != "r1n1" || !r.Legs[1].Configured {
		t.Fatalf("raid at the start of a rebuild: %+v", r)
	}
	eventually(t, "the rebuild is over", c.settled)
	c.holds(stop(), 0, 1, 2)
	if !bytes.Equal(c.data(0), c.data(1)) {
		t.Error("the rebuilt replica differs")
	}
}

func TestOnlyOneRebuildAtATime(t *testing.T) {
	c := newCluster(t, nil)
	c.rpc[0].ok("bdev_raid_set_options", `{"process_max_bandwidth_mb_sec":1}`)
	c.degrade(1)
	c.rpc[0].ok("bdev_raid_remove_base_bdev", `{"name":"r2n1"}`)
	c.rpc[0].ok("bdev_raid_add_base_bdev", `{"raid_bdev":"vol","base_bdev":"r1n1"}`)
	c.rpc[0].fails(-1, "Failed to add base bdev r2n1 to RAID bdev vol: Operation not permitted",
		"bdev_raid_add_base_bdev", `{"raid_bdev":"vol","base_bdev":"r2n1"}`)
	c.rpc[0].ok("bdev_raid_remove_base_bdev", `{"name":"r1n1"}`)
	eventually(t, "the rebuild has stopped", c.settled)
	if got := c.legs(); got[0] != "r0n1" || got[1] != "" {
		t.Errorf("legs after the rebuild's target was removed: %v", got)
	}
}

func TestFailedWriteToTheRebuiltPartKillsTheRaidHost(t *testing.T) {
	c := newCluster(t, nil)
	c.rpc[0].ok("bdev_raid_set_options", `{"process_max_bandwidth_mb_sec":4}`)
	c.degrade(1)
	c.rpc[0].ok("bdev_raid_add_base_bdev", `{"raid_bdev":"vol","base_bdev":"r1n1"}`)
	c.rebuiltPart(1)
	if err := c.nodes[2].SetDiskFault("lvs", DiskFault{WriteError: true}); err != nil {
		t.Fatal(err)
	}
	if err := c.nodes[0].writeBdev("vol", 0, pattern(9, 4096)); err == nil {
		t.Fatal("the write was acknowledged")
	}
	eventually(t, "the raid host is dead", func() bool { return !c.nodes[0].Running() })
	if err := c.nodes[0].Restart(); err != nil {
		t.Fatal(err)
	}
}

func TestRepairedRaidSurvivesAFailedWriteToTheRebuiltPart(t *testing.T) {
	c := newCluster(t, func(cfg *Config) { cfg.SurviveRebuildErrors = true })
	c.rpc[0].ok("bdev_raid_set_options", `{"process_max_bandwidth_mb_sec":4}`)
	c.degrade(1)
	c.rpc[0].ok("bdev_raid_add_base_bdev", `{"raid_bdev":"vol","base_bdev":"r1n1"}`)
	c.rebuiltPart(1)
	if err := c.nodes[1].SetDiskFault("lvs", DiskFault{WriteError: true}); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, c.nodes[0], "vol", 0, pattern(9, 4096))
	eventually(t, "the rebuild has failed", c.settled)
	eventually(t, "its target is ejected", c.ejected(1))
	mustHold(t, c.nodes[0], "vol", 0, pattern(9, 4096))
}

// rebuiltPart waits until the rebuild has copied the first MiB to replica i.
func (c *testCluster) rebuiltPart(i int) {
	c.t.Helper()
	eventually(c.t, "the rebuild has begun", func() bool { return bytes.Equal(c.data(i)[mib:mib+4096], pattern(2, 4096)) })
}
