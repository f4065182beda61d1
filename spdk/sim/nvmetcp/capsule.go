package nvmetcp

import (
	"errors"
	"fmt"
)

// capsule takes a command and fetches its data, from the capsule or with R2T.
func (q *qpair) capsule(p *pdu) error {
	r := &request{q: q}
	copy(r.cmd[:], p.hdr[commonHeader:])
	r.dir = r.cmd.direction()
	if err := q.begin(p); err != nil {
		return err
	}
	n := int(r.cmd.sglLength())
	if p.dataLen > 0 || (r.dir == dirToController && r.cmd.sglType() == sglInCapsule) {
		return q.inCapsule(p, r, n)
	}
	if r.dir == dirNone {
		q.dispatch(r)
		return nil
	}
	if r.cmd.sglType() != sglTransport {
		return q.violation(p, fesUnsupportedArg, 32, fmt.Sprintf("SGL descriptor type %#02x", r.cmd.sglType()))
	}
	if r.cmd.sglLength() > uint32(q.t.cfg.MaxIOSize) {
		return q.violation(p, fesLimitExceeded, 0, "data larger than the controller's maximum transfer")
	}
	if r.dir == dirToHost {
		q.dispatch(r)
		return nil
	}
	r.data = getBuffer(n)
	tag := q.newTag()
	q.transfers[tag] = r
	r2t := newPDU(pduR2T, 0)
	le.PutUint16(r2t.hdr[8:], r.cmd.cid())
	le.PutUint16(r2t.hdr[10:], tag)
	le.PutUint32(r2t.hdr[16:], uint32(n))
	q.out.send(r2t)
	return nil
}

// begin counts a command in; a host that has more outstanding than the queue has
// entries broke the protocol.
func (q *qpair) begin(p *pdu) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.inFlight++
	if q.inFlight > max(q.t.cfg.MaxQueueDepth, adminQueueDepth)+maxAERs {
		return q.violation(p, fesSequence, 0, "more commands than the queue has entries")
	}
	return nil
}

// inCapsule reads data that came with the command. Admin and fabrics commands
// may bring 8 KiB whatever the capsule size (NVMe over TCP 1.0, 3.3.1.1).
func (q *qpair) inCapsule(p *pdu, r *request, n int) error {
	limit := q.t.cfg.InCapsuleDataSize
	if r.cmd.opcode() == opFabrics || q.id() == 0 {
		limit = max(limit, 2*pageSize)
	}
	switch {
	case r.cmd.sglType() != sglInCapsule || r.dir != dirToController:
		return q.violation(p, fesUnsupportedArg, 32, "data in the capsule of a command that takes none")
	case p.dataLen != n:
		return q.violation(p, fesInvalidHeader, 4, "in-capsule data is not as long as the SGL says")
	case r.cmd.sglAddress() != 0:
		return q.violation(p, fesUnsupportedArg, 32, "in-capsule data offset is not 0")
	case n > limit:
		return q.violation(p, fesLimitExceeded, 0, "in-capsule data larger than the capsule")
	}
	r.data = getBuffer(n)
	r.got = n
	if err := q.in.data(p, r.data.b); errors.Is(err, errDataDigest) {
		r.badDigest = true
	} else if err != nil {
		r.data.free()
		return err
	}
	q.dispatch(r)
	return nil
}

func (q *qpair) newTag() uint16 {
	for {
		q.nextTag++
		if _, used := q.transfers[q.nextTag]; !used && q.nextTag != 0 {
			return q.nextTag
		}
	}
}

// h2cData takes a part of a command's data, in order, as the R2T asked for it.
func (q *qpair) h2cData(p *pdu) error {
	cid, tag := le.Uint16(p.hdr[8:]), le.Uint16(p.hdr[10:])
	off, n := uint64(le.Uint32(p.hdr[12:])), uint64(le.Uint32(p.hdr[16:]))
	r, ok := q.transfers[tag]
	switch {
	case !ok:
		return q.violation(p, fesInvalidHeader, 10, "transfer tag that was not handed out")
	case r.cmd.cid() != cid:
		return q.violation(p, fesSequence, 8, "transfer tag of another command")
	case off != uint64(r.got) || off+n > uint64(len(r.data.b)):
		return q.violation(p, fesOutOfRange, 0, "data outside what the R2T asked for")
	case n != uint64(p.dataLen) || n == 0:
		return q.violation(p, fesInvalidHeader, 16, "data length differs from the PDU's")
	}
	if err := q.in.data(p, r.data.b[off:off+n]); errors.Is(err, errDataDigest) {
		r.badDigest = true
	} else if err != nil {
		return err
	}
	r.got += int(n)
	if r.got == len(r.data.b) {
		delete(q.transfers, tag)
		q.dispatch(r)
	}
	return nil
}
