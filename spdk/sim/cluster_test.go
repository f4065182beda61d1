package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
)

// testCluster is three nodes, a replica lvol "lvs/r" on each, exported, and a raid
// "vol" over them on the first, exported as well.
type testCluster struct {
	t     testing.TB
	net   *Network
	nodes []*Node
	rpc   []*testClient
	ports []string
	port  string // the volume's
}

const (
	volumeNQN = "nqn.2026-01.dev.holdfast:vol"
	hostNQN   = "nqn.2026-01.dev.holdfast:host"
	volumeMiB = 16
	// The options under which time tests run: everything is noticed within a second
	// or two.
	testNVMeOptions = `{"action_on_timeout":"reset","timeout_us":60000000,"keep_alive_timeout_ms":2000}`
)

func replicaNQN(i int) string { return fmt.Sprintf("nqn.2026-01.dev.holdfast:r%d", i) }

func newCluster(t testing.TB, change func(*Config)) *testCluster {
	t.Helper()
	c := &testCluster{t: t, net: NewNetwork(nil), port: freePort(t)}
	for i := range 3 {
		n := newNode(t, fmt.Sprintf("n%d", i), func(cfg *Config) {
			cfg.Network = c.net
			json.Unmarshal([]byte(testNVMeOptions), &cfg.NVMeOptions)
			if change != nil {
				change(cfg)
			}
		})
		c.nodes = append(c.nodes, n)
		c.rpc = append(c.rpc, dialNode(t, n))
		c.ports = append(c.ports, freePort(t))
		c.rpc[i].ok("bdev_lvol_create", fmt.Sprintf(`{"lvs_name":"lvs","lvol_name":"r","size_in_mib":%d,"thin_provision":true}`, volumeMiB))
		c.export(i)
	}
	return c
}

// export exports node i's replica to the raid host.
func (c *testCluster) export(i int) {
	c.t.Helper()
	c.rpc[i].ok("nvmf_create_subsystem", fmt.Sprintf(`{"nqn":%q,"max_namespaces":1}`, replicaNQN(i)))
	c.rpc[i].ok("nvmf_subsystem_add_ns", fmt.Sprintf(`{"nqn":%q,"namespace":{"bdev_name":"lvs/r","nguid":"%032X","uuid":"%08d-0000-4000-8000-000000000000"}}`, replicaNQN(i), i+1, i+1))
	c.rpc[i].ok("nvmf_subsystem_add_host", fmt.Sprintf(`{"nqn":%q,"host":%q}`, replicaNQN(i), hostNQN))
	c.rpc[i].ok("nvmf_subsystem_add_listener", fmt.Sprintf(`{"nqn":%q,"listen_address":%s}`, replicaNQN(i), tcpAddr(c.ports[i])))
}

func tcpAddr(port string) string {
	return fmt.Sprintf(`{"trtype":"TCP","adrfam":"IPv4","traddr":"127.0.0.1","trsvcid":%q}`, port)
}

// attach attaches replica i on the raid host.
func (c *testCluster) attach(i int) {
	c.t.Helper()
	got := str(c.t, decodeAs[[]json.RawMessage](c.t, c.rpc[0].ok("bdev_nvme_attach_controller", c.attachParams(i)))[0])
	if want := fmt.Sprintf("r%dn1", i); got != want {
		c.t.Fatalf("attached %s, want %s", got, want)
	}
}

func (c *testCluster) attachParams(i int) string {
	return fmt.Sprintf(`{"name":"r%d","trtype":"TCP","adrfam":"IPv4","traddr":"127.0.0.1","trsvcid":%q,"subnqn":%q,"hostnqn":%q,
		"ctrlr_loss_timeout_sec":4,"reconnect_delay_sec":1,"fast_io_fail_timeout_sec":1}`, i, c.ports[i], replicaNQN(i), hostNQN)
}

// assemble attaches all replicas, makes the raid and exports it.
func (c *testCluster) assemble() {
	c.t.Helper()
	for i := range c.nodes {
		c.attach(i)
	}
	c.rpc[0].ok("bdev_raid_create", `{"name":"vol","raid_level":"raid1","base_bdevs":["r0n1","r1n1","r2n1"]}`)
	c.exportVolume()
}

