package nvmetcp

import "errors"

// response is what a command completes with. Data for the host is in the
// request's buffer.
type response struct {
	result uint64
	err    *StatusError
	// held says that the command stays outstanding (an asynchronous event request).
	held bool
	// dropped says that nobody waits for an answer: the qpair is being
	// disconnected and the command was still queued.
	dropped bool
}

func failed(err *StatusError) response { return response{err: err} }

// dispatch hands a command whose data is complete to a goroutine of its own, so
// that a hung device blocks nothing else.
func (q *qpair) dispatch(r *request) {
	q.mu.Lock()
	q.executing++
	q.mu.Unlock()
	q.t.wg.Go(func() {
		if q.t.gate.Wait(q.t.ctx) != nil {
			r.data.free() // the target was closed or killed
			q.ended()
			return
		}
		resp := q.process(r)
		switch {
		case resp.held:
		case resp.dropped:
			r.data.free()
		default:
			q.complete(r, resp)
		}
		q.ended()
	})
}

// process runs a command up to its result.
func (q *qpair) process(r *request) response {
	if r.badDigest {
		return failed(generic(SCTransientTransport))
	}
	q.mu.Lock()
	a, qid, draining, barred := q.assoc, q.qid, q.draining, q.barred
	q.mu.Unlock()
	switch {
	case draining:
		// SPDK reads on while it drains a qpair and answers like this
		// (nvmf_check_qpair_active).
		return failed(generic(SCCommandSequence))
	case a == nil && (r.cmd.opcode() != opFabrics || r.cmd.fctype() != fctypeConnect):
		return failed(generic(SCCommandSequence))
	case a == nil:
		return q.connect(r)
	case r.cmd.opcode() == opFabrics && (r.cmd.fctype() == fctypeAuthSend || r.cmd.fctype() == fctypeAuthReceive):
		return q.authenticate(a, r)
	case barred:
		return failed(specific(SCAuthRequired))
	case r.cmd.opcode() == opFabrics || qid == 0:
		return a.manage(q, r, qid)
	default:
		return a.io(q, r)
	}
}

// complete queues a command's answer and frees or passes on its buffer.
func (q *qpair) complete(r *request, resp response) {
	e := cqe{result: resp.result, cid: r.cmd.cid()}
	if resp.err != nil {
		e.status = resp.err.wire()
	}
	q.mu.Lock()
	q.inFlight-- // before the host can know: it may send the next command at once
	flowOff := q.assoc != nil && q.assoc.flowOff
	if !flowOff && q.sqSize > 0 {
		q.sqHead = (q.sqHead + 1) % q.sqSize
		e.sqhd = uint16(q.sqHead)
	}
	q.mu.Unlock()

	if resp.err == nil && r.dir == dirToHost && r.data != nil {
		data := newPDU(pduC2HData, flagLast)
		le.PutUint16(data.hdr[8:], e.cid)
		le.PutUint32(data.hdr[16:], uint32(len(r.data.b)))
		data.data, data.owner = r.data.b, r.data
		// Success without a completion only where the host does not count on
		// SQHD, as SPDK does (lib/nvmf/tcp.c).
		success := flowOff && e.result == 0
		if success {
			data.hdr[1] |= flagSuccess
		}
		q.out.send(data)
		if success {
			return
		}
	} else {
		r.data.free()
	}
	p := newPDU(pduCapsuleResp, 0)
	e.put(p.hdr[commonHeader:])
	q.out.send(p)
}

// ended counts a command out of execution.
func (q *qpair) ended() {
	q.mu.Lock()
	q.executing--
	last := q.draining && q.executing == 0
	q.mu.Unlock()
	if last {
		q.finishDrain()
	}
}

// finishDrain closes a drained qpair, once.
func (q *qpair) finishDrain() {
	q.mu.Lock()
	select {
	case <-q.drained:
	default:
		close(q.drained)
	}
	q.mu.Unlock()
	q.closeConn()
}

// ensureData gives a command that returns data its buffer, zeroed.
func (r *request) ensureData() {
	if r.dir == dirToHost && r.data == nil {
		r.data = zeroed(int(r.cmd.sglLength()))
	}
}

// bytes is the command's data, nil without any.
func (r *request) bytes() []byte {
	if r.data == nil {
		return nil
	}
	return r.data.b
}

// status turns a device's error into a completion status.
func status(err error) *StatusError {
	var se *StatusError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &se):
		return se
	default:
		return generic(SCInternalError)
	}
}
