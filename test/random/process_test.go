package random_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// errDead is what a process that was killed gets of the world: its code may run on, and changes nothing any more.
var errDead = errors.New("this process was killed")

// process is one life of a controller or of a node service. All that it does to the world goes through the seams below.
type process struct {
	ctx  context.Context // ends with the process
	kill context.CancelFunc
	wg   sync.WaitGroup
}

// newProcess begins a life; ctx carries its logger.
func newProcess(ctx context.Context) *process {
	p := &process{}
	p.ctx, p.kill = context.WithCancel(ctx)
	return p
}

// end kills the process and returns when none of its code runs any more.
func (p *process) end() {
	p.kill()
	p.wg.Wait()
}

// spawn runs code of the process.
func (p *process) spawn(f func(ctx context.Context)) { p.wg.Go(func() { f(p.ctx) }) }

func (p *process) dead() error {
	if p.ctx.Err() != nil {
		return errDead
	}
	return nil
}

// bound returns ctx that also ends with the process, as when its caller has detached it from what cancels it.
func (p *process) bound(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(p.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// gateway is what stands between the driver and the RPC of one SPDK node.
type gateway string

// Gateways.
const (
	gatewayOpen gateway = ""
	// gatewayRefuses answers no connection.
	gatewayRefuses gateway = "refuses"
	// gatewaySilent loses what is sent to it.
	gatewaySilent gateway = "is silent"
)

// caller is a process's connection to the RPC of an SPDK node.
type caller struct {
	w    *world
	p    *process
	node *sim.Node
}

// Call implements spdk.Caller.
func (c *caller) Call(ctx context.Context, method string, params, result any) error {
	if err := c.p.dead(); err != nil {
		return fmt.Errorf("%s: %w: %w", method, spdk.ErrUnreachable, err)
	}
	ctx, done := c.p.bound(ctx)
	defer done()
	ctx, cancel := context.WithTimeout(ctx, timeouts.RPC)
	defer cancel()
	answer, err := c.exchange(ctx, method, params)
	if dead := c.p.dead(); dead != nil {
		err = fmt.Errorf("%w: %w", spdk.ErrUnknownOutcome, dead)
	}
	var answered *sim.CallError
	if errors.As(err, &answered) {
		return &spdk.Error{Method: method, Code: answered.Code, Message: answered.Message}
	}
	if err != nil {
		return fmt.Errorf("%s on %s: %w", method, c.node.Name(), err)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(answer, result)
}

func (c *caller) exchange(ctx context.Context, method string, params any) (json.RawMessage, error) {
	switch c.w.gatewayOf(c.node.Name()) {
	case gatewayRefuses:
		return nil, spdk.ErrUnreachable
	case gatewaySilent:
		<-ctx.Done()
		return nil, fmt.Errorf("%w: %w", spdk.ErrUnknownOutcome, ctx.Err())
	}
	var body json.RawMessage
	if params != nil {
		var err error
		if body, err = json.Marshal(params); err != nil {
			return nil, err
		}
	}
	answer, err := c.node.Call(ctx, method, body)
	switch {
	case errors.Is(err, sim.ErrNotRunning):
		return nil, fmt.Errorf("%w: %w", spdk.ErrUnreachable, err)
	case errors.Is(err, sim.ErrHungUp), err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("%w: %w", spdk.ErrUnknownOutcome, err)
	}
	return answer, err
}

// inspector reads the state of an SPDK node past all faults.
type inspector struct{ node *sim.Node }

// Call implements spdk.Caller.
func (i inspector) Call(ctx context.Context, method string, params, result any) error {
	body, err := json.Marshal(params)
	if err != nil {
		return err
	}
	if params == nil {
		body = nil
	}
	answer, err := i.node.Inspect(ctx, method, body)
	if err != nil {
		return fmt.Errorf("%s on %s: %w", method, i.node.Name(), err)
	}
	return json.Unmarshal(answer, result)
}

// clusterFor returns the SPDK nodes as a process reaches them.
func (w *world) clusterFor(p *process) *converge.Cluster {
	var nodes []*converge.Node
	for i, n := range w.sims {
		rpc := &caller{w: w, p: p, node: n}
		nodes = append(nodes, &converge.Node{
			Node: spdk.NewNode(n.Name(), rpc), Name: n.Name(), NVMf: spdk.Address{Host: nodeIP(i), Port: 4420}, Host: hostOf[n.Name()],
			ClearMethod: spdk.ClearWriteZeroes,
		})
	}
	return converge.NewCluster(nodes)
}

// storeFor is the store as a process writes it.
type storeFor struct {
	*store
	p *process
}

func (s storeFor) Create(ctx context.Context, v *volume.Volume) error {
	if err := s.p.dead(); err != nil {
		return err
	}
	return s.store.Create(ctx, v)
}

func (s storeFor) Update(ctx context.Context, v *volume.Volume) error {
	if err := s.p.dead(); err != nil {
		return err
	}
	return s.store.Update(ctx, v)
}

func (s storeFor) Delete(ctx context.Context, v *volume.Volume) error {
	if err := s.p.dead(); err != nil {
		return err
	}
	return s.store.Delete(ctx, v)
}
