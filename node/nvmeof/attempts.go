package nvmeof

import (
	"context"
	"fmt"
	"sync"
)

// operation identifies a call into the kernel.
type operation struct {
	verb string // connect or delete
	nqn  string
	what string // address for connect, controller's name for delete
}

func (o operation) String() string { return o.verb + " " + o.what + " of " + o.nqn }

// attempts are the calls into the kernel that are under way. Each runs in its
// own goroutine until the kernel answers; whoever asks for the same thing again
// meanwhile joins it.
type attempts struct {
	mu      sync.Mutex
	running map[operation]*attempt
	all     sync.WaitGroup
}

// attempt is one call; err may be read once done is closed.
type attempt struct {
	done chan struct{}
	err  error
}

// start begins f, unless op is under way already, and returns what runs.
func (a *attempts) start(op operation, f func() error) *attempt {
	a.mu.Lock()
	defer a.mu.Unlock()
	if at, ok := a.running[op]; ok {
		return at
	}
	if a.running == nil {
		a.running = map[operation]*attempt{}
	}
	at := &attempt{done: make(chan struct{})}
	a.running[op] = at
	a.all.Add(1)
	go func() {
		defer a.all.Done()
		at.err = f()
		a.mu.Lock()
		delete(a.running, op)
		a.mu.Unlock()
		close(at.done)
	}()
	return at
}

// do starts or joins op and waits for its end or ctx's. What ctx gave up on goes
// on.
func (a *attempts) do(ctx context.Context, op operation, f func() error) error {
	at := a.start(op, f)
	select {
	case <-at.done:
		return at.err
	case <-ctx.Done():
		return fmt.Errorf("the kernel has not finished: %s: %w", op, context.Cause(ctx))
	}
}

// pending returns one of the operations under way that match, if any.
func (a *attempts) pending(match func(operation) bool) (operation, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for op := range a.running {
		if match(op) {
			return op, true
		}
	}
	return operation{}, false
}

// wait returns when nothing runs or ctx has ended.
func (a *attempts) wait(ctx context.Context) error {
	idle := make(chan struct{})
	go func() { // ends with the last attempt
		a.all.Wait()
		close(idle)
	}()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		op, _ := a.pending(func(operation) bool { return true })
		return fmt.Errorf("the kernel has not finished, for one: %s: %w", op, context.Cause(ctx))
	}
}
