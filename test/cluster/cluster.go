// Package cluster makes what a test of the driver runs on: simulated SPDK nodes that are joined by a network, the configuration
// that names them, and a store. It can make each step that the driver takes fail, and says what the driver has left behind.
package cluster

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/driver"
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/bolt"
)

// Pool is the name of each node's lvstore.
const Pool = "pool"

// Key is the name of the secret that volumes may ask for, as replicaKey and as hostKey; secret is what it holds.
const (
	Key    = "main"
	secret = "secretsecretsecretsecretsecretsecretsecretsecret"
)

// StallBudget is the replica stall budget that the nodes are configured for, and that volumes of tests ask for. It is a long one: no
// test waits for it, and with a short one keep-alives expire on a machine that is busy with other tests.
const StallBudget = 25 * time.Second

// Options say what cluster to make. The zero value is right for most tests.
type Options struct {
	// PoolBytes is the size of each node's disk; default 1 GiB. No memory is used before something is written.
	PoolBytes int64
	// RPCLatency is how long the nodes take for each call.
	RPCLatency time.Duration
	// Stall is the replica stall budget that the nodes are configured for; default StallBudget.
	Stall time.Duration
	// Sockets are the JSON-RPC sockets of real SPDK targets to use in place of simulated nodes. Each must have a TCP transport and an
	// lvstore.
	Sockets []string
	// Steps, if not nil, can make the driver's steps fail.
	Steps *Steps
	// Wrap, if not nil, stands between the driver and each node.
	Wrap func(node string, rpc spdk.Caller) spdk.Caller
}

// Cluster is simulated SPDK nodes n1, n2, ... and a store. The CSI node of the same name is on the same machine.
type Cluster struct {
	*converge.Cluster
	Sims    []*sim.Node
	Network *sim.Network
	Config  *driver.Config
	// Store is the store as the driver sees it.
	Store volume.Store
	// Dir is a directory for whatever the test needs; its path is short enough for sockets.
	Dir string

	t      testing.TB
	direct *converge.Cluster
	rpc    map[string]spdk.Caller // past all faults
	store  volume.Store
	before map[string][]string
}

// New makes a cluster of n nodes that lasts as long as the test.
func New(t testing.TB, n int, o Options) *Cluster {
	t.Helper()
	if o.PoolBytes == 0 {
		o.PoolBytes = 1 << 30
	}
	c := &Cluster{t: t, Network: sim.NewNetwork(nil), Config: &driver.Config{ThinOvercommit: 1}, rpc: map[string]spdk.Caller{}, before: map[string][]string{}}
	var err error
	c.Dir, err = os.MkdirTemp("", "hf")
	c.must(err)
	t.Cleanup(func() { _ = os.RemoveAll(c.Dir) })
	for i := range n {
		name := fmt.Sprintf("n%d", i+1)
		if len(o.Sockets) > 0 {
			c.Config.Nodes = append(c.Config.Nodes, driver.NodeConfig{Name: name, RPC: "unix://" + o.Sockets[i], NVMf: freeAddress(t)})
			continue
		}
		c.addNode(name, o)
	}
	file := filepath.Join(c.Dir, "secret")
	c.must(os.WriteFile(file, []byte(secret), 0o600))
	c.Config.ReplicaKeys = map[string]string{Key: file}
	c.Cluster = c.connect(o.wrapCaller())
	c.direct = c.connect(func(node string, rpc spdk.Caller) spdk.Caller {
		c.rpc[node] = rpc
		return rpc
	})
	opened, err := bolt.Open(filepath.Join(c.Dir, "volumes.db"))
	c.must(err)
	t.Cleanup(func() { c.must(opened.Close()) })
	c.store, c.Store = opened, o.Steps.wrapStore(opened)
	for _, node := range c.direct.Names() {
		c.before[node] = c.inventory(node)
	}
	return c
}

func (c *Cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *Cluster) addNode(name string, o Options) {
	c.t.Helper()
	socket := filepath.Join(c.Dir, name+".sock")
	nvme, transport := nodeOptions(c.t, cmp.Or(o.Stall, StallBudget))
	node, err := sim.New(sim.Config{
		Name: name, Socket: socket, Network: c.Network, NVMeOptions: nvme, NVMf: quickGroups(), Transport: transport, RPCLatency: o.RPCLatency,
		Pools: []sim.PoolConfig{{Name: Pool, SizeBytes: o.PoolBytes}},
	})
	c.must(err)
	c.t.Cleanup(node.Close)
	c.must(node.Start())
	c.Sims = append(c.Sims, node)
	c.Config.Nodes = append(c.Config.Nodes, driver.NodeConfig{Name: name, RPC: "unix://" + socket, NVMf: freeAddress(c.t), KeyDir: filepath.Join(c.Dir, "keys of "+name)})
}

// nodeOptions are what an SPDK node is started with so that it holds a stall budget.
func nodeOptions(t testing.TB, stall time.Duration) (nvme, transport map[string]any) {
	v, err := timeouts.Derive(timeouts.Budgets{ReplicaStall: stall, TargetLoss: timeouts.DefaultBudgets().TargetLoss})
	if err != nil {
		t.Fatal(err)
	}
	nvme = map[string]any{
		"action_on_timeout": "reset", "timeout_us": v.Node.IOTimeout.Microseconds(), "timeout_admin_us": v.Node.AdminTimeout.Microseconds(),
		"keep_alive_timeout_ms": v.Node.KeepAlive.Milliseconds(), "transport_ack_timeout": v.Node.TransportAck,
	}
	maps.Copy(nvme, quickGroups())
	return nvme, map[string]any{"kas": v.Node.KAS, "min_kato": v.Node.MinKATO.Milliseconds()}
}

