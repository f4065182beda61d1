package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
)

// What a call without a socket may end with besides a CallError.
var (
	// ErrNotRunning says that no process runs: nothing was begun.
	ErrNotRunning = errors.New("no process runs")
	// ErrHungUp says that the process ended or hung up before it answered: the call may have had its effect.
	ErrHungUp = errors.New("the process hung up")
)

// CallError is the error that a process answers with.
type CallError struct {
	Code    int
	Message string
}

func (e *CallError) Error() string { return fmt.Sprintf("code %d: %s", e.Code, e.Message) }

// Call makes a JSON-RPC call as a client of the socket does, RPC faults included, without a socket. A stopped process does
// what it was asked meanwhile in the order of the calls when it goes on, also what nobody waits for any more. Errors are
// ErrNotRunning, ErrHungUp, *CallError, or ctx's.
func (n *Node) Call(ctx context.Context, method string, params json.RawMessage) (json.RawMessage, error) {
	p := n.process()
	if p == nil {
		return nil, ErrNotRunning
	}
	answer := make(chan rpcReply, 1)
	var once sync.Once
	begun := p.enqueue(func(pctx context.Context) {
		p.serveRPC(pctx, rpcRequest{method: method, params: params}, func(r rpcReply) {
			if !r.none {
				once.Do(func() { answer <- r })
			}
		})
	})
	if !begun {
		return nil, ErrNotRunning
	}
	return p.await(ctx, answer)
}

// Inspect makes a call that changes nothing, past everything that holds calls up or makes them fail: that the process is
// stopped, latency and RPC faults. It is not counted in Calls.
func (n *Node) Inspect(ctx context.Context, method string, params json.RawMessage) (json.RawMessage, error) {
	p := n.process()
	if p == nil {
		return nil, ErrNotRunning
	}
	answer := make(chan rpcReply, 1)
	p.dispatch(p.ctx, rpcRequest{method: method, params: params}, func(r rpcReply) { answer <- r })
	return p.await(ctx, answer)
}

// await waits for the one answer of a call.
func (p *process) await(ctx context.Context, answer <-chan rpcReply) (json.RawMessage, error) {
	select {
	case r := <-answer:
		switch {
		case r.hangup, r.raw != nil:
			return nil, ErrHungUp
		case r.err != nil:
			return nil, &CallError{r.err.code, r.err.message}
		}
		return marshal(r.result)
	case <-p.ctx.Done():
		return nil, ErrHungUp
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// enqueue runs fn after those that were enqueued before it have returned; false when the process has ended.
func (p *process) enqueue(fn func(ctx context.Context)) bool {
	done := make(chan struct{})
	p.queue.Lock()
	before := p.last
	p.last = done
	p.queue.Unlock()
	return p.spawn(func(ctx context.Context) {
		defer close(done)
		if before != nil {
			select {
			case <-before:
			case <-ctx.Done():
				return
			}
		}
		fn(ctx)
	})
}

// ReadBdev fills b with what a bdev of the process, by its name or an alias, holds from byte off.
func (n *Node) ReadBdev(ctx context.Context, name string, b []byte, off int64) error {
	found, err := n.bdevNamed(name)
	if err != nil {
		return err
	}
	return found.ReadAt(ctx, b, off)
}

// WriteBdev writes b to a bdev from byte off, past whatever exports or has claimed it.
func (n *Node) WriteBdev(ctx context.Context, name string, b []byte, off int64) error {
	found, err := n.bdevNamed(name)
	if err != nil {
		return err
	}
	return found.WriteAt(ctx, b, off)
}

func (n *Node) bdevNamed(name string) (*bdev, error) {
	p := n.process()
	if p == nil {
		return nil, ErrNotRunning
	}
	p.mu.Lock()
	found := p.bdevs.byName(name)
	p.mu.Unlock()
	if found == nil {
		return nil, fmt.Errorf("bdev %s of node %s: %w", name, n.cfg.Name, errNODEV)
	}
	return found, nil
}
