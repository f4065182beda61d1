package nvmetcp

import (
	"context"
	"sync"
	"time"
)

// maxAERs is the number of asynchronous event requests that a controller holds.
const maxAERs = 4

// discoveryKATO is the keep-alive timeout of a discovery controller whose host
// asked for none.
const discoveryKATO = 120 * time.Second

// association is a controller of a subsystem and the host that connected it. It
// lives from the Connect of its admin queue until its last queue pair is gone.
type association struct {
	sub     *Subsystem
	cntlid  uint16
	hostNQN string
	hostID  [16]byte
	listen  string
	peer    string
	flowOff bool // the host does not use SQ flow control

	ctx     context.Context // ends with the association
	cancel  context.CancelFunc
	gone    chan struct{} // closed when the last queue pair left
	changes chan struct{} // wakes watch after a change of its timers

	mu       sync.Mutex
	cc, csts uint32
	queues   map[uint16]*qpair
	kato     time.Duration
	lastSeen time.Time // last keep-alive
	stopKA   bool
	expireAt time.Time // when an association that was shut down ends; zero: never
	aec      uint32    // enabled asynchronous events
	masked   map[uint32]bool
	aers     []*request
	events   []uint32
	changed  []uint32 // changed namespace list
}

func newAssociation(s *Subsystem, q *qpair) *association {
	ctx, cancel := context.WithCancel(s.t.ctx)
	a := &association{
		sub: s, listen: q.listen, peer: q.raw.RemoteAddr().String(), ctx: ctx, cancel: cancel,
		gone: make(chan struct{}), changes: make(chan struct{}, 1), queues: map[uint16]*qpair{}, masked: map[uint32]bool{},
	}
	a.aec = aecNamespace
	if s.cfg.ANAReporting {
		a.aec |= aecANA
	}
	return a
}

// grantKATO rounds a requested keep-alive timeout as SPDK does (nvmf_ctrlr_create).
func (t *Target) grantKATO(ms uint32) time.Duration {
	want, unit := time.Duration(ms)*time.Millisecond, time.Duration(t.cfg.KeepAliveUnits)*kasUnit
	switch {
	case want == 0:
		return 0
	case want <= t.cfg.MinKATO:
		return t.cfg.MinKATO
	default:
		return (want + unit - 1) / unit * unit
	}
}

// watch ends the association when no keep-alive came for the granted timeout, or
// when the host does not disconnect after a shutdown. SPDK looks at the keep-alive
// once every timeout, so expiry takes one to two of them.
func (a *association) watch() {
	gate := a.sub.t.gate
	keepAlive, expiry := stoppedTimer(), stoppedTimer()
	defer keepAlive.Stop()
	defer expiry.Stop()
	for {
		a.mu.Lock()
		period, expireAt := a.kato, a.expireAt
		a.mu.Unlock()
		gen := gate.generation()
		keepAlive.Stop()
		if period > 0 {
			keepAlive.Reset(period)
		}
		if !expireAt.IsZero() {
			expiry.Reset(time.Until(expireAt))
		}
		why := "its keep-alive timed out"
		select {
		case <-a.ctx.Done():
			return
		case <-a.changes:
			continue
		case <-expiry.C:
			why = "it shut its controller down and stayed connected"
		case <-keepAlive.C:
			if gate.Wait(a.ctx) != nil {
				return
			}
			if gate.generation() != gen || !a.keepAliveExpired() {
				continue // after a freeze a process reads its sockets first
			}
		}
		a.sub.t.log.Info("Disconnecting a host", "reason", why, "nqn", a.sub.cfg.NQN, "host", a.hostNQN, "cntlid", a.cntlid)
		a.disconnect()
		return
	}
}

func stoppedTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

func (a *association) keepAliveExpired() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopKA || a.kato == 0 || time.Since(a.lastSeen) <= a.kato {
		return false
	}
	a.csts |= cstsFatal
	return true
}

// setKATO changes the keep-alive timeout. The caller holds a.mu.
func (a *association) setKATO(d time.Duration) {
	a.kato = d
	a.wake()
}

func (a *association) wake() {
	select {
	case a.changes <- struct{}{}:
	default:
	}
}

// join adds a queue pair; false if its id is taken or the association is over.
func (a *association) join(q *qpair, qid uint16) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.queues[qid] != nil || a.ctx.Err() != nil {
		return false
	}
	a.queues[qid] = q
	return true
}

// leave takes a queue pair out; the last one ends the association.
func (a *association) leave(q *qpair) {
	a.mu.Lock()
	for id, have := range a.queues {
		if have == q {
			delete(a.queues, id)
			if id == 0 {
				a.aers = nil
			}
		}
	}
	a.settle()
	last := len(a.queues) == 0
	if last {
		a.cancel()
	}
	a.mu.Unlock()
	if !last {
		return
	}
	s := a.sub
	s.mu.Lock()
	if s.assocs[a.cntlid] == a {
		delete(s.assocs, a.cntlid)
		close(a.gone)
	}
	s.mu.Unlock()
}

// settle finishes a shutdown or reset once the I/O queues are gone
// (nvmf_ctrlr_cc_reset_shn_done). The caller holds a.mu.
func (a *association) settle() {
	shutting := a.cc&ccSHNMask != 0 && a.csts&cstsSHSTMask != cstsSHSTDone
	resetting := a.cc&ccEnable == 0 && a.csts&cstsReady != 0
	if (!shutting && !resetting) || len(a.ioQueues()) > 0 {
		return
	}
	if shutting {
		a.csts = a.csts&^cstsSHSTMask | cstsSHSTDone
	} else {
		a.cc, a.csts = 0, 0
	}
	a.expireAt = time.Now().Add(a.sub.t.cfg.AssociationTimeout)
	a.wake()
}

// ioQueues are the I/O queue pairs. The caller holds a.mu.
func (a *association) ioQueues() []*qpair {
	var all []*qpair
	for id, q := range a.queues {
		if id != 0 {
			all = append(all, q)
		}
	}
	return all
}

// disconnect drains every queue pair.
func (a *association) disconnect() {
	a.mu.Lock()
	a.aers = nil
	all := make([]*qpair, 0, len(a.queues))
	for _, q := range a.queues {
		all = append(all, q)
	}
	a.mu.Unlock()
	for _, q := range all {
		q.drain()
	}
}

func (a *association) info() ControllerInfo {
	a.mu.Lock()
	defer a.mu.Unlock()
	return ControllerInfo{
		CNTLID: a.cntlid, HostNQN: a.hostNQN, HostID: a.hostID, ListenAddr: a.listen, PeerAddr: a.peer,
		Queues: len(a.ioQueues()), KATO: a.kato,
	}
}
