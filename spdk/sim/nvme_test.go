package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
)

func TestControllerOfADeadPeerIsDelayedThenGone(t *testing.T) {
	c := newCluster(t, nil)
	c.attach(1)
	c.nodes[1].Kill()
	eventually(t, "the controller waits to reconnect", func() bool { return c.ctrlrState(1) == "reconnect_is_delayed" })
	c.rpc[0].ok("bdev_get_bdevs", `{"name":"r1n1"}`)
	eventually(t, "the controller is given up", func() bool { return c.ctrlrState(1) == "" })
	c.rpc[0].fails(-19, "No such device", "bdev_get_bdevs", `{"name":"r1n1"}`)
	c.rpc[0].fails(-19, "No such device", "bdev_nvme_detach_controller", `{"name":"r1"}`)
	c.rpc[0].fails(-5, "Input/output error", "bdev_nvme_attach_controller", c.attachParams(1))
}

func TestControllerComesBackWhenItsPeerDoes(t *testing.T) {
	c := newCluster(t, nil)
	c.attach(1)
	mustWrite(t, c.nodes[0], "r1n1", 0, pattern(1, 4096))
	if err := c.nodes[1].Restart(); err != nil {
		t.Fatal(err)
	}
	c.rpc[1] = dialNode(t, c.nodes[1])
	eventually(t, "the controller waits to reconnect", func() bool { return c.ctrlrState(1) == "reconnect_is_delayed" })
	c.export(1)
	eventually(t, "the controller is enabled", func() bool { return c.ctrlrState(1) == "enabled" })
	mustHold(t, c.nodes[0], "r1n1", 0, pattern(1, 4096))
}

func TestHungPeerIsNotNoticedWithoutATimeout(t *testing.T) {
	c := newCluster(t, func(cfg *Config) {
		cfg.NVMeOptions = map[string]any{"action_on_timeout": "none", "timeout_us": 0, "keep_alive_timeout_ms": 2000}
	})
	c.attach(1)
	c.nodes[1].Hang(true)
	done := make(chan error, 1)
	go func() { done <- c.nodes[0].writeBdev("r1n1", 0, pattern(1, 4096)) }()
	select {
	case err := <-done:
		t.Fatalf("the write to a hung peer ended: %v", err)
	case <-time.After(4 * time.Second): // two keep-alive timeouts
	}
	if got := c.ctrlrState(1); got != "enabled" {
		t.Errorf("the controller is %s", got)
	}
	c.nodes[1].Kill()
	if err := <-done; err == nil {
		t.Error("the write to a dead peer was acknowledged")
	}
}

func TestHungPeerIsNoticedByItsKeepAlive(t *testing.T) {
	c := newCluster(t, nil)
	c.attach(1)
	c.nodes[1].Hang(true)
	eventually(t, "the hang is noticed", func() bool { return c.ctrlrState(1) == "resetting" })
	c.rpc[0].fails(-16, "Device or resource busy", "bdev_nvme_reset_controller", `{"name":"r1"}`)
	c.rpc[0].fails(-16, "Device or resource busy", "bdev_nvme_disable_controller", `{"name":"r1"}`)
	c.nodes[1].Hang(false)
	eventually(t, "the controller is enabled", func() bool { return c.ctrlrState(1) == "enabled" })
}

