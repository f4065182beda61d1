package random_test

import (
	"context"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/timeouts"
)

// client is what makes the CO's calls about one volume or snapshot, one at a time.
type client struct {
	w    *world
	name string
	call *call
}

// call is a CSI call under way.
type call struct {
	what  string
	begun time.Time
	ended chan error
	// settle notes its outcome.
	settle func(err error)
}

func (c *client) String() string { return c.name }

// begin starts a CSI call in a process of the driver.
func (c *client) begin(what string, p *process, f func(ctx context.Context) error, settle func(err error)) {
	under := &call{what: what, begun: time.Now(), ended: make(chan error, 1), settle: settle}
	c.call = under
	c.w.trace.add("%s: %s", c, what)
	p.spawn(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, timeouts.CSI)
		defer cancel()
		err := f(ctx)
		if dead := p.dead(); dead != nil {
			err = dead
		}
		under.ended <- err
	})
}

// collect notes the outcome of a call that has ended.
func (c *client) collect() {
	under := c.call
	if under == nil {
		return
	}
	select {
	case err := <-under.ended:
		c.call = nil
		if took := time.Since(under.begun); err != nil {
			c.w.trace.add("%s: %s failed after %v: %v", c, under.what, took, err)
		} else {
			c.w.trace.add("%s: %s done in %v", c, under.what, took)
		}
		under.settle(err)
	default:
	}
}
