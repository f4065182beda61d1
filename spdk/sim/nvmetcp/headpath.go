package nvmetcp

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// headPath is one path of a Head. Its goroutine, run, owns the connection from
// AddPath on; the fields below h.mu are shared.
type headPath struct {
	h      *Head
	cfg    PathConfig
	ctx    context.Context // ends when the path is to be removed
	leave  context.CancelFunc
	force  context.Context // ends when waiting in the removal is to stop
	abort  context.CancelFunc
	done   chan struct{}
	reset  chan *Controller // a command of this association timed out
	rescan chan struct{}    // an ANA error was seen

	// Guarded by h.mu.
	state    PathState
	ctrl     *Controller
	cntlid   uint16
	nsid     uint32
	size     int64
	ready    bool // NVME_NS_READY: the path's size is the device's
	group    uint32
	ana      ANAState
	pending  bool // the ANA state is to be read again before the path is used
	failfast bool // lost for longer than FastIOFail
	inFlight int
}

func newHeadPath(h *Head, cfg PathConfig) *headPath {
	p := &headPath{
		h: h, cfg: cfg, done: make(chan struct{}), reset: make(chan *Controller, 1), rescan: make(chan struct{}, 1),
		state: PathConnecting,
	}
	p.ctx, p.leave = context.WithCancel(h.ctx)
	p.force, p.abort = context.WithCancel(context.Background())
	return p
}

// usable says whether I/O may take the path (nvme_path_is_disabled, ANA apart).
// The caller holds h.mu.
func (p *headPath) usable() bool {
	return p.state == PathLive && p.nsid != 0 && p.ready && !p.pending && (p.ana == ANAOptimized || p.ana == ANANonOptimized)
}

// mayReturn says whether I/O may wait for the path (nvme_available_path). The
// caller holds h.mu.
func (p *headPath) mayReturn() bool {
	return p.nsid != 0 && !p.failfast && p.state != PathDeleting
}

func (p *headPath) set(state PathState) {
	p.h.mu.Lock()
	defer p.h.mu.Unlock()
	if p.state != state {
		p.h.log.V(2).Info("Path changed", "addr", p.cfg.Addr, "from", p.state, "to", state)
	}
	p.state = state
	p.h.settle()
}

// connect makes an association and finds the namespace; then the path is live.
func (p *headPath) connect(ctx context.Context) error {
	h := p.h
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(p.ctx, stop)()
	c, err := Connect(ctx, HostConfig{
		Addr: p.cfg.Addr, SubNQN: h.cfg.SubNQN, HostNQN: h.cfg.HostNQN, HostID: h.cfg.HostID,
		IOQueues: p.cfg.IOQueues, QueueDepth: p.cfg.QueueDepth, KATO: p.cfg.KATO, KeepAlive: KeepAliveAsked,
		HeaderDigest: p.cfg.HeaderDigest, DataDigest: p.cfg.DataDigest, Auth: p.cfg.Auth, ConnectTimeout: p.cfg.ConnectTimeout,
		Dial: h.cfg.Dial, Gate: h.cfg.Gate, Logger: h.log,
	})
	if err != nil {
		return err
	}
	if err = p.unique(c); err == nil {
		err = p.scan(ctx, c)
	}
	if err != nil {
		return errors.Join(err, c.Close())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	p.ctrl, p.cntlid, p.state, p.failfast = c, c.CNTLID(), PathLive, false
	h.settle()
	return nil
}

// unique refuses a controller whose id another path has (nvme_validate_cntlid):
// the subsystem's exports must use disjoint ranges. A path checks once, when it is added.
func (p *headPath) unique(c *Controller) error {
	h := p.h
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.cntlid != 0 {
		return nil
	}
	for _, other := range h.paths {
		if other != p && other.state != PathDeleting && other.cntlid == c.CNTLID() {
			return fmt.Errorf("duplicate controller id %d with path %s; give each export of %s its own range",
				c.CNTLID(), other.cfg.Addr, h.cfg.SubNQN)
		}
	}
	return nil
}

// scan finds the namespace by its UUID and reads its ANA state.
func (p *headPath) scan(ctx context.Context, c *Controller) error {
	all, err := c.Namespaces(ctx)
	if err != nil {
		return err
	}
	var found NamespaceInfo
	for _, ns := range all {
		if ns.UUID == p.h.cfg.UUID {
			found = ns
		}
	}
	states, err := c.ANAStates(ctx)
	if err != nil {
		return err
	}
	h := p.h
	h.mu.Lock()
	defer h.mu.Unlock()
	p.nsid, p.group = found.NSID, found.ANAGroup
	if found.NSID != 0 {
		h.resize(p, found)
	}
	p.applyANA(c, states)
	h.settle()
	return nil
}

// applyANA takes over the state of the namespace's group. A group that the log
// does not have keeps the path out of use. The caller holds h.mu.
func (p *headPath) applyANA(c *Controller, states map[uint32]ANAState) {
	state, ok := states[p.group]
	switch {
	case !c.HasANA():
		p.ana, p.pending = ANAOptimized, false
	case ok:
		p.ana, p.pending = state, false
	default:
		p.pending = true
	}
}

func (p *headPath) refreshANA(c *Controller) {
	states, err := c.ANAStates(c.ctx)
	if err != nil {
		return // the association ends or the next event tries again
	}
	p.h.mu.Lock()
	defer p.h.mu.Unlock()
	p.applyANA(c, states)
	p.h.settle()
}

// run keeps the path going until it is removed or lost for good.
func (p *headPath) run() {
	defer close(p.done)
	for {
		p.h.mu.Lock()
		c := p.ctrl
		p.h.mu.Unlock()
		p.serve(c)
		if p.ctx.Err() != nil {
			p.remove(c)
			return
		}
		p.set(PathResetting)
		_ = c.Close() // it ends here whatever state it is in
		p.set(PathConnecting)
		if !p.reconnect() {
			p.remove(nil)
			return
		}
	}
}

// serve follows a live association until it has ended or is to end.
func (p *headPath) serve(c *Controller) {
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-c.ctx.Done():
			return
		case timedOut := <-p.reset:
			if timedOut != c {
				continue
			}
			p.h.log.Info("Resetting a path: a command timed out", "addr", p.cfg.Addr, "ioTimeout", p.h.cfg.IOTimeout.String())
			return
		case <-p.rescan:
			p.refreshANA(c)
		case e := <-c.Events():
			if e.Type == EventANAChanged {
				p.refreshANA(c)
			} else if err := p.scan(c.ctx, c); err != nil {
				p.h.log.V(4).Info("Scanning a path's namespaces failed", "addr", p.cfg.Addr, "err", err.Error())
			}
		}
	}
}

