package nvmetcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// terminateTimeout bounds the sending of a termination request to a host that
// does not read.
const terminateTimeout = time.Second

var errTargetClosed = errors.New("the NVMe/TCP target is closed")

// adminQueueDepth is the largest number of entries of an admin queue (SPDK's
// max_aq_depth).
const adminQueueDepth = 128

// qpair is one connection of a host: a submission and a completion queue. The
// goroutine of serve reads it; every command runs in a goroutine of its own.
//
// A target that wants a qpair gone drains it, as SPDK does
// (spdk_nvmf_qpair_disconnect): nothing new executes, and the socket is closed
// when the commands that execute have ended.
type qpair struct {
	t      *Target
	raw    net.Conn
	conn   net.Conn // raw behind the gate
	listen string   // the target's address that the host connected to
	ctx    context.Context
	cancel context.CancelFunc
	queued context.Context // ends when the qpair is drained: for commands held by a pause
	flush  context.CancelFunc
	in     *pduReader
	out    *sender
	// senderDone is closed when out.run has returned.
	senderDone chan struct{}

	// Owned by serve.
	ready     bool // ICReq was answered
	transfers map[uint16]*request
	nextTag   uint16

	mu        sync.Mutex
	assoc     *association // nil before Connect
	qid       uint16
	sqSize    uint32 // entries
	sqHead    uint32
	inFlight  int             // commands read and not answered
	executing int             // of these, handed to execution; asynchronous events are not counted
	barred    bool            // until it is authenticated
	auth      *authentication // nil before the first
	draining  bool
	drained   chan struct{} // closed when draining and nothing executes
}

// request is a command and its data.
type request struct {
	q         *qpair
	cmd       sqe
	dir       direction
	data      *buffer // nil unless data moves
	got       int     // bytes received so far
	badDigest bool
}

func newQpair(t *Target, conn net.Conn, listen string) *qpair {
	ctx, cancel := context.WithCancel(t.ctx)
	queued, flush := context.WithCancel(ctx)
	gated := &gatedConn{Conn: conn, gate: t.gate, ctx: ctx}
	return &qpair{
		t: t, raw: conn, conn: gated, listen: listen, ctx: ctx, cancel: cancel, queued: queued, flush: flush,
		in: newPDUReader(gated, true, max(t.cfg.MaxIOSize, 2*pageSize)), out: newSender(gated),
		transfers: map[uint16]*request{}, drained: make(chan struct{}), senderDone: make(chan struct{}),
	}
}

// serve reads the connection until it ends, then waits for the commands that
// execute and leaves the association.
func (q *qpair) serve() {
	err := q.read()
	q.t.log.V(4).Info("NVMe/TCP connection ended", "peer", q.raw.RemoteAddr().String(), "qid", q.id(), "reason", err)
	var pe *protocolError
	if errors.As(err, &pe) {
		q.terminate(pe)
	}
	q.closeConn()
	q.drain()
	for _, r := range q.transfers {
		r.data.free()
	}
	<-q.drained
	q.t.mu.Lock()
	delete(q.t.qpairs, q)
	q.t.mu.Unlock()
	if a := q.association(); a != nil {
		a.leave(q)
	}
}

func (q *qpair) association() *association {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.assoc
}

func (q *qpair) id() uint16 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.qid
}

// closeConn ends the socket and with it reading and sending.
func (q *qpair) closeConn() {
	q.cancel()
	_ = q.raw.Close() // also closed by the peer or twice: nothing to learn
}

// drain stops execution; the socket is closed once nothing executes.
func (q *qpair) drain() {
	q.mu.Lock()
	q.draining = true
	idle := q.executing == 0
	q.mu.Unlock()
	q.flush()
	if idle {
		q.finishDrain()
	}
}

// terminate tells the host why the connection ends, as far as it still listens.
func (q *qpair) terminate(pe *protocolError) {
	p := newPDU(pduC2HTermReq, 0)
	le.PutUint16(p.hdr[8:], pe.fes)
	le.PutUint32(p.hdr[10:], pe.fei)
	p.data = pe.header
	_ = q.raw.SetWriteDeadline(time.Now().Add(terminateTimeout)) // fails only on a closed socket
	q.out.sendLast(p)
	<-q.senderDone
}

func (q *qpair) read() error {
	var p pdu
	for {
		if err := q.in.next(&p); err != nil {
			return err
		}
		var err error
		switch {
		case p.typ == pduICReq:
			err = q.icReq(&p)
		case !q.ready:
			err = q.violation(&p, fesSequence, 0, "PDU before ICReq")
		case p.typ == pduCapsuleCmd:
			err = q.capsule(&p)
		case p.typ == pduH2CData:
			err = q.h2cData(&p)
		default:
			return fmt.Errorf("host ended the connection: fatal error status %d", le.Uint16(p.hdr[8:]))
		}
		if err != nil {
			return err
		}
	}
}

func (q *qpair) violation(p *pdu, fes uint16, fei uint32, what string) error {
	return &protocolError{fes: fes, fei: fei, what: what, header: append([]byte(nil), p.hdr[:p.hlen]...)}
}

// icReq answers the initialization of the connection (NVMe over TCP 1.0, 3.6.2.2).
func (q *qpair) icReq(p *pdu) error {
	if q.ready {
		return q.violation(p, fesSequence, 0, "second ICReq")
	}
	if le.Uint16(p.hdr[8:]) != 0 {
		return q.violation(p, fesInvalidHeader, 8, "unknown PDU format version")
	}
	hpda, digests := p.hdr[10], p.hdr[11]
	if hpda > maxHPDA {
		return q.violation(p, fesInvalidHeader, 10, "data alignment out of range")
	}
	q.in.hdgst, q.in.ddgst = digests&1 != 0, digests&2 != 0
	q.out.hdgst, q.out.ddgst = q.in.hdgst, q.in.ddgst
	if hpda > 0 {
		q.out.align = (int(hpda) + 1) * 4
	}
	resp := newPDU(pduICResp, 0)
	resp.hdr[11] = digests & 3
	le.PutUint32(resp.hdr[12:], uint32(q.t.cfg.MaxIOSize))
	q.out.send(resp)
	q.ready = true
	return nil
}
