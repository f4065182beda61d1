package sim

import (
	"context"
	"slices"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
)

// connectLimit is how long SPDK waits for a peer that accepts the TCP connection
// and then says nothing (ICREQ_TIMEOUT_ASYNC).
const connectLimit = 10 * time.Second

// connect makes an association, bounded by SPDK's constant and, on a reconnect, by
// the controller loss timeout.
func (c *nvmeCtrlr) connect(ctx context.Context, limit time.Duration) (*nvmeConn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := c.m.p.after(limit, cancel)
	defer stop()
	o := &c.m.opts
	conn, err := nvmetcp.Connect(ctx, nvmetcp.HostConfig{Addr: joinAddr(c.trid), SubNQN: c.trid.subnqn, HostNQN: c.hostnqn,
		HostID: c.m.hostID, IOQueues: 1, KATO: time.Duration(o.KeepAliveMS) * time.Millisecond,
		HeaderDigest: c.params.HDGST, DataDigest: c.params.DDGST, ConnectTimeout: limit + time.Second,
		Auth: c.hostAuth(), Dial: c.m.p.node.dialer(ackTimeout(o.TransportAckTimeout)), Gate: c.m.p.gate, Logger: c.m.p.node.log})
	if err != nil {
		return nil, err
	}
	return &nvmeConn{Controller: conn}, nil
}

// ackTimeout is 2^n ms, 0 for none.
func ackTimeout(n uint8) time.Duration {
	if n == 0 || n > 31 {
		return 0
	}
	return time.Millisecond << n
}

// keepAlive sends a keep-alive every half of the granted timeout K. One that isn't
// answered within K is noticed only where timeout_us is set; then the action on
// timeouts is taken, without reading CSTS.
func (c *nvmeCtrlr) keepAlive(ctx context.Context, conn *nvmeConn) {
	k := conn.GrantedKATO()
	if k == 0 {
		return
	}
	p := c.m.p
	for {
		t := p.node.cfg.Clock.NewTimer(k / 2)
		select {
		case <-t.C():
		case <-conn.Done():
			t.Stop()
			return
		case <-ctx.Done():
			t.Stop()
			return
		}
		if p.gate.Wait(ctx) != nil {
			return
		}
		p.spawn(func(ctx context.Context) {
			stop := func() {}
			if c.m.opts.TimeoutUS > 0 {
				stop = p.after(k, func() { c.timedOut(conn) })
			}
			// An error ends the association, which watch notices.
			_ = conn.KeepAlive(ctx)
			stop()
		})
	}
}

// timedOut takes the action configured for a command that wasn't answered in time.
func (c *nvmeCtrlr) timedOut(conn *nvmeConn) {
	if c.m.opts.ActionOnTimeout == "none" {
		return
	}
	c.m.p.locked(func() {
		c.m.mu.Lock()
		current := c.conn == conn
		c.m.mu.Unlock()
		if current {
			c.m.p.node.log.Info("Detected a timeout, resetting the controller", "controller", c.g.name)
			_ = c.reset(nil)
		}
	})
}

// broken starts the failover of a controller whose association ended by itself
// (bdev_nvme_failover_ctrlr). The caller holds process.mu.
func (c *nvmeCtrlr) broken(conn *nvmeConn) {
	m := c.m
	m.mu.Lock()
	switch {
	case c.conn != conn || c.destruct:
		m.mu.Unlock()
		return
	case c.resetting:
		c.pendingFO = c.pendingFO || !c.failover
		m.mu.Unlock()
		return
	case c.delayed || c.disabled:
		m.mu.Unlock()
		return
	}
	c.resetting, c.failover = true, true
	c.markStart()
	m.mu.Unlock()
	c.startReset()
}

// markStart notes since when the controller is lost. The caller holds nvmeModule.mu.
func (c *nvmeCtrlr) markStart() {
	if c.resetStart.IsZero() {
		c.resetStart = c.m.p.now()
	}
}

// reset resets the controller (bdev_nvme_reset_ctrlr): I/O in flight fails for
// good, a delayed reconnect is made now. done, if not nil, is told the end. The
// answer is errNXIO, errBUSY or errALREADY where there is nothing to do. The caller holds
// process.mu.
func (c *nvmeCtrlr) reset(done func(errno)) errno {
	m := c.m
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case c.destruct:
		return errNXIO
	case c.resetting:
		return errBUSY
	case c.disabled:
		return errALREADY
	}
	c.resetting, c.dontRetry = true, true
	c.onReset = done
	c.markStart()
	c.cancelDelay()
	m.p.spawn(func(context.Context) { c.startReset() })
	return 0
}

func (c *nvmeCtrlr) cancelDelay() {
	c.delayed = false
	if c.stopDelay != nil {
		c.stopDelay()
		c.stopDelay = nil
	}
}

// startReset drops the association and makes another.
func (c *nvmeCtrlr) startReset() {
	c.m.p.spawn(func(ctx context.Context) {
		c.disconnect()
		c.reconnect()
	})
}

// disconnect closes the association; its I/O fails for good if the reset says so.
func (c *nvmeCtrlr) disconnect() {
	c.m.mu.Lock()
	conn := c.conn
	if conn != nil {
		conn.dnr = c.dontRetry
		c.conn = nil
	}
	c.m.mu.Unlock()
	if conn != nil {
		_ = conn.Close()
	}
}