// exportVolume exports the raid to the host.
func (c *testCluster) exportVolume() {
	c.t.Helper()
	c.rpc[0].ok("nvmf_create_subsystem", fmt.Sprintf(`{"nqn":%q,"max_namespaces":1,"ana_reporting":true}`, volumeNQN))
	c.rpc[0].ok("nvmf_subsystem_add_ns", fmt.Sprintf(`{"nqn":%q,"namespace":{"bdev_name":"vol"}}`, volumeNQN))
	c.rpc[0].ok("nvmf_subsystem_add_host", fmt.Sprintf(`{"nqn":%q,"host":%q}`, volumeNQN, hostNQN))
	c.rpc[0].ok("nvmf_subsystem_add_listener", fmt.Sprintf(`{"nqn":%q,"listen_address":%s}`, volumeNQN, tcpAddr(c.port)))
}

// connect is a host's association with the volume.
func (c *testCluster) connect() *nvmetcp.Controller {
	c.t.Helper()
	ctrl, err := nvmetcp.Connect(context.Background(), nvmetcp.HostConfig{Addr: "127.0.0.1:" + c.port, SubNQN: volumeNQN, HostNQN: hostNQN, HostID: [16]byte{1}})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { ctrl.Close() })
	return ctrl
}

type testRaid struct {
	Name        string `json:"name"`
	State       string `json:"state"`
	Discovered  int    `json:"num_base_bdevs_discovered"`
	Operational int    `json:"num_base_bdevs_operational"`
	Process     *struct {
		Type   string `json:"type"`
		Target string `json:"target"`
	} `json:"process"`
	Legs []struct {
		Name       *string `json:"name"`
		Configured bool    `json:"is_configured"`
		Offset     uint64  `json:"data_offset"`
		Size       uint64  `json:"data_size"`
	} `json:"base_bdevs_list"`
}

// raid is the raid as its host shows it, nil if it is gone.
func (c *testCluster) raid() *testRaid {
	c.t.Helper()
	all := decodeAs[[]testRaid](c.t, c.rpc[0].ok("bdev_raid_get_bdevs", `{"category":"all"}`))
	if len(all) == 0 {
		return nil
	}
	return &all[0]
}

// ctrlrState is a leg's controller state, "" if it is gone.
func (c *testCluster) ctrlrState(i int) string {
	c.t.Helper()
	a := c.rpc[0].do("bdev_nvme_get_controllers", fmt.Sprintf(`{"name":"r%d"}`, i))
	if a.Error != nil {
		return ""
	}
	return decodeAs[[]struct {
		Ctrlrs []struct {
			State string `json:"state"`
		} `json:"ctrlrs"`
	}](c.t, a.Result)[0].Ctrlrs[0].State
}

// data reads the whole of node i's replica, past every fault but the disk's.
func (c *testCluster) data(i int) []byte {
	c.t.Helper()
	p := c.nodes[i].process()
	p.mu.Lock()
	b := p.bdevs.byName("lvs/r")
	p.mu.Unlock()
	buf := make([]byte, b.sizeBytes())
	if err := b.dev.ReadAt(context.Background(), buf, 0); err != nil {
		c.t.Fatal(err)
	}
	return buf
}

// pattern is reproducible data.
func pattern(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		for j, v := 0, r.Uint64(); j < 8 && i+j < n; j++ {
			b[i+j] = byte(v >> (8 * j))
		}
	}
	return b
}

func TestRaidOverThreeReplicasKeepsThemIdentical(t *testing.T) {
	c := newCluster(t, nil)
	c.assemble()
	host := c.connect()
	want := pattern(7, 3<<20)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := host.Write(ctx, 1, want, 1<<20); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if err := host.Read(ctx, 1, got, 1<<20); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatal("the volume reads something else than was written")
	}
	for i := range c.nodes {
		if !bytes.Equal(c.data(i)[1<<20:4<<20], want) {
			t.Errorf("replica %d holds something else than was written", i)
		}
	}
	for i, l := range c.raid().Legs {
		if l.Offset != 0 {
			t.Errorf("leg %d has data offset %d, want 0", i, l.Offset)
		}
	}
}
