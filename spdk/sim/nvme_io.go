package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
)

func (nb *nvmeBdev) bdevName() string { return fmt.Sprintf("%sn%d", nb.g.name, nb.nsid) }

// pick is the path that I/O goes over: the first optimized one, else the first
// non-optimized. wait says that a path may come back where there is none.
func (nb *nvmeBdev) pick() (c *nvmeCtrlr, conn *nvmeConn, wait bool) {
	nb.m.mu.Lock()
	defer nb.m.mu.Unlock()
	for _, o := range nb.g.paths {
		wait = wait || !o.failed()
		if _, active := o.namespaces[nb.nsid]; !active || !o.available() {
			continue
		}
		switch o.anaState(nb.nsid) {
		case nvmetcp.ANAOptimized:
			return o, o.conn, true
		case nvmetcp.ANANonOptimized:
			if c == nil {
				c, conn = o, o.conn
			}
		}
	}
	return c, conn, wait
}

// noPathRetry is the delay after which I/O without a path looks again
// (bdev_nvme_io_complete, -ENXIO).
const noPathRetry = time.Second

// do runs an I/O as bdev_nvme does: without a path it looks again every second
// while one may come back; aborted by a reset it is sent again, unless that reset
// came from a time-out or the user; failed by the target it is sent again up to
// bdev_retry_count times.
func (nb *nvmeBdev) do(ctx context.Context, io func(ctx context.Context, conn *nvmetcp.Controller) error) error {
	p := nb.m.p
	for retries := int32(0); ; {
		if err := p.gate.Wait(ctx); err != nil {
			return err
		}
		c, conn, wait := nb.pick()
		if conn == nil {
			limit := nb.m.opts.BdevRetryCount
			if !wait || limit != -1 && retries >= limit {
				return errFailed
			}
			if err := p.sleep(ctx, noPathRetry); err != nil {
				return err
			}
			continue
		}
		err := nb.try(ctx, c, conn, io)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if err := p.gate.Wait(ctx); err != nil {
			return err
		}
		var se *nvmetcp.StatusError
		switch {
		case nb.m.aborted(conn):
			nb.m.mu.Lock()
			dnr := conn.dnr
			nb.m.mu.Unlock()
			if dnr {
				return errFailed
			}
		case !errors.As(err, &se) || se.DNR || se.SCT == nvmetcp.SCTGeneric && se.SC == nvmetcp.SCAbortRequested:
			return err
		case se.PathError():
			if err := nb.pathError(ctx, c, conn); err != nil {
				return err
			}
		default:
			if nb.m.opts.BdevRetryCount != -1 && retries >= nb.m.opts.BdevRetryCount {
				return err
			}
			retries++
		}
	}
}

// aborted says whether an association is over; its I/O was not answered then. A
// connection that has just broken is waited for, so that its failover has begun
// before the I/O looks for a path.
func (m *nvmeModule) aborted(conn *nvmeConn) bool {
	if conn.Err() == nil {
		return false
	}
	select {
	case <-conn.Done():
	case <-m.p.ctx.Done():
	}
	m.p.locked(func() {
		for _, g := range m.groups {
			for _, c := range g.paths {
				c.broken(conn)
			}
		}
	})
	return true
}

// pathError reads the ANA states again after the target refused I/O on a path.
func (nb *nvmeBdev) pathError(ctx context.Context, c *nvmeCtrlr, conn *nvmeConn) error {
	ana, err := conn.ANAStates(ctx)
	if err != nil {
		return nb.m.p.sleep(ctx, noPathRetry)
	}
	nb.m.mu.Lock()
	stale := c.conn == conn
	if stale {
		c.ana = ana
	}
	served := c.anaState(nb.nsid) == nvmetcp.ANAOptimized || c.anaState(nb.nsid) == nvmetcp.ANANonOptimized
	nb.m.mu.Unlock()
	if stale && served {
		return nil
	}
	return nb.m.p.sleep(ctx, noPathRetry)
}

// try sends an I/O over one path and watches its time.
func (nb *nvmeBdev) try(ctx context.Context, c *nvmeCtrlr, conn *nvmeConn, io func(context.Context, *nvmetcp.Controller) error) error {
	if t := nb.m.opts.TimeoutUS; t > 0 {
		stop := nb.m.p.after(time.Duration(t)*time.Microsecond, func() { c.ioTimedOut(conn) })
		defer stop()
	}
	return io(ctx, conn.Controller)
}

