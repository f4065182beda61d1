package nvmetcp

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/go-logr/logr"
)

// kasUnit is the unit of the keep-alive granularity (KAS).
const kasUnit = 100 * time.Millisecond

// Target is an NVMe/TCP target: listeners, subsystems and the queue pairs that
// hosts connected. Its methods may be called from many goroutines.
type Target struct {
	cfg  TargetConfig
	gate *Gate
	log  logr.Logger

	ctx    context.Context // ends at Close and Kill; Device calls run under it
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine of the target

	mu         sync.Mutex
	closed     bool
	listeners  map[string]net.Listener // by the address really listened on
	order      []string                // addresses in the order of Listen
	subsystems map[string]*Subsystem
	qpairs     map[*qpair]struct{}
	generation uint64 // of the discovery log
	auth       AuthAlgorithms
}

// NewTarget makes a target that listens nowhere and serves only the discovery
// subsystem. Close or Kill ends it.
func NewTarget(cfg TargetConfig) *Target {
	cfg = cfg.withDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	t := &Target{
		cfg: cfg, gate: cfg.Gate, log: cfg.Logger, ctx: ctx, cancel: cancel,
		listeners: map[string]net.Listener{}, subsystems: map[string]*Subsystem{}, qpairs: map[*qpair]struct{}{},
	}
	d := newSubsystem(t, SubsystemConfig{NQN: DiscoveryNQN, AllowAnyHost: true})
	d.discovery = true
	t.subsystems[DiscoveryNQN] = d
	return t
}

func (c TargetConfig) withDefaults() TargetConfig {
	if c.Listen == nil {
		c.Listen = net.Listen
	}
	if c.Gate == nil {
		c.Gate = &Gate{}
	}
	if c.KeepAliveUnits == 0 {
		c.KeepAliveUnits = 100
	}
	if c.MinKATO == 0 {
		c.MinKATO = 10 * time.Second
	}
	c.MinKATO = max(c.MinKATO, time.Duration(c.KeepAliveUnits)*kasUnit)
	if c.MaxQueueDepth == 0 {
		c.MaxQueueDepth = 128
	}
	if c.MaxIOQueues == 0 {
		c.MaxIOQueues = 127
	}
	if c.MaxIOSize == 0 {
		c.MaxIOSize = 128 << 10
	}
	if c.InCapsuleDataSize == 0 {
		c.InCapsuleDataSize = 4096
	}
	if c.AssociationTimeout == 0 {
		c.AssociationTimeout = 120 * time.Second
	}
	if c.Logger.GetSink() == nil {
		c.Logger = logr.Discard()
	}
	return c
}

// Listen opens a listening socket; listening again on an address that is already
// served changes nothing. Port 0 lets the kernel choose: see Addr.
func (t *Target) Listen(addr string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errTargetClosed
	}
	if _, ok := t.listeners[addr]; ok {
		return nil
	}
	l, err := t.cfg.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listen for NVMe/TCP on %s: %w", addr, err)
	}
	real := l.Addr().String()
	t.listeners[real] = l
	t.order = append(t.order, real)
	t.wg.Go(func() { t.accept(l, real) })
	return nil
}

// StopListening closes a listening socket. Established connections stay; a
// subsystem's go with Subsystem.RemoveListener.
func (t *Target) StopListening(addr string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	l, ok := t.listeners[addr]
	if !ok {
		return fmt.Errorf("stop listening on %s: the target does not listen there", addr)
	}
	t.forget(addr)
	return l.Close()
}

// forget drops a listener from the books. The caller holds t.mu.
func (t *Target) forget(addr string) {
	delete(t.listeners, addr)
	for i, a := range t.order {
		if a == addr {
			t.order = append(t.order[:i:i], t.order[i+1:]...)
			return
		}
	}
}

// Addr is the address of the oldest listener, "" without one.
func (t *Target) Addr() string {
	if all := t.Addrs(); len(all) > 0 {
		return all[0]
	}
	return ""
}

// Addrs are the addresses listened on, the oldest first.
func (t *Target) Addrs() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.order...)
}

func (t *Target) accept(l net.Listener, addr string) {
	for {
		if err := t.gate.Wait(t.ctx); err != nil {
			return
		}
		conn, err := l.Accept()
		if err != nil {
			// A listener that can't accept any more is closed or broken for good.
			t.mu.Lock()
			if t.listeners[addr] == l {
				t.forget(addr)
				t.log.Error(err, "NVMe/TCP listener failed", "addr", addr)
			}
			t.mu.Unlock()
			return
		}
		t.admit(conn, addr)
	}
}

