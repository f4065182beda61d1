package nvmetcp

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// maxRetries is how often a command is sent again after a status that is not
// about the path (nvme_core.max_retries).
const maxRetries = 5

// ReadAt fills p from the device, starting at byte off.
func (h *Head) ReadAt(ctx context.Context, p []byte, off int64) error {
	return h.do(ctx, func(ctx context.Context, c *Controller, nsid uint32) error { return c.Read(ctx, nsid, p, off) })
}

// WriteAt stores p at byte off. While no path is usable it waits.
func (h *Head) WriteAt(ctx context.Context, p []byte, off int64) error {
	return h.do(ctx, func(ctx context.Context, c *Controller, nsid uint32) error { return c.Write(ctx, nsid, p, off) })
}

// WriteZeroes makes n bytes at off read as zeroes. Like the kernel with SPDK's
// namespaces it never asks for deallocation.
func (h *Head) WriteZeroes(ctx context.Context, off, n int64, _ bool) error {
	return h.do(ctx, func(ctx context.Context, c *Controller, nsid uint32) error {
		return c.WriteZeroes(ctx, nsid, off, n, false)
	})
}

// Unmap deallocates n bytes at off.
func (h *Head) Unmap(ctx context.Context, off, n int64) error {
	return h.do(ctx, func(ctx context.Context, c *Controller, nsid uint32) error { return c.Deallocate(ctx, nsid, off, n) })
}

// Flush makes answered writes stable.
func (h *Head) Flush(ctx context.Context) error {
	return h.do(ctx, func(ctx context.Context, c *Controller, nsid uint32) error { return c.Flush(ctx, nsid) })
}

// do runs a command on a path and decides what its failure means
// (nvme_decide_disposition).
func (h *Head) do(ctx context.Context, op func(context.Context, *Controller, uint32) error) error {
	for retries := 0; ; {
		p, c, nsid, err := h.acquire(ctx)
		if err != nil {
			return err
		}
		err = h.timed(p, c, func() error { return op(ctx, c, nsid) })
		h.release(p)
		var se *StatusError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil || !errors.As(err, &se):
			return err
		case se.DNR || (!se.PathError() && retries == maxRetries):
			return err
		case se.PathError():
			h.failOver(p, c, se)
		default:
			retries++
		}
	}
}

// timed runs a command and has its path reset if it takes longer than the I/O
// timeout. Time in which the gate was shut does not count.
func (h *Head) timed(p *headPath, c *Controller, op func() error) error {
	gen := h.cfg.Gate.generation()
	var timer *time.Timer
	var mu sync.Mutex // orders the assignment of timer before its use
	mu.Lock()
	timer = time.AfterFunc(h.cfg.IOTimeout, func() {
		mu.Lock()
		defer mu.Unlock()
		if now := h.cfg.Gate.generation(); now != gen || h.cfg.Gate.Hung() {
			gen = now
			timer.Reset(h.cfg.IOTimeout)
			return
		}
		select {
		case p.reset <- c:
		default:
		}
	})
	mu.Unlock()
	err := op()
	mu.Lock()
	defer mu.Unlock()
	timer.Stop()
	return err
}

// acquire picks a path, waiting while none is usable but one may come back.
func (h *Head) acquire(ctx context.Context) (*headPath, *Controller, uint32, error) {
	for {
		h.mu.Lock()
		if p := h.pick(); p != nil {
			p.inFlight++
			c, nsid := p.ctrl, p.nsid
			h.mu.Unlock()
			return p, c, nsid, nil
		}
		wait, changed := h.ctx.Err() == nil && !h.gone && h.mayReturn(), h.changed
		h.mu.Unlock()
		if !wait {
			return nil, nil, 0, fmt.Errorf("I/O to %s: %w", h.cfg.SubNQN, ErrNoPath)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil, 0, ctx.Err()
		}
	}
}

// pick chooses as the kernel's numa policy on one node: stay on an optimized
// path, else the first optimized one, else the first non-optimized. The caller
// holds h.mu.
func (h *Head) pick() *headPath {
	if h.gone || h.ctx.Err() != nil {
		return nil
	}
	if h.current != nil && h.current.usable() && h.current.ana == ANAOptimized {
		return h.current
	}
	var fallback *headPath
	for _, p := range h.paths {
		switch {
		case !p.usable():
		case p.ana == ANAOptimized:
			h.current = p
			return p
		case fallback == nil:
			fallback = p
		}
	}
	h.current = fallback
	return fallback
}

// mayReturn says whether any path may serve I/O again. The caller holds h.mu.
func (h *Head) mayReturn() bool {
	for _, p := range h.paths {
		if p.mayReturn() {
			return true
		}
	}
	return false
}

func (h *Head) release(p *headPath) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p.inFlight--
	if p.inFlight == 0 && p.state == PathDeleting {
		h.notify()
	}
}

// failOver keeps further I/O off a path that could not serve a command
// (nvme_failover_req).
func (h *Head) failOver(p *headPath, c *Controller, se *StatusError) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.ctrl != c {
		return // the path has a new association already
	}
	switch {
	case se.SC == SCANAPersistentLoss || se.SC == SCANAInaccessible || se.SC == SCANATransition:
		p.pending = true
		select {
		case p.rescan <- struct{}{}:
		default:
		}
	case c.ctx.Err() != nil && p.state == PathLive:
		p.state = PathResetting
	}
	h.settle()
}
