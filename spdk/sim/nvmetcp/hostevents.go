package nvmetcp

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Events delivers what the target announces. An event that nobody takes is kept;
// repeated ones may be merged.
func (c *Controller) Events() <-chan Event { return c.events }

// watchEvents keeps one asynchronous event request outstanding, as Linux does.
func (c *Controller) watchEvents() {
	for {
		result, err := c.adminCommand(c.ctx, opAsyncEvent, 0, nil)
		var se *StatusError
		switch {
		case err == nil:
			c.event(uint32(result))
		case errors.As(err, &se) && !se.PathError():
			c.log.Info("The target refuses asynchronous events", "nqn", c.cfg.SubNQN, "status", se.Error())
			return
		default:
			return // the association has ended
		}
	}
}

func (c *Controller) event(result uint32) {
	switch result {
	case aenNamespaceChanged:
		if _, err := c.logPage(c.ctx, logChangedNS, 0, pageSize); err != nil {
			c.log.V(4).Info("Reading the changed namespace list failed", "nqn", c.cfg.SubNQN, "err", err.Error())
		}
		c.post(Event{Type: EventNamespaceChanged})
	case aenANAChanged:
		c.post(Event{Type: EventANAChanged})
	}
}

// post delivers an event; when the channel is full its receiver has events of
// every kind to look at already.
func (c *Controller) post(e Event) {
	select {
	case c.events <- e:
	default:
	}
}

// sendKeepAlives sends a keep-alive every half of a timeout and ends the
// association when one is unanswered for the whole of it.
func (c *Controller) sendKeepAlives(kato time.Duration) {
	timer := time.NewTimer(kato / 2)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-c.ctx.Done():
			return
		}
		if c.cfg.Gate.Wait(c.ctx) != nil {
			return
		}
		start := time.Now()
		if err := c.awaitKeepAlive(kato); err != nil {
			c.cancel(err)
			return
		}
		timer.Reset(max(kato/2-time.Since(start), 0))
	}
}

// awaitKeepAlive runs one keep-alive. Time in which the gate was shut does not
// count: a process that goes on reads its sockets before its timers act.
func (c *Controller) awaitKeepAlive(kato time.Duration) error {
	answer := make(chan error, 1)
	c.wg.Go(func() { answer <- c.KeepAlive(c.ctx) })
	timer := time.NewTimer(kato)
	defer timer.Stop()
	for {
		gen := c.cfg.Gate.generation()
		select {
		case err := <-answer:
			return err
		case <-c.ctx.Done():
			return context.Cause(c.ctx)
		case <-timer.C:
		}
		if err := c.cfg.Gate.Wait(c.ctx); err != nil {
			return err
		}
		if c.cfg.Gate.generation() == gen {
			return fmt.Errorf("%w: %s did not answer a keep-alive for %v", errLost, c.cfg.Addr, kato)
		}
		timer.Reset(kato)
	}
}
