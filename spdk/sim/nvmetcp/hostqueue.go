package nvmetcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// errLost is the status of a command whose association ended before its
// completion came: a path error, so that another path may be tried
// (NVME_SC_HOST_ABORTED_CMD in drivers/nvme/host).
var errLost error = &StatusError{SCT: SCTPath, SC: SCHostAborted}

// queue is one connection of a host: a queue pair with its reader and sender.
type queue struct {
	id     uint16
	conn   net.Conn
	ctx    context.Context // ends with the queue
	cancel context.CancelCauseFunc
	over   context.CancelCauseFunc
	in     *pduReader
	out    *sender
	maxH2C int // largest data of one H2CData PDU
	inline int // largest write data that goes into the capsule
	slots  chan uint16
	wg     sync.WaitGroup

	mu      sync.Mutex
	pending map[uint16]*hostCommand
	dead    bool
}

// hostCommand is a command of a queue. Its buffer belongs to the queue until the
// command is done; a caller that gives up leaves it there.
type hostCommand struct {
	cmd       sqe
	dir       direction
	data      *buffer
	badDigest bool
	done      chan struct{}
	abandoned bool

	result uint64
	err    error
}

// dialQueue connects and initializes a queue with room for depth entries.
// over is told why the queue ended before its commands are.
func dialQueue(ctx context.Context, cfg *HostConfig, id uint16, depth int, over context.CancelCauseFunc) (*queue, error) {
	ctx, stop := context.WithTimeout(ctx, cfg.ConnectTimeout)
	defer stop()
	raw, err := cfg.Dial(ctx, "tcp", cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("connect NVMe/TCP to %s: %w", cfg.Addr, err)
	}
	qctx, cancel := context.WithCancelCause(context.Background())
	conn := &gatedConn{Conn: raw, gate: cfg.Gate, ctx: qctx}
	q := &queue{
		id: id, conn: conn, ctx: qctx, cancel: cancel, over: over, in: newPDUReader(conn, false, hostMaxData), out: newSender(conn),
		slots: make(chan uint16, depth), pending: map[uint16]*hostCommand{},
	}
	context.AfterFunc(qctx, func() { _ = raw.Close() }) // unblocks reader and sender
	unhook := context.AfterFunc(ctx, func() { cancel(ctx.Err()) })
	err = q.initialize(cfg, raw)
	unhook()
	if ctx.Err() != nil {
		err = ctx.Err() // the reason for whatever the connection says
	}
	if err != nil {
		cancel(err)
		return nil, fmt.Errorf("initialize NVMe/TCP queue %d to %s: %w", id, cfg.Addr, err)
	}
	for cid := range depth - 1 { // a full queue has one entry free
		q.slots <- uint16(cid)
	}
	q.wg.Go(func() { cancel(q.out.run(qctx)) })
	q.wg.Go(func() {
		err := q.read()
		q.fail(err)
	})
	return q, nil
}

// initialize exchanges ICReq and ICResp.
func (q *queue) initialize(cfg *HostConfig, raw net.Conn) error {
	deadline := time.Now().Add(cfg.ConnectTimeout)
	if err := raw.SetDeadline(deadline); err != nil {
		return err
	}
	req := make([]byte, icHeader)
	req[0], req[2] = byte(pduICReq), icHeader
	le.PutUint32(req[4:], icHeader)
	if cfg.HeaderDigest {
		req[11] |= 1
	}
	if cfg.DataDigest {
		req[11] |= 2
	}
	if _, err := q.conn.Write(req); err != nil {
		return err
	}
	var p pdu
	if err := q.in.next(&p); err != nil {
		return err
	}
	if p.typ != pduICResp {
		return fmt.Errorf("PDU type %#02x instead of ICResp", uint8(p.typ))
	}
	cpda, digests := p.hdr[10], p.hdr[11]
	q.maxH2C = int(le.Uint32(p.hdr[12:]))
	switch {
	case le.Uint16(p.hdr[8:]) != 0:
		return errors.New("the target answers with an unknown PDU format version")
	case digests&3 != req[11]:
		return errors.New("the target does not accept the digests asked for")
	case q.maxH2C < minMaxH2CData:
		return fmt.Errorf("the target accepts only %d bytes of data in a PDU", q.maxH2C)
	case cpda > maxHPDA:
		return fmt.Errorf("the target wants data aligned to %d dwords", cpda)
	}
	q.in.hdgst, q.in.ddgst = cfg.HeaderDigest, cfg.DataDigest
	q.out.hdgst, q.out.ddgst = cfg.HeaderDigest, cfg.DataDigest
	if cpda > 0 {
		q.out.align = (int(cpda) + 1) * 4
	}
	return raw.SetDeadline(time.Time{})
}

// do runs a command and returns its result. data, of either direction, is copied;
// a context that ends leaves the command to its fate.
func (q *queue) do(ctx context.Context, cmd *sqe, data []byte) (uint64, error) {
	var cid uint16
	select {
	case cid = <-q.slots:
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-q.ctx.Done():
		return 0, q.lost()
	}
	c := &hostCommand{cmd: *cmd, done: make(chan struct{})}
	c.cmd.setCID(cid)
	q.describe(c, data)
	q.mu.Lock()
	if q.dead {
		q.mu.Unlock()
		c.data.free()
		return 0, q.lost()
	}
	q.pending[cid] = c
	q.submit(c)
	q.mu.Unlock()

	select {
	case <-c.done:
	case <-ctx.Done():
		q.mu.Lock()
		select {
		case <-c.done:
			q.mu.Unlock()
		default:
			c.abandoned = true
			q.mu.Unlock()
			return 0, ctx.Err()
		}
	}
	if c.err == nil && c.dir == dirToHost {
		copy(data, c.data.b)
	}
	c.data.free()
	return c.result, c.err
}

