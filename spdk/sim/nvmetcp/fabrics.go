package nvmetcp

import (
	"bytes"
	"time"
)

// invalidConnect is the answer to a Connect with a wrong field: its offset in the
// command or in the data (NVM Express Base 2.0, 6.3).
func invalidConnect(inData bool, offset uint16) response {
	result := uint64(offset)
	if inData {
		result |= 1 << 16
	}
	return response{result: result, err: specific(SCConnectInvalidParameters)}
}

// Offsets of Connect's fields in the command and in its data.
const (
	offQID, offSQSize                = 42, 44
	offCNTLID, offSubNQN, offHostNQN = 16, 256, 512
)

// connect serves Fabrics Connect with the checks of SPDK, in their order
// (nvmf_ctrlr_cmd_connect, _nvmf_ctrlr_connect).
func (q *qpair) connect(r *request) response {
	data := r.bytes()
	if len(data) < connectDataSize {
		return failed(generic(SCInvalidField))
	}
	s := q.t.Subsystem(cString(data[offSubNQN : offSubNQN+256]))
	if s == nil {
		return invalidConnect(true, offSubNQN)
	}
	if err := s.enter(q.queued); err != nil {
		return response{dropped: true}
	}
	defer s.leave()
	if bytes.IndexByte(data[offHostNQN:offHostNQN+maxNQNLen+1], 0) < 0 {
		return invalidConnect(true, offHostNQN)
	}
	host := cString(data[offHostNQN : offHostNQN+maxNQNLen+1])
	s.mu.Lock()
	allowed := s.admits(host, q.listen)
	s.mu.Unlock()
	if !allowed {
		return failed(specific(SCConnectInvalidHost))
	}
	recfmt, qid, sqsize := le.Uint16(r.cmd[40:]), le.Uint16(r.cmd[offQID:]), le.Uint16(r.cmd[offSQSize:])
	if recfmt != 0 {
		return failed(specific(SCConnectIncompatibleFormat))
	}
	depth := q.t.cfg.MaxQueueDepth
	if qid == 0 {
		depth = adminQueueDepth
	}
	if sqsize == 0 || int(sqsize) >= depth {
		return invalidConnect(false, offSQSize)
	}
	if qid != 0 {
		return q.connectIO(s, data, qid, sqsize)
	}
	if le.Uint16(data[offCNTLID:]) != 0xffff {
		return invalidConnect(true, offCNTLID)
	}
	return q.connectAdmin(s, r, host, sqsize)
}

// connectAdmin makes a new controller. Controllers of the same host and host id
// may exist: SPDK's default policy lets them (nvmf_subsystem_add_ctrlr).
func (q *qpair) connectAdmin(s *Subsystem, r *request, host string, sqsize uint16) response {
	a := newAssociation(s, q)
	a.hostNQN = host
	copy(a.hostID[:], r.bytes())
	a.flowOff = r.cmd[46]&(1<<2) != 0
	a.kato = q.t.grantKATO(le.Uint32(r.cmd[48:]))
	if s.discovery {
		if a.aec = 0; a.kato == 0 {
			a.kato = discoveryKATO
		} else {
			a.aec = aecDiscovery
		}
	}
	a.lastSeen = time.Now()
	a.queues[0] = q

	s.mu.Lock()
	err := s.add(a)
	s.mu.Unlock()
	if err != nil {
		a.cancel()
		q.t.log.Info("Refusing a host", "nqn", s.cfg.NQN, "host", host, "reason", err.Error())
		return failed(generic(SCInternalError))
	}
	if !q.attach(a, 0, sqsize) || !q.t.spawn(a.watch) {
		a.leave(q)
		return failed(generic(SCCommandSequence))
	}
	return response{result: uint64(a.cntlid) | q.requireAuthentication(a)}
}