func TestIOTimeoutOfASlowDiskEjectsTheLeg(t *testing.T) {
	c := newCluster(t, func(cfg *Config) { cfg.NVMeOptions["timeout_us"] = 1000000 })
	c.assemble()
	stop := c.writing()
	if err := c.nodes[1].SetDiskFault("lvs", DiskFault{Hang: true}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the leg with the hung disk is ejected", c.ejected(1))
	if err := c.nodes[1].SetDiskFault("lvs", DiskFault{}); err != nil {
		t.Fatal(err)
	}
	c.holds(stop(), 0, 2)
}

func TestCutNetworkIsNoticedAndHealed(t *testing.T) {
	c := newCluster(t, nil)
	c.attach(1)
	c.net.Cut("n0", "n1", true)
	eventually(t, "the cut is noticed", func() bool { return c.ctrlrState(1) != "enabled" })
	c.net.Cut("n0", "n1", false)
	eventually(t, "the controller is enabled", func() bool { return c.ctrlrState(1) == "enabled" })
	mustWrite(t, c.nodes[0], "r1n1", 0, pattern(1, 4096))
	if string(c.data(1)[:4096]) != string(pattern(1, 4096)) {
		t.Error("the write over the healed network is not there")
	}
}

func TestNetworkCutInOneDirectionIsNoticedToo(t *testing.T) {
	c := newCluster(t, nil)
	c.attach(1)
	c.net.SetLink("n1", "n0", LinkFault{Cut: true})
	eventually(t, "the cut is noticed", func() bool { return c.ctrlrState(1) != "enabled" })
	c.net.SetLink("n1", "n0", LinkFault{})
	eventually(t, "the controller is enabled", func() bool { return c.ctrlrState(1) == "enabled" })
}

func TestVolumeSurvivesANetworkCutUnderLoad(t *testing.T) {
	c := newCluster(t, nil)
	c.assemble()
	stop := c.writing()
	c.net.Cut("n0", "n2", true)
	eventually(t, "the leg behind the cut is ejected", c.ejected(2))
	c.holds(stop(), 0, 1)
}

func TestResizeOfAReplicaReachesTheAttachedBdev(t *testing.T) {
	c := newCluster(t, nil)
	c.attach(1)
	c.rpc[1].ok("bdev_lvol_resize", `{"name":"lvs/r","size_in_mib":32}`)
	eventually(t, "the bdev has grown", func() bool { return c.rpc[0].lvol("r1n1").Blocks == 32*mib/4096 })
}

func TestResizeMissedByADisabledControllerStaysMissedUntilTheNext(t *testing.T) {
	c := newCluster(t, nil)
	c.attach(1)
	c.rpc[0].ok("bdev_nvme_disable_controller", `{"name":"r1"}`)
	c.rpc[1].ok("bdev_lvol_resize", `{"name":"lvs/r","size_in_mib":32}`)
	c.rpc[0].ok("bdev_nvme_enable_controller", `{"name":"r1"}`)
	c.rpc[0].ok("bdev_nvme_reset_controller", `{"name":"r1"}`)
	if got := c.rpc[0].lvol("r1n1").Blocks; got != volumeMiB*mib/4096 {
		t.Fatalf("the bdev has %d blocks", got)
	}
	c.rpc[1].ok("bdev_lvol_resize", `{"name":"lvs/r","size_in_mib":48}`)
	eventually(t, "the bdev has grown", func() bool { return c.rpc[0].lvol("r1n1").Blocks == 48*mib/4096 })
}

func TestRaidGrowsWithTheSmallestOfItsLegs(t *testing.T) {
	c := newCluster(t, nil)
	c.assemble()
	host := c.connect()
	for i := range 3 {
		c.rpc[i].ok("bdev_lvol_resize", `{"name":"lvs/r","size_in_mib":32}`)
	}
	eventually(t, "the raid has grown", func() bool { return c.rpc[0].lvol("vol").Blocks == 32*mib/4096 })
	eventually(t, "the host sees the new size", func() bool {
		nss, err := host.Namespaces(context.Background())
		return err == nil && len(nss) == 1 && nss[0].SizeBytes == 32*mib
	})
}

func TestOwnLvolWithItsOwnUUIDAttachesWithoutABdev(t *testing.T) {
	n := newNode(t, "n", nil)
	c := dialNode(t, n)
	c.thin("v", 4)
	port := freePort(t)
	nqn := "nqn.2026-01.dev.holdfast:self"
	c.ok("nvmf_create_subsystem", fmt.Sprintf(`{"nqn":%q,"allow_any_host":true}`, nqn))
	c.ok("nvmf_subsystem_add_ns", fmt.Sprintf(`{"nqn":%q,"namespace":{"bdev_name":"lvs/v"}}`, nqn))
	c.ok("nvmf_subsystem_add_listener", fmt.Sprintf(`{"nqn":%q,"listen_address":%s}`, nqn, tcpAddr(port)))
	got := c.ok("bdev_nvme_attach_controller", fmt.Sprintf(`{"name":"self","trtype":"TCP","adrfam":"IPv4","traddr":"127.0.0.1","trsvcid":%q,"subnqn":%q}`, port, nqn))
	if string(got) != "[]" {
		t.Fatalf("attached %s", got)
	}
}

func TestOptionsAreRefusedWhileAControllerIsAttached(t *testing.T) {
	c := newCluster(t, nil)
	c.attach(1)
	c.rpc[0].fails(-1, "RPC not permitted with nvme controllers already attached", "bdev_nvme_set_options", testNVMeOptions)
	c.rpc[0].ok("bdev_nvme_detach_controller", `{"name":"r1"}`)
	c.rpc[0].ok("bdev_nvme_set_options", testNVMeOptions)
}

func TestInaccessiblePathRefusesIOUntilOptimizedAgain(t *testing.T) {
	c := newCluster(t, nil)
	c.assemble()
	host := c.connect()
	set := func(state string) {
		c.rpc[0].ok("nvmf_subsystem_listener_set_ana_state", fmt.Sprintf(`{"nqn":%q,"listen_address":%s,"ana_state":%q}`, volumeNQN, tcpAddr(c.port), state))
	}
	set("inaccessible")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := host.Write(ctx, 1, pattern(1, 4096), 0)
	var se *nvmetcp.StatusError
	if !errors.As(err, &se) || !se.PathError() {
		t.Fatalf("write over an inaccessible path: %v", err)
	}
	set("optimized")
	if err := host.Write(ctx, 1, pattern(1, 4096), 0); err != nil {
		t.Fatal(err)
	}
}

func TestNamespaceChangeOfAnOwnExportFreezesAProcessWithASharedReactor(t *testing.T) {
	c := newCluster(t, func(cfg *Config) { cfg.SharedReactor = cfg.Name == "n0" })
	c.attach(0)
	c.rpc[0].ok("bdev_lvol_resize", `{"name":"lvs/r","size_in_mib":32}`)
	frozen := func() bool {
		conn := dialNode(t, c.nodes[0])
		conn.conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, err := conn.try("spdk_get_version", "")
		return err != nil
	}
	eventually(t, "the process stands still", frozen)
}

func TestPollGroupsOnTheirOwnCoresCureTheSharedReactor(t *testing.T) {
	n := newNode(t, "n0", func(cfg *Config) { cfg.WaitForRPC, cfg.SharedReactor = true, true })
	rpc := dialNode(t, n)
	rpc.fails(-32602, "Invalid parameters", "nvmf_set_config", `{"poll_groups_mask":"x"}`)
	rpc.ok("nvmf_set_config", `{"poll_groups_mask":"0x2"}`)
	rpc.ok("framework_start_init", "")
	rpc.thin("r", 4)
	c := &testCluster{t: t, nodes: []*Node{n}, rpc: []*testClient{rpc}, ports: []string{freePort(t)}}
	c.export(0)
	c.attach(0)
	rpc.ok("bdev_lvol_resize", `{"name":"lvs/r","size_in_mib":8}`)
	eventually(t, "the bdev has grown", func() bool { return rpc.lvol("r0n1").Blocks == 8*mib/4096 })
}

func TestRPCAnswersAreDelayedByTheLatency(t *testing.T) {
	n := newNode(t, "n", func(c *Config) { c.RPCLatency = 50 * time.Millisecond })
	c := dialNode(t, n)
	start := time.Now()
	c.ok("spdk_get_version", "")
	if time.Since(start) < 50*time.Millisecond {
		t.Error("the answer came before the latency was over")
	}
}

func TestControllersAreListedWithTheirPaths(t *testing.T) {
	c := newCluster(t, nil)
	c.attach(1)
	got := decodeAs[[]struct {
		Name   string `json:"name"`
		Ctrlrs []struct {
			CNTLID int             `json:"cntlid"`
			TrID   json.RawMessage `json:"trid"`
		} `json:"ctrlrs"`
	}](t, c.rpc[0].ok("bdev_nvme_get_controllers", ""))
	if len(got) != 1 || len(got[0].Ctrlrs) != 1 || !strings.Contains(string(got[0].Ctrlrs[0].TrID), c.ports[1]) {
		t.Errorf("controllers: %+v", got)
	}
}