// spawn starts a goroutine of the target; false if the target is closed.
func (t *Target) spawn(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Go(f)
	return true
}

// admit starts a queue pair for a connection.
func (t *Target) admit(conn net.Conn, addr string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		_ = conn.Close() // the target is gone; the peer sees the connection end
		return
	}
	q := newQpair(t, conn, addr)
	t.qpairs[q] = struct{}{}
	t.wg.Go(q.serve)
	t.wg.Go(func() {
		defer close(q.senderDone)
		err := q.out.run(q.ctx)
		t.log.V(5).Info("NVMe/TCP sender ended", "peer", conn.RemoteAddr().String(), "reason", err)
		q.closeConn()
	})
}

// AddSubsystem creates a subsystem without namespaces, hosts and listeners.
func (t *Target) AddSubsystem(cfg SubsystemConfig) (*Subsystem, error) {
	if cfg.NQN == "" || len(cfg.NQN) > maxNQNLen {
		return nil, fmt.Errorf("create subsystem %q: a name of 1 to %d bytes is wanted", cfg.NQN, maxNQNLen)
	}
	if cfg.MaxCNTLID != 0 && cfg.MinCNTLID > cfg.MaxCNTLID {
		return nil, fmt.Errorf("create subsystem %s: controller ids %d-%d are an empty range", cfg.NQN, cfg.MinCNTLID, cfg.MaxCNTLID)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, errTargetClosed
	}
	if _, ok := t.subsystems[cfg.NQN]; ok {
		return nil, fmt.Errorf("create subsystem %s: it exists", cfg.NQN)
	}
	s := newSubsystem(t, cfg)
	t.subsystems[cfg.NQN] = s
	return s, nil
}

// Subsystem finds a subsystem by name, nil if there is none.
func (t *Target) Subsystem(nqn string) *Subsystem {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.subsystems[nqn]
}

// RemoveSubsystem deletes a subsystem, disconnects its controllers and returns
// when their commands have ended.
func (t *Target) RemoveSubsystem(nqn string) error {
	t.mu.Lock()
	s, ok := t.subsystems[nqn]
	if !ok || s.discovery {
		t.mu.Unlock()
		return fmt.Errorf("remove subsystem %s: there is none", nqn)
	}
	delete(t.subsystems, nqn)
	t.mu.Unlock()
	gone := s.disconnect(func(*association) bool { return true }, true)
	select {
	case <-gone:
	case <-t.ctx.Done():
		return errTargetClosed
	}
	t.discoveryChanged()
	return nil
}

// SetHung freezes the target (true) or lets it go on (false): see Gate. TCP
// connections are established and acknowledged by the kernel all the while.
func (t *Target) SetHung(hung bool) { t.gate.SetHung(hung) }

// Close ends the target in order: listeners and connections are closed, running
// Device calls see their context end, and every goroutine has returned.
func (t *Target) Close() error {
	t.shutdown(false)
	return nil
}

// Kill ends the target as SIGKILL does: every connection is reset at once,
// commands in flight are abandoned. No Device call runs when it returns.
func (t *Target) Kill() { t.shutdown(true) }

func (t *Target) shutdown(reset bool) {
	t.mu.Lock()
	t.closed = true
	listeners := t.listeners
	t.listeners, t.order = map[string]net.Listener{}, nil
	qpairs := make([]*qpair, 0, len(t.qpairs))
	for q := range t.qpairs {
		qpairs = append(qpairs, q)
	}
	t.mu.Unlock()
	for addr, l := range listeners {
		if err := l.Close(); err != nil {
			t.log.V(4).Info("Closing an NVMe/TCP listener failed", "addr", addr, "err", err)
		}
	}
	for _, q := range qpairs {
		if lc, ok := q.raw.(interface{ SetLinger(int) error }); ok && reset {
			_ = lc.SetLinger(0) // without it the peer sees FIN instead of RST
		}
		q.closeConn()
	}
	t.cancel()
	t.wg.Wait()
}

// discoveryChanged tells connected discovery controllers that the log changed.
func (t *Target) discoveryChanged() {
	t.mu.Lock()
	t.generation++
	d := t.subsystems[DiscoveryNQN]
	t.mu.Unlock()
	for _, a := range d.associations() {
		a.notify(aenDiscoveryChanged, aecDiscovery)
	}
}