// describe sets the command's SGL and buffer.
func (q *queue) describe(c *hostCommand, data []byte) {
	c.cmd.setSGL(sglTransport, len(data))
	c.dir = c.cmd.direction()
	switch c.dir {
	case dirToHost:
		c.data = getBuffer(len(data))
	case dirToController:
		c.data = getBuffer(len(data))
		copy(c.data.b, data)
		if len(data) <= q.inline {
			c.cmd.setSGL(sglInCapsule, len(data))
		}
	}
}

// submit queues the command capsule. The caller holds q.mu.
func (q *queue) submit(c *hostCommand) {
	p := newPDU(pduCapsuleCmd, 0)
	copy(p.hdr[commonHeader:], c.cmd[:])
	if c.dir == dirToController && c.cmd.sglType() == sglInCapsule {
		p.data, p.owner = c.data.b, c.data.retain()
	}
	q.out.send(p)
}

func (q *queue) read() error {
	var p pdu
	for {
		if err := q.in.next(&p); err != nil {
			return err
		}
		var err error
		switch p.typ {
		case pduCapsuleResp:
			e := parseCQE(p.hdr[commonHeader:])
			err = q.finish(e.cid, e.result, statusFromWire(e.status))
		case pduC2HData:
			err = q.c2hData(&p)
		case pduR2T:
			err = q.r2t(&p)
		case pduC2HTermReq:
			err = fmt.Errorf("target ended the connection: fatal error status %d", le.Uint16(p.hdr[8:]))
		default:
			err = fmt.Errorf("unexpected PDU type %#02x", uint8(p.typ))
		}
		if err != nil {
			return err
		}
	}
}

func (q *queue) find(cid uint16) (*hostCommand, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.pending[cid]
	if c == nil {
		return nil, fmt.Errorf("PDU for command %d, which is not outstanding", cid)
	}
	return c, nil
}

// c2hData takes data of a command; with the success flag it completes it as well.
func (q *queue) c2hData(p *pdu) error {
	c, err := q.find(le.Uint16(p.hdr[8:]))
	if err != nil {
		return err
	}
	off, n := uint64(le.Uint32(p.hdr[12:])), uint64(le.Uint32(p.hdr[16:]))
	if c.dir != dirToHost || n != uint64(p.dataLen) || off+n > uint64(len(c.data.b)) {
		return fmt.Errorf("data of %d bytes at %d outside command %d's buffer", n, off, c.cmd.cid())
	}
	if err := q.in.data(p, c.data.b[off:off+n]); errors.Is(err, errDataDigest) {
		c.badDigest = true
	} else if err != nil {
		return err
	}
	if p.flags&flagSuccess == 0 {
		return nil
	}
	if p.flags&flagLast == 0 {
		return errors.New("success flag on data that is not the last")
	}
	return q.finish(c.cmd.cid(), 0, nil)
}

// r2t sends the part of a command's data that the target is ready for.
func (q *queue) r2t(p *pdu) error {
	c, err := q.find(le.Uint16(p.hdr[8:]))
	if err != nil {
		return err
	}
	tag := p.hdr[10:12]
	off, n := uint64(le.Uint32(p.hdr[12:])), uint64(le.Uint32(p.hdr[16:]))
	if c.dir != dirToController || n == 0 || off+n > uint64(len(c.data.b)) {
		return fmt.Errorf("R2T for %d bytes at %d outside command %d's buffer", n, off, c.cmd.cid())
	}
	for n > 0 {
		part := min(n, uint64(q.maxH2C))
		out := newPDU(pduH2CData, 0)
		if part == n {
			out.hdr[1] |= flagLast
		}
		copy(out.hdr[8:10], p.hdr[8:10])
		copy(out.hdr[10:12], tag)
		le.PutUint32(out.hdr[12:], uint32(off))
		le.PutUint32(out.hdr[16:], uint32(part))
		out.data, out.owner = c.data.b[off:off+part], c.data.retain()
		q.out.send(out)
		off, n = off+part, n-part
	}
	return nil
}

// finish completes a command and gives its id back.
func (q *queue) finish(cid uint16, result uint64, err error) error {
	q.mu.Lock()
	c := q.pending[cid]
	if c == nil {
		q.mu.Unlock()
		return fmt.Errorf("completion of command %d, which is not outstanding", cid)
	}
	delete(q.pending, cid)
	if c.badDigest && err == nil {
		err = generic(SCDataTransferError)
	}
	q.settle(c, result, err)
	q.mu.Unlock()
	q.slots <- cid
	return nil
}

// settle hands a command's result to its caller. The caller holds q.mu.
func (q *queue) settle(c *hostCommand, result uint64, err error) {
	c.result, c.err = result, err
	close(c.done)
	if c.abandoned {
		c.data.free()
	}
}

// fail ends the queue and every outstanding command. It runs when the reader has
// ended, so nothing writes into the commands' buffers any more.
func (q *queue) fail(cause error) {
	q.cancel(cause)
	q.over(context.Cause(q.ctx))
	q.mu.Lock()
	defer q.mu.Unlock()
	q.dead = true
	for cid, c := range q.pending {
		delete(q.pending, cid)
		q.settle(c, 0, q.lost())
	}
}

func (q *queue) lost() error {
	return fmt.Errorf("%w: the connection ended: %w", errLost, context.Cause(q.ctx))
}

// close ends the queue and waits for its goroutines.
func (q *queue) close(cause error) {
	q.cancel(cause)
	q.wg.Wait()
}