// cstsFreeze is how long a CSTS read that nobody answers holds the reactor up:
// seen on a real target.
const cstsFreeze = 30 * time.Second

// ioTimedOut is what SPDK does on an I/O time-out: it reads CSTS with a synchronous
// command, during which the whole process stands still, and then takes the action.
func (c *nvmeCtrlr) ioTimedOut(conn *nvmeConn) {
	p := c.m.p
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	timer := p.node.cfg.Clock.NewTimer(cstsFreeze)
	defer timer.Stop()
	answered := make(chan struct{})
	// The answer to a keep-alive stands for that to the property read: both are
	// admin commands that a live target answers at once.
	p.spawn(func(context.Context) {
		if conn.KeepAlive(ctx) == nil {
			close(answered)
		}
	})
	grace := p.node.cfg.Clock.NewTimer(reactorGrace)
	defer grace.Stop()
	select {
	case <-answered:
	case <-conn.Done():
		return
	case <-grace.C():
		release := c.m.hold()
		select {
		case <-timer.C():
		case <-p.ctx.Done():
		}
		release()
	}
	c.timedOut(conn)
}

// reactorGrace is how long a CSTS read may take before the process is held up. The
// gate would keep its answer from being read, so that one which comes at once must
// come before.
const reactorGrace = 50 * time.Millisecond

// sleep waits on the process's clock.
func (p *process) sleep(ctx context.Context, d time.Duration) error {
	t := p.node.cfg.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (nb *nvmeBdev) ReadAt(ctx context.Context, p []byte, off int64) error {
	return nb.do(ctx, func(ctx context.Context, c *nvmetcp.Controller) error { return c.Read(ctx, nb.nsid, p, off) })
}

func (nb *nvmeBdev) WriteAt(ctx context.Context, p []byte, off int64) error {
	return nb.do(ctx, func(ctx context.Context, c *nvmetcp.Controller) error { return c.Write(ctx, nb.nsid, p, off) })
}

func (nb *nvmeBdev) Unmap(ctx context.Context, off, n int64) error {
	return nb.do(ctx, func(ctx context.Context, c *nvmetcp.Controller) error { return c.Deallocate(ctx, nb.nsid, off, n) })
}

func (nb *nvmeBdev) WriteZeroes(ctx context.Context, off, n int64) error {
	return nb.do(ctx, func(ctx context.Context, c *nvmetcp.Controller) error {
		return c.WriteZeroes(ctx, nb.nsid, off, n, false)
	})
}

// Flush does nothing unless enable_flush is set.
func (nb *nvmeBdev) Flush(ctx context.Context) error {
	if !nb.m.opts.EnableFlush {
		return nil
	}
	return nb.do(ctx, func(ctx context.Context, c *nvmetcp.Controller) error { return c.Flush(ctx, nb.nsid) })
}

// Reset resets every path in turn; a reset under way is waited for. It succeeds
// where one path did.
func (nb *nvmeBdev) Reset(ctx context.Context) error {
	nb.m.p.mu.Lock()
	paths := append([]*nvmeCtrlr(nil), nb.g.paths...)
	nb.m.p.mu.Unlock()
	good := false
	for _, c := range paths {
		result := make(chan bool, 1)
		nb.m.p.locked(func() {
			switch c.reset(func(rc errno) { result <- rc == 0 }) {
			case 0:
			case errBUSY:
				nb.m.mu.Lock()
				c.pending = append(c.pending, result)
				nb.m.mu.Unlock()
			case errALREADY:
				result <- true
			default:
				result <- false
			}
		})
		select {
		case ok := <-result:
			good = good || ok
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if !good {
		return errFailed
	}
	return nil
}

func (nb *nvmeBdev) supports(t ioType) bool {
	switch t {
	case ioRead, ioWrite, ioUnmap, ioFlush, ioReset, ioNVMeAdmin, ioNVMeIO, ioWriteZeroes, ioCompare,
		ioCompareAndWrite, ioAbort, ioCopy:
		return true
	default:
		return false
	}
}