// quickGroups has a node authenticate without Diffie-Hellman, whose arithmetic takes longer than all else.
func quickGroups() map[string]any { return map[string]any{"dhchap_dhgroups": []string{"null"}} }

// freeAddress returns an address of this machine where nothing listens and that no outgoing connection will take. On Linux all of
// 127.0.0.0/8 is the loopback interface's; elsewhere a port has to do that is free now.
func freeAddress(t testing.TB) string {
	for range 100 {
		address := fmt.Sprintf("127.%d.%d.%d:4420", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
		if l, err := net.Listen("tcp", address); err == nil {
			_ = l.Close() // it was only to see that it can be had
			return address
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (c *Cluster) connect(wrap func(string, spdk.Caller) spdk.Caller) *converge.Cluster {
	c.t.Helper()
	cluster, closeAll, err := c.Config.Cluster(wrap)
	c.must(err)
	c.t.Cleanup(closeAll)
	return cluster
}

// wrapCaller returns what stands between the driver and each node.
func (o Options) wrapCaller() func(node string, rpc spdk.Caller) spdk.Caller {
	steps := o.Steps.wrapCaller()
	if o.Wrap == nil {
		return steps
	}
	return func(node string, rpc spdk.Caller) spdk.Caller { return o.Wrap(node, steps(node, rpc)) }
}

// Sim returns the simulated node of that name.
func (c *Cluster) Sim(name string) *sim.Node { return c.Network.Node(name) }

// Observe looks at a volume past all faults of Steps.
func (c *Cluster) Observe(v *volume.Volume) volume.Observed {
	return converge.New(c.direct).Observe(context.Background(), v)
}

// Record reads a volume's record past all faults of Steps.
func (c *Cluster) Record(id string) *volume.Volume {
	c.t.Helper()
	v, err := c.store.Get(context.Background(), id)
	c.must(err)
	return v
}

// SnapshotRecord reads a snapshot's record past all faults of Steps.
func (c *Cluster) SnapshotRecord(id string) *volume.Snapshot {
	c.t.Helper()
	s, err := c.store.GetSnapshot(context.Background(), id)
	c.must(err)
	return s
}

// RegisterHosts puts CSI nodes on record.
func (c *Cluster) RegisterHosts(names ...string) {
	c.t.Helper()
	for _, name := range names {
		c.must(volume.RegisterHost(context.Background(), c.store, volume.Host{Name: name, MachineID: "machine of " + name}))
	}
}

// WantEmpty fails the test if anything is on a node that was not there at first, or a volume is on record.
func (c *Cluster) WantEmpty() {
	c.t.Helper()
	if left := c.Leftovers(); len(left) > 0 {
		c.t.Fatalf("left behind: %q", left)
	}
}

// Leftovers lists what is on the nodes, and was not at first, and what volumes are on record.
func (c *Cluster) Leftovers() []string {
	c.t.Helper()
	var left []string
	for _, node := range c.direct.Names() {
		for _, object := range c.inventory(node) {
			if !slices.Contains(c.before[node], object) {
				left = append(left, node+": "+object)
			}
		}
	}
	volumes, err := c.store.List(context.Background(), "", 0)
	c.must(err)
	for _, v := range volumes {
		left = append(left, fmt.Sprintf("record %s (%s)", v.ID, v.Phase))
	}
	snapshots, err := c.store.ListSnapshots(context.Background(), "", 0)
	c.must(err)
	for _, s := range snapshots {
		left = append(left, fmt.Sprintf("record %s (%s)", s.ID, s.Phase))
	}
	return left
}

// Fill takes up all the room in a node's lvstore with an lvol that the driver knows nothing of.
func (c *Cluster) Fill(node string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeouts.RPC)
	defer cancel()
	n, err := c.direct.Node(node)
	c.must(err)
	lvstores, err := n.LvStores(ctx)
	c.must(err)
	_, err = n.CreateLvol(ctx, spdk.LvolSpec{LvStore: Pool, Name: "filler", SizeBytes: lvstores[0].FreeBytes})
	c.must(err)
}

// inventory lists every object on a node that the driver could have made, and how much of its lvstores is free.
func (c *Cluster) inventory(node string) []string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeouts.RPC)
	defer cancel()
	rpc := c.rpc[node]
	found := map[string]bool{}
	lvstores, err := spdk.BdevLvolGetLvstores(ctx, rpc)
	c.must(err)
	for _, s := range lvstores {
		found[fmt.Sprintf("lvstore %s with %d free clusters", s.Name, s.FreeClusters)] = true
	}
	bdevs, err := spdk.BdevGetBdevs(ctx, rpc, spdk.BdevGetBdevsParams{})
	c.must(err)
	for _, b := range bdevs {
		name := b.Name
		if b.DriverSpecific.Lvol != nil {
			name = fmt.Sprint(b.Aliases)
		}
		found["bdev "+name] = true
	}
	raids, err := spdk.BdevRaidGetBdevs(ctx, rpc, spdk.BdevRaidGetBdevsParams{Category: "all"})
	c.must(err)
	for _, r := range raids {
		found["raid "+r.Name+" "+r.State] = true
	}
	controllers, err := spdk.BdevNVMeGetControllers(ctx, rpc, spdk.BdevNVMeGetControllersParams{})
	c.must(err)
	for _, l := range controllers {
		found["controller "+l.Name] = true
	}
	subsystems, err := spdk.NVMfGetSubsystems(ctx, rpc, spdk.NVMfGetSubsystemsParams{})
	c.must(err)
	for _, s := range subsystems {
		found["subsystem "+s.NQN] = true
	}
	keys, err := spdk.KeyringGetKeys(ctx, rpc)
	c.must(err)
	for _, k := range keys {
		found["key "+k.Name] = true
	}
	return slices.Sorted(maps.Keys(found))
}
