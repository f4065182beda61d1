package nvmetcp

import (
	"bufio"
	"context"
	"errors"
	"hash/crc32"
	"net"
	"sync"
)

// outPDU is a PDU to be sent: a header without its digest, then data.
type outPDU struct {
	hdr   [icHeader]byte
	hlen  int
	data  []byte
	owner *buffer // freed when the PDU was sent or dropped
}

// newPDU starts a PDU; finish sets its lengths.
func newPDU(t pduType, flags uint8) *outPDU {
	p := &outPDU{hlen: headerLen(t)}
	p.hdr[0], p.hdr[1], p.hdr[2] = byte(t), flags, byte(p.hlen)
	return p
}

// sender owns the sending direction of a connection: PDUs are queued without
// blocking and written in order by one goroutine. The queue is bounded by the
// commands outstanding on the connection.
type sender struct {
	conn         net.Conn
	hdgst, ddgst bool // set before run
	align        int  // data offset alignment that the peer asked for, bytes

	mu    sync.Mutex
	queue []*outPDU
	wake  chan struct{}
	last  bool // nothing may follow what is queued
	ended bool
}

var errLastSent = errors.New("the connection was terminated")

func newSender(conn net.Conn) *sender {
	return &sender{conn: conn, wake: make(chan struct{}, 1)}
}

// send queues a PDU. After the connection's end it is dropped.
func (s *sender) send(p *outPDU) { s.enqueue(p, false) }

// sendLast queues a PDU after which run returns.
func (s *sender) sendLast(p *outPDU) { s.enqueue(p, true) }

func (s *sender) enqueue(p *outPDU, last bool) {
	s.mu.Lock()
	if s.ended || s.last {
		s.mu.Unlock()
		p.owner.free()
		return
	}
	s.queue = append(s.queue, p)
	s.last = last
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run writes queued PDUs until ctx ends or a write fails; then it drops what is
// queued and later sends.
func (s *sender) run(ctx context.Context) error {
	defer s.drop()
	w := bufio.NewWriterSize(s.conn, 64<<10)
	for {
		s.mu.Lock()
		batch, last := s.queue, s.last
		s.queue = nil
		s.mu.Unlock()
		for i, p := range batch {
			err := s.write(w, p)
			p.owner.free()
			if err != nil {
				freeAll(batch[i+1:])
				return err
			}
		}
		if len(batch) > 0 && !last {
			continue
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if last {
			return errLastSent
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *sender) drop() {
	s.mu.Lock()
	s.ended = true
	queue := s.queue
	s.queue = nil
	s.mu.Unlock()
	freeAll(queue)
}

func freeAll(ps []*outPDU) {
	for _, p := range ps {
		p.owner.free()
	}
}

// write completes the common header, digests and padding included, and writes
// the PDU.
func (s *sender) write(w *bufio.Writer, p *outPDU) error {
	t := pduType(p.hdr[0])
	hdgst := s.hdgst && carriesDigest(t)
	ddgst := s.ddgst && carriesDigest(t) && len(p.data) > 0
	plen := p.hlen
	if hdgst {
		plen += digestSize
		p.hdr[1] |= flagHDGST
	}
	pad := 0
	if len(p.data) > 0 && carriesDigest(t) {
		if s.align > 0 && plen%s.align != 0 {
			pad = s.align - plen%s.align
			plen += pad
		}
		p.hdr[3] = byte(plen)
	}
	plen += len(p.data)
	if ddgst {
		plen += digestSize
		p.hdr[1] |= flagDDGST
	}
	le.PutUint32(p.hdr[4:], uint32(plen))

	var tail [digestSize]byte
	if _, err := w.Write(p.hdr[:p.hlen]); err != nil {
		return err
	}
	if hdgst {
		le.PutUint32(tail[:], crc32.Checksum(p.hdr[:p.hlen], castagnoli))
		if _, err := w.Write(tail[:]); err != nil {
			return err
		}
	}
	if _, err := w.Write(zeroes[:pad]); err != nil {
		return err
	}
	if _, err := w.Write(p.data); err != nil {
		return err
	}
	if ddgst {
		le.PutUint32(tail[:], crc32.Checksum(p.data, castagnoli))
		if _, err := w.Write(tail[:]); err != nil {
			return err
		}
	}
	return nil
}

var zeroes [(maxHPDA + 1) * 4]byte