// reconnect tries once to connect and ends the reset with the outcome.
func (c *nvmeCtrlr) reconnect() {
	p := c.m.p
	limit := connectLimit
	c.m.mu.Lock()
	if loss := c.params.CtrlrLoss; loss > 0 {
		limit = min(limit, max(0, time.Duration(loss)*time.Second-p.now().Sub(c.resetStart)))
	}
	c.m.mu.Unlock()
	conn, err := c.connect(c.ctx, limit)
	var ana map[uint32]nvmetcp.ANAState
	var nss []nvmetcp.NamespaceInfo
	if err == nil {
		if ana, nss, err = c.look(c.ctx, conn.Controller); err != nil {
			_ = conn.Close()
		}
	}
	if p.gate.Wait(p.ctx) != nil {
		if err == nil {
			_ = conn.Close()
		}
		return
	}
	if err != nil {
		p.node.log.V(2).Info("Reconnecting failed", "controller", c.g.name, "reason", err.Error())
		conn = nil
	}
	p.locked(func() { c.resetDone(conn, ana, nss) })
}

// resetDone ends a reset (bdev_nvme_reset_ctrlr_complete): conn is nil where it
// failed. The caller holds process.mu.
func (c *nvmeCtrlr) resetDone(conn *nvmeConn, ana map[uint32]nvmetcp.ANAState, nss []nvmetcp.NamespaceInfo) {
	m := c.m
	m.mu.Lock()
	ok := conn != nil
	elapsed := m.p.now().Sub(c.resetStart)
	if ok {
		c.adopt(conn, ana, nss)
	} else if f := c.params.FastIOFail; f > 0 && elapsed >= time.Duration(f)*time.Second {
		c.fastFailed = true
	}
	pending, done := c.pending, c.onReset
	c.pending, c.onReset = nil, nil
	c.resetting, c.dontRetry, c.failover = false, false, false
	again := c.pendingFO && ok
	c.pendingFO = false
	destroyed := c.destruct
	lost := !ok && c.params.CtrlrLoss > 0 && elapsed >= time.Duration(c.params.CtrlrLoss)*time.Second
	if !ok && !destroyed && !lost && c.params.ReconnectDelay > 0 {
		c.delayReconnect()
	}
	m.mu.Unlock()
	for _, ch := range pending {
		ch <- ok
	}
	if done != nil {
		if ok {
			done(0)
		} else {
			done(-1)
		}
	}
	switch {
	case destroyed:
		c.finishDestruct()
	case lost:
		c.startDestruct()
	case ok:
		c.watch(conn)
		if again {
			c.broken(conn)
		}
	}
}

// adopt takes a new association. The bdevs keep the size that they had: only an
// asynchronous event makes them look again. The caller holds nvmeModule.mu.
func (c *nvmeCtrlr) adopt(conn *nvmeConn, ana map[uint32]nvmetcp.ANAState, nss []nvmetcp.NamespaceInfo) {
	c.conn, c.ana, c.cntlid = conn, ana, conn.CNTLID()
	c.fastFailed = false
	c.resetStart = time.Time{}
	for _, ns := range nss {
		if _, known := c.namespaces[ns.NSID]; known {
			c.namespaces[ns.NSID] = ns
		}
	}
}

// delayReconnect waits before the next attempt. The caller holds nvmeModule.mu.
func (c *nvmeCtrlr) delayReconnect() {
	c.delayed = true
	c.stopDelay = c.m.p.after(time.Duration(c.params.ReconnectDelay)*time.Second, func() {
		c.m.mu.Lock()
		if !c.delayed || c.destruct {
			c.m.mu.Unlock()
			return
		}
		c.delayed, c.resetting, c.stopDelay = false, true, nil
		c.m.mu.Unlock()
		c.reconnect()
	})
}

// startDestruct ends the controller (bdev_nvme_start_ctrlr_destruct): its
// namespaces go now, the controller itself when a reset under way is over. The
// caller holds process.mu.
func (c *nvmeCtrlr) startDestruct() {
	m := c.m
	m.mu.Lock()
	if c.destruct {
		m.mu.Unlock()
		return
	}
	c.destruct = true
	c.cancelDelay()
	busy := c.resetting
	var nsids []uint32
	for nsid := range c.namespaces {
		nsids = append(nsids, nsid)
	}
	m.mu.Unlock()
	slices.Sort(nsids)
	for _, nsid := range nsids {
		c.dropNamespace(nsid)
	}
	if !busy {
		c.finishDestruct()
	}
}

// shutdownLimit is how long a controller waits for its target's goodbye: longer
// than bdev_nvme_detach_controller waits.
const shutdownLimit = detachLimit + time.Second

// finishDestruct says goodbye to the target and forgets the controller. A target
// that doesn't answer delays that.
func (c *nvmeCtrlr) finishDestruct() {
	p := c.m.p
	p.spawn(func(ctx context.Context) {
		c.m.mu.Lock()
		conn := c.conn
		c.conn = nil
		c.m.mu.Unlock()
		if conn != nil {
			sctx, cancel := context.WithCancel(ctx)
			stop := p.after(shutdownLimit, cancel)
			// The outcome changes nothing: the controller goes either way.
			_ = conn.Shutdown(sctx)
			stop()
			cancel()
			_ = conn.Close()
		}
		p.locked(func() {
			c.cancel()
			c.m.mu.Lock()
			defer c.m.mu.Unlock()
			c.g.paths = slices.DeleteFunc(slices.Clone(c.g.paths), func(o *nvmeCtrlr) bool { return o == c })
			if len(c.g.paths) == 0 {
				c.m.groups = slices.DeleteFunc(c.m.groups, func(o *nvmeGroup) bool { return o == c.g })
			}
		})
	})
}