// connectIO adds an I/O queue to a controller.
func (q *qpair) connectIO(s *Subsystem, data []byte, qid, sqsize uint16) response {
	s.mu.Lock()
	a := s.assocs[le.Uint16(data[offCNTLID:])]
	s.mu.Unlock()
	if a == nil {
		return invalidConnect(true, offCNTLID)
	}
	if s.cfg.ANAReporting && a.listen != q.listen {
		return invalidConnect(false, offQID)
	}
	a.mu.Lock()
	enabled := a.cc&ccEnable != 0 && a.cc&(0xff<<16) == ccIOSQES|ccIOCQES
	admin := a.queues[0] != nil
	a.mu.Unlock()
	if s.discovery || !enabled || !admin {
		return invalidConnect(false, offQID)
	}
	if int(qid) > q.t.cfg.MaxIOQueues || !a.join(q, qid) {
		return failed(specific(SCInvalidQueueID))
	}
	if !q.attach(a, qid, sqsize) {
		a.leave(q)
		return failed(generic(SCCommandSequence))
	}
	return response{result: uint64(a.cntlid) | q.requireAuthentication(a)}
}

// attach binds the qpair to its controller; false if it is being disconnected.
func (q *qpair) attach(a *association, qid, sqsize uint16) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.draining {
		return false
	}
	q.assoc, q.qid, q.sqSize = a, qid, uint32(sqsize)+1
	return true
}

// property serves Property Get and Property Set on the admin queue.
func (a *association) property(r *request) response {
	size8, offset := r.cmd[40]&7 == 1, le.Uint32(r.cmd[44:])
	bad := failed(specific(SCConnectInvalidParameters))
	if r.cmd[40]&7 > 1 {
		return bad
	}
	if r.cmd.fctype() == fctypePropertySet {
		return a.setProperty(offset, size8, le.Uint64(r.cmd[48:]))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case offset == propCAP && size8:
		return response{result: a.capabilities()}
	case offset >= propNSSR && offset < propEndOfQueues && (!size8 || offset >= propASQ):
		return response{} // subsystem reset and admin queue addresses: unused on fabrics
	case size8:
		return bad
	case offset == propCAP:
		return response{result: a.capabilities() & 0xffffffff}
	case offset == propCAP+4:
		return response{result: a.capabilities() >> 32}
	case offset == propVS:
		return response{result: 0x00020000}
	case offset == propCC:
		return response{result: uint64(a.cc)}
	case offset == propCSTS:
		return response{result: uint64(a.csts)}
	case offset == propCRTO:
		return response{result: capTimeout}
	default:
		return bad
	}
}

const capTimeout = 30 // units of 500 ms, as SPDK's

// capabilities is CAP: queue entries, contiguous queues, timeout, NVM command
// set, ready independent of media.
func (a *association) capabilities() uint64 {
	return uint64(a.sub.t.cfg.MaxQueueDepth-1) | 1<<16 | capTimeout<<24 | 1<<37 | 1<<59
}

// setProperty changes CC: enable, reset and shutdown (nvmf_prop_set_cc).
func (a *association) setProperty(offset uint32, size8 bool, value uint64) response {
	bad := failed(specific(SCConnectInvalidParameters))
	if offset != propCC || size8 {
		return bad
	}
	cc := uint32(value)
	a.mu.Lock()
	old := a.cc
	diff := cc ^ old
	if diff&(0xf<<7) != 0 || diff&(7<<11) != 0 || cc&ccSHNMask == ccSHNMask {
		a.mu.Unlock()
		return bad
	}
	a.cc = cc
	var drain []*qpair
	switch {
	case diff&ccEnable != 0 && cc&ccEnable != 0:
		a.csts |= cstsReady
		a.expireAt = time.Time{}
	case diff&ccEnable != 0:
		drain = a.ioQueues()
		a.settle()
	}
	if diff&ccSHNMask != 0 && cc&ccSHNMask != 0 {
		drain = a.ioQueues()
		a.kato = 0 // no keep-alive is due from here on
		a.wake()
		a.settle()
	}
	a.mu.Unlock()
	for _, q := range drain {
		q.drain()
	}
	return response{}
}

// cString is the text up to the first NUL.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
