package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
)

// process is one life of nvmf_tgt. mu stands for SPDK's application thread: RPC
// handlers and every change of configuration run with it held; I/O doesn't, and
// nothing waits for I/O while holding it.
type process struct {
	node  *Node
	gate  *nvmetcp.Gate
	start time.Time
	rpc   *rpcServer

	ctx    context.Context // ends with the process
	cancel context.CancelFunc
	wg     sync.WaitGroup
	spawns sync.RWMutex // guards wg.Add against the end
	ended  bool

	queue sync.Mutex
	last  chan struct{} // closed when the newest call that came without a socket has begun

	mu    sync.Mutex
	state rpcState

	bdevs  bdevRegistry
	keys   []*fileKey // with those removed that are held
	lvs    []*lvolStore
	raids  []*raid
	nvme   nvmeModule
	nvmf   nvmfTarget
	copies shallowCopies

	raidOpts   raidOptions
	initWaiter []func()
}

// startProcess brings up the disks and lvol stores and serves RPC.
func startProcess(n *Node) (*process, error) {
	p := &process{node: n, gate: &nvmetcp.Gate{}, start: n.cfg.Clock.Now(), state: stateRuntime}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.bdevs.init(p)
	p.nvme.init(p)
	p.nvmf.init(p)
	p.raidOpts = defaultRaidOptions
	if n.cfg.WaitForRPC {
		p.state = stateStartup
	} else if err := p.initFramework(); err != nil {
		p.end(true)
		return nil, err
	}
	if n.cfg.Socket == "" {
		return p, nil
	}
	srv, err := listenRPC(n.cfg.Socket, p.serveRPC)
	if err != nil {
		p.end(true)
		return nil, err
	}
	p.rpc = srv
	return p, nil
}

// initFramework applies the node's base configuration.
func (p *process) initFramework() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pool := range p.node.cfg.Pools {
		file := p.node.poolFile(pool.Name)
		if rc := p.createAIO(aioParams{Name: "aio_" + pool.Name, Filename: file,
			BlockSize: uint32(pool.BlockSize), Fallocate: !pool.NoUnmap}); rc != 0 {
			return fmt.Errorf("bdev over %s: %w", file, rc)
		}
	}
	if err := p.configure("bdev_nvme_set_options", p.node.cfg.NVMeOptions); err != nil {
		return err
	}
	if err := p.configure("nvmf_set_config", p.node.cfg.NVMf); err != nil {
		return err
	}
	if t := p.node.cfg.Transport; t != nil {
		params := map[string]any{"trtype": "TCP"}
		for k, v := range t {
			params[k] = v
		}
		return p.configure("nvmf_create_transport", params)
	}
	return nil
}

// configure runs a method of the base configuration, which must answer at once.
func (p *process) configure(name string, params map[string]any) error {
	if params == nil {
		return nil
	}
	raw, err := json.Marshal(params)
	if err != nil {
		return fmt.Errorf("parameters of %s: %w", name, err)
	}
	got := errors.New("no answer")
	methods[name].run(&call{ctx: p.ctx, p: p, name: name, params: raw, reply: func(r rpcReply) {
		got = nil
		if r.err != nil {
			got = fmt.Errorf("%s answers %d %s", name, r.err.code, r.err.message)
		}
	}})
	return got
}

// end ends the process and waits until nothing of it runs. Hosts are cut off
// before anything else stops: no write may be acknowledged because a leg was
// given up here.
func (p *process) end(killed bool) {
	p.spawns.Lock()
	p.ended = true
	p.spawns.Unlock()
	p.nvmf.end(killed)
	p.cancel()
	if p.rpc != nil {
		p.rpc.close(!killed)
	}
	p.nvme.end()
	p.wg.Wait()
	for _, s := range p.lvs {
		s.processEnded()
	}
}

// spawn runs fn in a goroutine that end waits for; its context ends with the
// process. After the end it does nothing and returns false.
func (p *process) spawn(fn func(ctx context.Context)) bool {
	p.spawns.RLock()
	defer p.spawns.RUnlock()
	if p.ended {
		return false
	}
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		fn(p.ctx)
	}()
	return true
}

// after runs fn when d has passed, unless the process has ended. A stopped
// process runs nothing: fn comes when it goes on.
func (p *process) after(d time.Duration, fn func()) (stop func()) {
	ctx, cancel := context.WithCancel(p.ctx)
	t := p.node.cfg.Clock.NewTimer(d)
	p.spawn(func(context.Context) {
		defer cancel()
		defer t.Stop()
		select {
		case <-t.C():
		case <-ctx.Done():
			return
		}
		if p.gate.Wait(ctx) == nil && ctx.Err() == nil {
			fn()
		}
	})
	return cancel
}

// locked runs fn on the application thread.
func (p *process) locked(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn()
}

func (p *process) now() time.Time { return p.node.cfg.Clock.Now() }

// ticks is the process's tick counter: nanoseconds since its start, tickRate a second.
func (p *process) ticks() uint64 { return uint64(p.now().Sub(p.start)) }

const tickRate = uint64(time.Second)
