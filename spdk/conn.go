package spdk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

var (
	// errSilent marks a deadline that passed without a byte from the peer.
	errSilent      = errors.New("nothing was heard from SPDK")
	errLongAnswer  = errors.New("the answer is too long")
	errBadAnswer   = errors.New("the answer is not JSON-RPC")
	errConnRetired = errors.New("connection retired")
)

// wireRequest and wireAnswer are the frames of JSON-RPC 2.0.
type wireRequest struct {
	JSONRPC string          `json:"jsonrpc"`
	ID      uint64          `json:"id"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params,omitempty"`
}

type wireAnswer struct {
	ID     json.RawMessage `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  *wireError      `json:"error"`
}

type wireError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// conn is one connection. run owns its two goroutines: the reader, which hands answers to
// the calls that wait for them, and the writer, which alone writes, so that a peer that
// does not read holds up no caller beyond its context.
type conn struct {
	address string
	raw     net.Conn
	max     int

	out  chan outgoing
	dead chan struct{} // closed by fail

	mu      sync.Mutex
	nextID  uint64
	pending map[uint64]*pendingCall
	err     error // why dead is closed
	heard   uint64
	retired bool
}

type outgoing struct {
	frame    []byte
	deadline time.Time
	id       uint64
}

// pendingCall is a call that waits; done has room for the one message it gets.
type pendingCall struct {
	done chan outcome
}

type outcome struct {
	answer wireAnswer
	err    error
}

func newConn(address string, raw net.Conn, max int) *conn {
	return &conn{
		address: address,
		raw:     raw,
		max:     max,
		out:     make(chan outgoing),
		dead:    make(chan struct{}),
		pending: make(map[uint64]*pendingCall),
	}
}

// run returns when the connection has failed and both of its goroutines have ended.
func (c *conn) run() {
	var writer sync.WaitGroup
	writer.Go(c.write)
	c.fail(c.read())
	writer.Wait()
}

func (c *conn) usable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err == nil && !c.retired
}

// fail ends the connection once; calls in flight get an unknown outcome.
func (c *conn) fail(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = cause
	close(c.dead)
	_ = c.raw.Close() // nothing can be done about it, and the cause is known
	for id, p := range c.pending {
		p.done <- outcome{err: fmt.Errorf("%w: connection lost: %w", ErrUnknownOutcome, cause)}
		delete(c.pending, id)
	}
}

func (c *conn) retire() {
	c.mu.Lock()
	c.retired = true
	idle := len(c.pending) == 0
	c.mu.Unlock()
	if idle {
		c.fail(errConnRetired)
	}
}

// roundTrip sends one request and waits for its answer.
func (c *conn) roundTrip(ctx context.Context, method string, params json.RawMessage) (wireAnswer, error) {
	p := &pendingCall{done: make(chan outcome, 1)}
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return wireAnswer{}, fmt.Errorf("%w: connection lost: %w", ErrUnreachable, c.err)
	}
	c.nextID++
	id, heardBefore := c.nextID, c.heard
	c.pending[id] = p
	c.mu.Unlock()

	frame, err := json.Marshal(wireRequest{JSONRPC: "2.0", ID: id, Method: method, Params: params})
	if err != nil {
		c.forget(id)
		return wireAnswer{}, fmt.Errorf("encode request: %w", err)
	}
	deadline, _ := ctx.Deadline()
	select {
	case c.out <- outgoing{frame: frame, deadline: deadline, id: id}:
	case <-ctx.Done():
		c.forget(id)
		return wireAnswer{}, fmt.Errorf("%w: not sent: %w", ErrUnreachable, ctx.Err())
	case <-c.dead:
		c.forget(id)
		return wireAnswer{}, fmt.Errorf("%w: not sent: connection lost: %w", ErrUnreachable, c.err)
	}
	select {
	case o := <-p.done:
		return o.answer, o.err
	case <-ctx.Done():
	}
	silent := c.forget(id) == heardBefore && errors.Is(ctx.Err(), context.DeadlineExceeded)
	select {
	case o := <-p.done: // the answer and the deadline met
		return o.answer, o.err
	default:
	}
	if silent {
		return wireAnswer{}, fmt.Errorf("%w: %w: %w", ErrUnknownOutcome, errSilent, ctx.Err())
	}
	return wireAnswer{}, fmt.Errorf("%w: no answer: %w", ErrUnknownOutcome, ctx.Err())
}

// forget takes a call off the list and returns how many reads the connection has seen.
func (c *conn) forget(id uint64) uint64 {
	c.mu.Lock()
	heard, last := c.heard, c.drop(id)
	c.mu.Unlock()
	if last {
		c.fail(errConnRetired)
	}
	return heard
}

// drop takes a call off the list and reports whether a retired connection has now seen its
// last one. The caller holds mu.
func (c *conn) drop(id uint64) (last bool) {
	delete(c.pending, id)
	return c.retired && len(c.pending) == 0
}

// write sends frames until the connection fails.
func (c *conn) write() {
	for {
		select {
		case <-c.dead:
			return
		case o := <-c.out:
			n, err := c.writeFrame(o)
			if err == nil {
				continue
			}
			if n == 0 {
				c.deliver(o.id, outcome{err: fmt.Errorf("%w: not sent: %w", ErrUnreachable, err)})
			}
			c.fail(fmt.Errorf("write: %w", err))
			return
		}
	}
}

func (c *conn) writeFrame(o outgoing) (int, error) {
	if err := c.raw.SetWriteDeadline(o.deadline); err != nil {
		return 0, err
	}
	return c.raw.Write(o.frame)
}

// deliver ends a call and reports whether it was waiting.
func (c *conn) deliver(id uint64, o outcome) bool {
	c.mu.Lock()
	p, waiting := c.pending[id]
	if waiting {
		p.done <- o
	}
	last := c.drop(id)
	c.mu.Unlock()
	if last {
		c.fail(errConnRetired)
	}
	return waiting
}

// read hands out answers until the connection ends or sends something that cannot be one.
func (c *conn) read() error {
	in := &boundedReader{conn: c, left: c.max}
	all := frames{from: in}
	for {
		f, err := all.next()
		if err != nil {
			return err
		}
		in.left = c.max
		answer, err := f.answer()
		if err != nil {
			return err
		}
		if err := c.dispatch(answer); err != nil {
			return err
		}
	}
}

// dispatch finds the call that an answer belongs to. An answer without an id says that
// SPDK could not read a request, and not which: the connection cannot go on.
func (c *conn) dispatch(answer wireAnswer) error {
	if len(answer.ID) == 0 || bytes.Equal(answer.ID, []byte("null")) {
		if answer.Error != nil {
			return fmt.Errorf("%w: it names no request: %s (code %d)", errBadAnswer, answer.Error.Message, answer.Error.Code)
		}
		return fmt.Errorf("%w: it names no request", errBadAnswer)
	}
	if answer.Error == nil && answer.Result == nil {
		return fmt.Errorf("%w: it has neither result nor error", errBadAnswer)
	}
	id, err := strconv.ParseUint(string(answer.ID), 10, 64)
	if err != nil || !c.deliver(id, outcome{answer: answer}) {
		klog.Background().V(4).Info("Ignored an answer that no call waits for", "address", c.address, "id", string(answer.ID))
	}
	return nil
}

// boundedReader fails when more bytes come in for one answer than the connection allows.
// The decoder reads ahead, so that the bound may be missed by its buffer, never exceeded.
type boundedReader struct {
	conn *conn
	left int
}

func (r *boundedReader) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, fmt.Errorf("%w: more than %d bytes", errLongAnswer, r.conn.max)
	}
	n, err := r.conn.raw.Read(p[:min(len(p), r.left)])
	r.left -= n
	if n > 0 {
		r.conn.mu.Lock()
		r.conn.heard++
		r.conn.mu.Unlock()
	}
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("SPDK closed the connection: %w", err)
	}
	return n, err
}
