package sim

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// netConn is one end of a TCP connection over a Network. Over a healthy link it is
// the connection itself. Over a faulty one what is written goes through a queue: a
// cut link keeps it there, as TCP keeps what isn't acknowledged.
type netConn struct {
	net.Conn
	w     *Network
	local string
	ack   time.Duration // TCP_USER_TIMEOUT, 0 for none
	bye   func()
	wg    sync.WaitGroup // the sender
	done  chan struct{}  // closed when this end is closed or broken
	once  sync.Once

	mu      sync.Mutex
	peer    string // "" until it is asked for
	queue   []netChunk
	queued  int // bytes
	sending bool
	changed chan struct{} // closed when the link or the queue changes
	err     error         // why this end is broken
	stopAck func()
}

type netChunk struct {
	data []byte
	at   time.Time
}

// maxUnsent is the send buffer: more blocks the writer.
const maxUnsent = 4 << 20

func (w *Network) wrap(nc net.Conn, local, peer string, ack time.Duration, bye func()) net.Conn {
	c := &netConn{Conn: nc, w: w, local: local, peer: peer, ack: ack, bye: bye, changed: make(chan struct{}), done: make(chan struct{})}
	w.mu.Lock()
	w.conns[c] = struct{}{}
	w.mu.Unlock()
	return c
}

// ends names the machines at both ends.
func (c *netConn) ends() (local, peer string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.peer == "" {
		c.peer = c.w.peerOf(c.RemoteAddr().String())
	}
	return c.local, c.peer
}

// faults are those of the way out and the way in.
func (c *netConn) faults() (out, in LinkFault) {
	local, peer := c.ends()
	return c.w.fault(local, peer), c.w.fault(peer, local)
}

// Read holds back what came over a cut link: only from Outside, as other senders
// hold it back themselves.
func (c *netConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	for {
		if cause := c.cause(); cause != nil {
			return 0, cause
		}
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if _, peer := c.ends(); peer != Outside {
			return n, err
		}
		if _, in := c.faults(); !in.Cut {
			return n, err
		}
		select {
		case <-changed:
		case <-c.done:
		}
	}
}

func (c *netConn) cause() error {
	select {
	case <-c.done:
	default:
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	return net.ErrClosed
}

// Write sends p, or queues it where the link is faulty.
func (c *netConn) Write(p []byte) (int, error) {
	out, in := c.faults()
	if out.Cut || in.Cut {
		c.awaitAck()
	}
	c.mu.Lock()
	if out == (LinkFault{}) && len(c.queue) == 0 && !c.sending {
		c.mu.Unlock()
		if cause := c.cause(); cause != nil {
			return 0, cause
		}
		return c.Conn.Write(p)
	}
	for c.queued+len(p) > maxUnsent && c.queued > 0 {
		changed := c.changed
		c.mu.Unlock()
		select {
		case <-changed:
		case <-c.done:
			return 0, c.cause()
		}
		c.mu.Lock()
	}
	defer c.mu.Unlock()
	select {
	case <-c.done:
		return 0, net.ErrClosed
	default:
	}
	c.queue = append(c.queue, netChunk{append([]byte(nil), p...), c.w.clock.Now()})
	c.queued += len(p)
	if !c.sending {
		c.sending = true
		c.wg.Add(1)
		go c.send()
	}
	return len(p), nil
}

// send empties the queue as the link lets it.
func (c *netConn) send() {
	defer c.wg.Done()
	for {
		c.mu.Lock()
		if len(c.queue) == 0 {
			c.sending = false
			c.mu.Unlock()
			return
		}
		chunk, changed := c.queue[0], c.changed
		c.mu.Unlock()
		out, _ := c.faults()
		switch {
		case out.Cut:
			select {
			case <-changed:
				continue
			case <-c.done:
				return
			}
		default:
			wait := chunk.at.Add(out.Delay).Sub(c.w.clock.Now())
			if out.BytesPerSecond > 0 {
				wait = max(wait, 0) + time.Duration(float64(len(chunk.data))/float64(out.BytesPerSecond)*float64(time.Second))
			}
			if wait > 0 && !c.pause(wait) {
				return
			}
		}
		if _, err := c.Conn.Write(chunk.data); err != nil {
			c.fail(err)
			return
		}
		c.mu.Lock()
		c.queue = c.queue[1:]
		c.queued -= len(chunk.data)
		c.notify()
		c.mu.Unlock()
	}
}

func (c *netConn) pause(d time.Duration) bool {
	t := c.w.clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return true
	case <-c.done:
		return false
	}
}

func (c *netConn) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// awaitAck gives the connection up when nothing is acknowledged for the time set.
func (c *netConn) awaitAck() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ack == 0 || c.stopAck != nil {
		return
	}
	t := c.w.clock.NewTimer(c.ack)
	stop := make(chan struct{})
	c.stopAck = sync.OnceFunc(func() { close(stop) })
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		defer t.Stop()
		select {
		case <-t.C():
			c.fail(&net.OpError{Op: "write", Net: "tcp", Addr: c.RemoteAddr(), Err: os.NewSyscallError("send", syscall.ETIMEDOUT)})
		case <-stop:
		case <-c.done:
		}
	}()
}

// linkChanged looks at the link again.
func (c *netConn) linkChanged() {
	out, in := c.faults()
	c.mu.Lock()
	if !out.Cut && !in.Cut && c.stopAck != nil {
		c.stopAck()
		c.stopAck = nil
	}
	c.notify()
	c.mu.Unlock()
	select {
	case <-c.done:
		c.hangup()
	default:
	}
}

// fail ends this end with an error, as the kernel does.
func (c *netConn) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	c.end()
}

// end makes local calls return; the peer hears of it when the link lets it.
func (c *netConn) end() {
	c.once.Do(func() {
		close(c.done)
		c.bye()
	})
	_ = c.SetDeadline(time.Unix(1, 0)) // wakes Read and Write up
	c.hangup()
}

// hangup closes the connection unless its end couldn't reach the peer now.
func (c *netConn) hangup() {
	if out, _ := c.faults(); out.Cut {
		return
	}
	c.w.mu.Lock()
	delete(c.w.conns, c)
	c.w.mu.Unlock()
	_ = c.Conn.Close() // the other end sees it; there is nobody to tell here
}

// Close closes this end. What the queue of a slow link still holds is lost.
func (c *netConn) Close() error {
	c.end()
	c.wg.Wait()
	return nil
}

// SetLinger makes Close reset the connection with 0, as TCPConn.SetLinger does.
func (c *netConn) SetLinger(sec int) error {
	if tc, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
		return tc.SetLinger(sec)
	}
	return nil
}
