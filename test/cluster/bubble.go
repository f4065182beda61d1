package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-csi/holdfast/driver"
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/sim/memnet"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Bubble is a cluster inside a bubble of testing/synctest: nothing of it waits for the operating system, so that waiting costs no time
// and a machine that is busy makes nothing time out.
type Bubble struct {
	*Cluster
	tcp *memnet.Network
}

// NewBubble makes a cluster of n simulated nodes in the bubble that the test runs in. Options.Sockets is not used.
func NewBubble(t testing.TB, n int, o Options) *Bubble {
	t.Helper()
	if o.PoolBytes == 0 {
		o.PoolBytes = 1 << 30
	}
	b := &Bubble{tcp: memnet.New(), Cluster: &Cluster{
		t: t, Network: sim.NewNetwork(nil), Config: &driver.Config{ThinOvercommit: 1}, Dir: t.TempDir(), rpc: map[string]spdk.Caller{}, before: map[string][]string{},
	}}
	if o.Stall == 0 {
		o.Stall = StallBudget
	}
	for i := range n {
		b.addNode(fmt.Sprintf("n%d", i+1), o)
	}
	b.Cluster.Cluster = b.connect(func(n *sim.Node) spdk.Caller { return o.wrapCaller()(n.Name(), b.keyDir(n).Caller(direct{n})) })
	b.direct = b.connect(func(n *sim.Node) spdk.Caller { return inspector{n} })
	b.store = newMemory()
	b.Store = o.Steps.wrapStore(b.store)
	for _, node := range b.Sims {
		b.rpc[node.Name()] = inspector{node}
		b.before[node.Name()] = b.inventory(node.Name())
	}
	return b
}

func (b *Bubble) addNode(name string, o Options) {
	b.t.Helper()
	nvme, transport := nodeOptions(b.t, o.Stall)
	node, err := sim.New(sim.Config{
		Name: name, Network: b.Network, NVMeOptions: nvme, NVMf: quickGroups(), Transport: transport, RPCLatency: o.RPCLatency,
		Listen: b.tcp.Listen, Dial: b.tcp.Dial, Pools: []sim.PoolConfig{{Name: Pool, SizeBytes: o.PoolBytes}},
	})
	b.must(err)
	b.t.Cleanup(node.Close)
	b.must(node.Start())
	b.Sims = append(b.Sims, node)
}

// connect returns the nodes as the driver has them, each with an address of its own.
func (b *Bubble) connect(rpc func(*sim.Node) spdk.Caller) *converge.Cluster {
	var nodes []*converge.Node
	for i, n := range b.Sims {
		nodes = append(nodes, &converge.Node{
			Node: spdk.NewNode(n.Name(), rpc(n)), Name: n.Name(), NVMf: spdk.Address{Host: fmt.Sprintf("10.0.0.%d", i+1), Port: 4420},
			ClearMethod: spdk.ClearWriteZeroes,
		})
	}
	cluster := converge.NewCluster(nodes)
	held, err := volume.NewSecret([]byte(secret))
	b.must(err)
	cluster.Secrets = map[string]volume.Secret{Key: held}
	return cluster
}

// keyDir is a node's directory for keys.
func (b *Bubble) keyDir(n *sim.Node) spdk.KeyDir {
	b.t.Helper()
	owner := filepath.Join(b.Dir, "owner")
	b.must(os.WriteFile(owner, nil, 0o600))
	return spdk.KeyDir{Path: filepath.Join(b.Dir, "keys of "+n.Name()), Socket: owner}
}

// Dial dials as a machine that runs no SPDK.
func (b *Bubble) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return b.Network.Dialer(sim.Outside, b.tcp.Dial)(ctx, network, address)
}

// DialFrom returns what dials as a machine of that name, on which no SPDK runs, so that the network can be cut between it and the nodes.
func (b *Bubble) DialFrom(machine string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return b.Network.Dialer(machine, b.tcp.Dial)
}

// ReplicaBytes fills p with what a replica holds from byte off, past its raid. It fails while the replica's node has no process.
func (b *Bubble) ReplicaBytes(v *volume.Volume, r volume.Replica, p []byte, off int64) error {
	return b.Sim(r.Node).ReadBdev(context.Background(), r.LvStore+"/"+v.LvolName(r), p, off)
}

// direct calls a simulated node as a client of its socket does.
type direct struct{ node *sim.Node }

// Call implements spdk.Caller.
func (d direct) Call(ctx context.Context, method string, params, result any) error {
	ctx, cancel := context.WithTimeout(ctx, timeouts.RPC)
	defer cancel()
	answer, err := exchange(params, func(body json.RawMessage) (json.RawMessage, error) { return d.node.Call(ctx, method, body) })
	var answered *sim.CallError
	switch {
	case errors.As(err, &answered):
		return &spdk.Error{Method: method, Code: answered.Code, Message: answered.Message}
	case errors.Is(err, sim.ErrNotRunning):
		return fmt.Errorf("%s on %s: %w: %w", method, d.node.Name(), spdk.ErrUnreachable, err)
	case err != nil:
		return fmt.Errorf("%s on %s: %w: %w", method, d.node.Name(), spdk.ErrUnknownOutcome, err)
	case result == nil:
		return nil
	}
	return json.Unmarshal(answer, result)
}

// inspector reads the state of a node past all faults.
type inspector struct{ node *sim.Node }

// Call implements spdk.Caller.
func (i inspector) Call(ctx context.Context, method string, params, result any) error {
	answer, err := exchange(params, func(body json.RawMessage) (json.RawMessage, error) { return i.node.Inspect(ctx, method, body) })
	var answered *sim.CallError
	switch {
	case errors.As(err, &answered):
		return &spdk.Error{Method: method, Code: answered.Code, Message: answered.Message}
	case err != nil:
		return fmt.Errorf("%s on %s: %w", method, i.node.Name(), err)
	}
	return json.Unmarshal(answer, result)
}

func exchange(params any, call func(json.RawMessage) (json.RawMessage, error)) (json.RawMessage, error) {
	if params == nil {
		return call(nil)
	}
	body, err := json.Marshal(params)
	if err != nil {
		return nil, err
	}
	return call(body)
}

// Optimized lists the running nodes whose target of a volume is ANA optimized: those that serve its host.
func (b *Bubble) Optimized(v *volume.Volume) []string {
	b.t.Helper()
	var serving []string
	for _, node := range b.direct.Nodes() {
		state, err := node.ANAState(context.Background(), v.NQN(), node.NVMf)
		if err == nil && state == spdk.ANAOptimized {
			serving = append(serving, node.Name)
		}
	}
	return serving
}

// Inspector reads the state of a node past all faults.
func (b *Bubble) Inspector(node string) spdk.Caller { return b.rpc[node] }
