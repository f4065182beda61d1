package nvmetcp

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// ioCommand runs a command on the next I/O queue.
func (c *Controller) ioCommand(ctx context.Context, cmd *sqe, data []byte) error {
	if len(c.io) == 0 {
		return fmt.Errorf("%s has no I/O queues", c.cfg.SubNQN)
	}
	_, err := c.io[int(c.next.Add(1))%len(c.io)].do(ctx, cmd, data)
	return err
}

// format is a namespace's description, asked for when it isn't known.
func (c *Controller) format(ctx context.Context, nsid uint32) (NamespaceInfo, error) {
	c.mu.Lock()
	ns, ok := c.namespaces[nsid]
	c.mu.Unlock()
	if ok {
		return ns, nil
	}
	ns, err := c.namespace(ctx, nsid)
	if err == nil && ns.SizeBytes == 0 {
		err = generic(SCInvalidNamespace).dnr()
	}
	return ns, err
}

// rw builds a command for a range of blocks.
func rw(op uint8, nsid uint32, ns NamespaceInfo, off, n int64) *sqe {
	var cmd sqe
	cmd[0] = op
	cmd.setNSID(nsid)
	le.PutUint64(cmd[40:], uint64(off/int64(ns.BlockSize)))
	cmd.setDword(12, uint32(n/int64(ns.BlockSize)-1))
	return &cmd
}

// checkRange refuses what is not whole blocks.
func checkRange(ns NamespaceInfo, off, n int64) error {
	bs := int64(ns.BlockSize)
	if off < 0 || n <= 0 || off%bs != 0 || n%bs != 0 {
		return fmt.Errorf("range of %d bytes at %d is not made of whole blocks of %d", n, off, bs)
	}
	return nil
}

// transfer moves p in commands of at most the controller's transfer size, all in
// flight together.
func (c *Controller) transfer(ctx context.Context, op uint8, nsid uint32, p []byte, off int64) error {
	ns, err := c.format(ctx, nsid)
	if err != nil {
		return err
	}
	if err := checkRange(ns, off, int64(len(p))); err != nil {
		return err
	}
	if len(p) <= c.maxIO {
		return c.ioCommand(ctx, rw(op, nsid, ns, off, int64(len(p))), p)
	}
	// Every command is waited for, also after one has failed: what is sent again
	// elsewhere must not be overtaken by a command that still executes here.
	var g errgroup.Group
	g.SetLimit(c.depth - 1)
	for len(p) > 0 {
		part := p[:min(c.maxIO, len(p))]
		cmd := rw(op, nsid, ns, off, int64(len(part)))
		g.Go(func() error { return c.ioCommand(ctx, cmd, part) })
		p, off = p[len(part):], off+int64(len(part))
	}
	return g.Wait()
}

// Read fills p from a namespace, starting at byte off; both are whole blocks. A
// failure is a *StatusError or the context's error.
func (c *Controller) Read(ctx context.Context, nsid uint32, p []byte, off int64) error {
	return c.transfer(ctx, opRead, nsid, p, off)
}

// Write stores p at byte off. Several commands that make up a large write are not
// ordered among themselves. When ctx ends first the outcome is unknown: the target
// may still execute the write, later.
func (c *Controller) Write(ctx context.Context, nsid uint32, p []byte, off int64) error {
	return c.transfer(ctx, opWrite, nsid, p, off)
}

// Compare succeeds if the namespace holds p at byte off, and fails with Compare
// Failure (SCT 2, SC 85h) if not.
func (c *Controller) Compare(ctx context.Context, nsid uint32, p []byte, off int64) error {
	return c.transfer(ctx, opCompare, nsid, p, off)
}

// maxZeroBlocks is what one Write Zeroes command covers.
const maxZeroBlocks = 1 << 16

// WriteZeroes makes n bytes at off read as zeroes. unmap asks for deallocation as
// well (DEAC), which SPDK refuses.
func (c *Controller) WriteZeroes(ctx context.Context, nsid uint32, off, n int64, unmap bool) error {
	ns, err := c.format(ctx, nsid)
	if err != nil {
		return err
	}
	if err := checkRange(ns, off, n); err != nil {
		return err
	}
	for n > 0 {
		part := min(n, c.maxZeroes*int64(ns.BlockSize))
		cmd := rw(opWriteZeroes, nsid, ns, off, part)
		if unmap {
			cmd.setDword(12, cmd.dword(12)|1<<25)
		}
		if err := c.ioCommand(ctx, cmd, nil); err != nil {
			return err
		}
		off, n = off+part, n-part
	}
	return nil
}

// maxDSMBlocks is what one range of Dataset Management covers.
const maxDSMBlocks = 1<<32 - 1

// Deallocate tells a namespace that n bytes at off are not needed any more.
func (c *Controller) Deallocate(ctx context.Context, nsid uint32, off, n int64) error {
	ns, err := c.format(ctx, nsid)
	if err != nil {
		return err
	}
	if err := checkRange(ns, off, n); err != nil {
		return err
	}
	bs := int64(ns.BlockSize)
	for n > 0 {
		part := min(n, c.maxDSM*bs)
		var ranges [dsmRange]byte
		le.PutUint32(ranges[4:], uint32(part/bs))
		le.PutUint64(ranges[8:], uint64(off/bs))
		var cmd sqe
		cmd[0] = opDSM
		cmd.setNSID(nsid)
		cmd.setDword(11, 1<<2)
		if err := c.ioCommand(ctx, &cmd, ranges[:]); err != nil {
			return err
		}
		off, n = off+part, n-part
	}
	return nil
}

// Flush makes the namespace's answered writes stable.
func (c *Controller) Flush(ctx context.Context, nsid uint32) error {
	var cmd sqe
	cmd[0] = opFlush
	cmd.setNSID(nsid)
	return c.ioCommand(ctx, &cmd, nil)
}
