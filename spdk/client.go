package spdk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// MaxRequestBytes is the size of SPDK's receive buffer: it drops the connection on a
// longer request (lib/jsonrpc/jsonrpc_internal.h).
const MaxRequestBytes = 256 << 10

// DefaultMaxAnswerBytes bounds an answer where Options does not; SPDK's own limit is
// 32 MiB (lib/jsonrpc/jsonrpc_internal.h).
const DefaultMaxAnswerBytes = 33 << 20

// Options are the settings of a Client.
type Options struct {
	// CallTimeout bounds every call; a context may bound it further. It must be positive.
	CallTimeout time.Duration
	// TLS is needed for tls:// addresses and ignored for others.
	TLS TLSFiles
	// MaxAnswerBytes bounds one answer; 0 means DefaultMaxAnswerBytes.
	MaxAnswerBytes int
}

// Client is a Caller for one address. It connects when it is first called and again after
// a connection was lost. It may be used by any number of goroutines; their calls are in
// flight together on one connection.
type Client struct {
	address string
	options Options
	dial    func(ctx context.Context) (net.Conn, error)

	// dialing is held while a connection is made, so that only one is.
	dialing chan struct{}

	mu     sync.Mutex
	conn   *conn // nil when the next call has to connect
	closed bool
	conns  sync.WaitGroup
	live   map[*conn]struct{}
}

// Dial returns a Client for "unix:///path/to/socket" or "tls://host:port". It reads and
// checks the address and the options and makes no connection.
func Dial(address string, options Options) (*Client, error) {
	if options.CallTimeout <= 0 {
		return nil, fmt.Errorf("SPDK client for %s: CallTimeout is %v, give a positive duration", address, options.CallTimeout)
	}
	if options.MaxAnswerBytes == 0 {
		options.MaxAnswerBytes = DefaultMaxAnswerBytes
	}
	dial, err := Dialer(address, options.TLS)
	if err != nil {
		return nil, err
	}
	return &Client{
		address: address,
		options: options,
		dial:    dial,
		dialing: make(chan struct{}, 1),
		live:    make(map[*conn]struct{}),
	}, nil
}

// Address returns the address that was given to Dial.
func (c *Client) Address() string { return c.address }

// Close drops the connection and waits for its goroutines. Calls in flight end with
// ErrUnknownOutcome, later ones with ErrUnreachable.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	for cn := range c.live {
		cn.fail(net.ErrClosed)
	}
	c.mu.Unlock()
	c.conns.Wait()
	return nil
}

// Call implements Caller.
func (c *Client) Call(ctx context.Context, method string, params, result any) error {
	ctx, cancel := context.WithTimeout(ctx, c.options.CallTimeout)
	defer cancel()
	encoded, err := encodeParams(params)
	if err != nil {
		return fmt.Errorf("%s at %s: encode parameters: %w", method, c.address, err)
	}
	if len(encoded)+len(method) > MaxRequestBytes-128 {
		return fmt.Errorf("%s at %s: request of %d bytes is longer than SPDK accepts (%d)", method, c.address, len(encoded), MaxRequestBytes)
	}
	logger := klog.FromContext(ctx).V(5)
	if logger.Enabled() {
		logger.Info("SPDK call", "address", c.address, "method", method, "params", redact(encoded))
	}
	answer, err := c.exchange(ctx, method, encoded)
	if err != nil {
		return fmt.Errorf("%s at %s: %w", method, c.address, err)
	}
	if logger.Enabled() {
		logger.Info("SPDK answer", "address", c.address, "method", method, "result", redact(answer.Result), "error", answer.Error)
	}
	if answer.Error != nil && answer.Error.Code == CodeNotForwarded {
		return fmt.Errorf("%s at %s: %w: %s", method, c.address, ErrUnreachable, answer.Error.Message)
	}
	if answer.Error != nil {
		return &Error{Method: method, Code: answer.Error.Code, Message: answer.Error.Message}
	}
	if result == nil {
		return nil
	}
	if raw, ok := result.(*json.RawMessage); ok {
		*raw = answer.Result // its caller decodes it
		return nil
	}
	if err := json.Unmarshal(answer.Result, result); err != nil {
		return fmt.Errorf("%s at %s: %w: the result is not what the method promises: %w", method, c.address, ErrUnknownOutcome, err)
	}
	return nil
}

// exchange sends a request and waits for its answer. A connection that its peer has closed, as SPDK does when it ends, may be noticed
// only by the attempt to send: then nothing was sent, and a new connection is tried once.
func (c *Client) exchange(ctx context.Context, method string, params json.RawMessage) (wireAnswer, error) {
	for first := true; ; first = false {
		cn, err := c.connection(ctx)
		if err != nil {
			return wireAnswer{}, fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
		answer, err := cn.roundTrip(ctx, method, params)
		notSent := errors.Is(err, ErrUnreachable)
		if notSent || errors.Is(err, errSilent) {
			c.retire(cn)
		}
		if !notSent || !first || ctx.Err() != nil {
			return answer, err
		}
	}
}

func encodeParams(params any) (json.RawMessage, error) {
	if params == nil {
		return nil, nil
	}
	return json.Marshal(params)
}

// connection returns the present connection, or makes one.
func (c *Client) connection(ctx context.Context) (*conn, error) {
	select {
	case c.dialing <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-c.dialing }()

	c.mu.Lock()
	cn, closed := c.conn, c.closed
	c.mu.Unlock()
	if closed {
		return nil, net.ErrClosed
	}
	if cn != nil && cn.usable() {
		return cn, nil
	}
	raw, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	cn = newConn(c.address, raw, c.options.MaxAnswerBytes)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.Join(net.ErrClosed, raw.Close())
	}
	c.conn = cn
	c.live[cn] = struct{}{}
	c.conns.Go(func() {
		cn.run()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.live, cn)
	})
	return cn, nil
}

// retire keeps further calls off a connection on which a call met its deadline without a
// byte from the peer: a path that lost its state on the way would swallow every call. The
// calls that are in flight on it may still end.
func (c *Client) retire(cn *conn) {
	c.mu.Lock()
	if c.conn == cn {
		c.conn = nil
	}
	c.mu.Unlock()
	cn.retire()
}
