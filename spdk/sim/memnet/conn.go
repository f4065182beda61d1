package memnet

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// bufferBytes is how much may be on its way in one direction: a writer waits while it is more.
const bufferBytes = 4 << 20

// stream is one direction of a connection.
type stream struct {
	mu      sync.Mutex
	changed sync.Cond
	data    []byte
	from    int // what of data was read
	// finished: the writer has closed. gone: the reader has. broken: the connection was reset.
	finished, gone, broken bool
	// until are the deadlines of the reader and the writer, zero where there is none; timers wake them up then.
	until  [2]time.Time
	timers [2]*time.Timer
}

// Sides of a stream, as indexes.
const (
	reader = iota
	writer
)

func newStream() *stream {
	s := &stream{}
	s.changed.L = &s.mu
	return s
}

// conn implements net.Conn.
type conn struct {
	in, out       *stream
	local, remote net.Addr
	linger0       bool // guarded by out.mu
	closing       sync.Once
}

// pair returns the two ends of a connection.
func pair(client, server net.Addr) (*conn, *conn) {
	there, back := newStream(), newStream()
	return &conn{in: back, out: there, local: client, remote: server}, &conn{in: there, out: back, local: server, remote: client}
}

func (c *conn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.in.read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = c.fail("read", err)
	}
	return n, err
}

func (s *stream) read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.gone:
			return 0, net.ErrClosed
		case s.late(reader):
			return 0, os.ErrDeadlineExceeded
		case s.broken:
			return 0, os.NewSyscallError("read", syscall.ECONNRESET)
		case len(p) == 0:
			return 0, nil
		case s.from < len(s.data):
			n := copy(p, s.data[s.from:])
			if s.from += n; s.from == len(s.data) {
				s.data, s.from = s.data[:0], 0
			}
			s.changed.Broadcast()
			return n, nil
		case s.finished:
			return 0, io.EOF
		}
		s.changed.Wait()
	}
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.out.write(p)
	if err != nil {
		err = c.fail("write", err)
	}
	return n, err
}

func (s *stream) write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := 0; ; {
		switch {
		case s.finished:
			return n, net.ErrClosed
		case s.late(writer):
			return n, os.ErrDeadlineExceeded
		case s.broken:
			return n, os.NewSyscallError("write", syscall.ECONNRESET)
		case s.gone:
			return n, os.NewSyscallError("write", syscall.EPIPE)
		}
		if room := bufferBytes - (len(s.data) - s.from); room > 0 && n < len(p) {
			k := min(room, len(p)-n)
			s.data = append(s.data, p[n:n+k]...)
			n += k
			s.changed.Broadcast()
		}
		if n == len(p) {
			return n, nil
		}
		s.changed.Wait()
	}
}

// Close implements net.Conn: the other end reads what was written and then io.EOF. It may write no more.
func (c *conn) Close() error {
	err := c.fail("close", net.ErrClosed)
	c.closing.Do(func() {
		err = nil
		c.out.mu.Lock()
		reset := c.linger0
		c.out.mu.Unlock()
		if reset {
			c.out.end(func(s *stream) { s.broken, s.data, s.from = true, nil, 0 })
		}
		c.out.end(func(s *stream) { s.finished = true })
		c.in.end(func(s *stream) { s.gone, s.data, s.from = true, nil, 0 })
		c.stopTimers()
	})
	return err
}

// reset breaks the connection at both ends.
func (c *conn) reset() {
	for _, s := range []*stream{c.in, c.out} {
		s.end(func(s *stream) { s.broken, s.data, s.from = true, nil, 0 })
	}
}

// end changes a stream so that those who wait for it look again.
func (s *stream) end(change func(*stream)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
	s.changed.Broadcast()
}

func (c *conn) stopTimers() {
	c.in.deadline(reader, time.Time{})
	c.out.deadline(writer, time.Time{})
}

// SetLinger makes Close reset the connection with 0, as net.TCPConn's does; other values change nothing.
func (c *conn) SetLinger(sec int) error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.linger0 = sec == 0
	return nil
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.in.deadline(reader, t)
	c.out.deadline(writer, t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.deadline(reader, t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.out.deadline(writer, t)
	return nil
}

// late says whether the deadline of a side has passed. The caller holds mu.
func (s *stream) late(side int) bool {
	return !s.until[side].IsZero() && !time.Now().Before(s.until[side])
}

// deadline replaces the deadline of one side; the zero time is none.
func (s *stream) deadline(side int, t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timers[side] != nil {
		s.timers[side].Stop()
		s.timers[side] = nil
	}
	s.until[side] = t
	if left := time.Until(t); !t.IsZero() && left > 0 {
		s.timers[side] = time.AfterFunc(left, func() { s.end(func(*stream) {}) })
	}
	s.changed.Broadcast()
}