// reconnect tries until the path is live (true), is to be removed or has used up
// its attempts: ctrl_loss_tmo divided by reconnect_delay, rounded up.
func (p *headPath) reconnect() bool {
	attempts := -1
	if p.cfg.CtrlLossTimeout > 0 {
		attempts = int((p.cfg.CtrlLossTimeout + p.cfg.ReconnectDelay - 1) / p.cfg.ReconnectDelay)
	}
	if p.cfg.FastIOFail > 0 {
		timer := time.AfterFunc(p.cfg.FastIOFail, p.expireFast)
		defer timer.Stop()
	}
	for n := 0; n != attempts; n++ {
		timer := time.NewTimer(p.cfg.ReconnectDelay)
		select {
		case <-timer.C:
		case <-p.ctx.Done():
			timer.Stop()
			return false
		}
		if p.h.cfg.Gate.Wait(p.ctx) != nil {
			return false
		}
		err := p.connect(p.ctx)
		if err == nil {
			return true
		}
		p.h.log.V(2).Info("Reconnecting a path failed", "addr", p.cfg.Addr, "attempt", n+1, "of", attempts, "err", err.Error())
	}
	p.h.log.Info("Removing a path: it was lost for too long", "addr", p.cfg.Addr, "ctrlLossTimeout", p.cfg.CtrlLossTimeout.String())
	return false
}

// expireFast stops I/O from waiting for a path that is still lost.
func (p *headPath) expireFast() {
	p.h.mu.Lock()
	defer p.h.mu.Unlock()
	if p.state != PathLive {
		p.failfast = true
		p.h.settle()
	}
}

// remove takes the path out. Its namespace leaves the head first; then commands
// in flight end, by themselves or with the association; then the controller is
// shut down.
func (p *headPath) remove(c *Controller) {
	p.h.mu.Lock()
	p.state, p.nsid = PathDeleting, 0
	p.h.settle()
	p.h.mu.Unlock()
	if c != nil {
		p.quiesce(c)
		ctx, stop := context.WithTimeout(p.force, p.cfg.ConnectTimeout)
		if err := c.Shutdown(ctx); err != nil {
			p.h.log.V(4).Info("Shutting down a path's controller failed", "addr", p.cfg.Addr, "err", err.Error())
		}
		stop()
	}
	p.h.mu.Lock()
	p.h.forget(p)
	p.h.mu.Unlock()
	p.abort()
}

// quiesce waits until no command is in flight on the path.
func (p *headPath) quiesce(c *Controller) {
	for {
		p.h.mu.Lock()
		n, changed := p.inFlight, p.h.changed
		p.h.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-changed:
		case <-c.ctx.Done():
			return
		case <-p.reset:
			return
		case <-p.force.Done():
			return
		}
	}
}
