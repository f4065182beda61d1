package nvmetcp

import (
	"context"
	"net"
	"sync"
)

// Gate freezes everything that shares it, as SIGSTOP freezes a process: while
// it is shut nobody reads, executes, sends or lets a timer act. The zero Gate is
// open. A nil *Gate is always open.
type Gate struct {
	mu    sync.Mutex
	open  chan struct{} // nil while open; closed on opening
	shuts int           // how often it was shut
}

// SetHung shuts the gate (true) or opens it (false).
func (g *Gate) SetHung(hung bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case hung && g.open == nil:
		g.open = make(chan struct{})
		g.shuts++
	case !hung && g.open != nil:
		close(g.open)
		g.open = nil
	}
}

// Hung says whether the gate is shut.
func (g *Gate) Hung() bool {
	ch, _ := g.state()
	return ch != nil
}

// Wait returns when the gate is open, or with the context's error.
func (g *Gate) Wait(ctx context.Context) error {
	for {
		ch, _ := g.state()
		if ch == nil {
			return nil
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// generation changes whenever the gate is shut: a timer that sees another one
// than when it was armed knows that its process did not run all the while.
func (g *Gate) generation() int {
	_, n := g.state()
	return n
}

func (g *Gate) state() (chan struct{}, int) {
	if g == nil {
		return nil, 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open, g.shuts
}

// gatedConn lets bytes pass only while its gate is open. ctx ends with the
// connection.
type gatedConn struct {
	net.Conn
	gate *Gate
	ctx  context.Context
}

func (c *gatedConn) Read(p []byte) (int, error) {
	if err := c.gate.Wait(c.ctx); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p)
	if werr := c.gate.Wait(c.ctx); werr != nil {
		return 0, werr
	}
	return n, err
}

func (c *gatedConn) Write(p []byte) (int, error) {
	if err := c.gate.Wait(c.ctx); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
