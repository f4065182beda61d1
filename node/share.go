package node

import (
	"context"
	"fmt"
	"sync"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// How much is done side by side when many volumes need something at once, as when a raid host dies that ran hundreds of them.
const (
	// maxFences is how many volumes have their legs fenced at a time.
	maxFences = 64
	// maxMakes is how many raids are made at a time.
	maxMakes = 16
	// maxCalm is how many volumes are tended at a time that work while they wait. None is begun while a volume leaves its raid host.
	maxCalm = 8
)

// slots bounds how much of something is done side by side.
type slots chan struct{}

// take waits for a slot.
func (s slots) take(ctx context.Context) (release func(), err error) {
	select {
	case s <- struct{}{}:
		return func() { <-s }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: other volumes come first: %w", volume.ErrBusy, ctx.Err())
	}
}

// shared has callers that want to know the same thing at about the same time share the answer: what is asked of an SPDK node tells of
// all volumes there, and takes the longer the more there are.
type shared[T any] struct {
	mu sync.Mutex
	// last is the call that was begun last, or nil; next is the one that begins when last has ended, or nil.
	last, next *sharedCall[T]
}

type sharedCall[T any] struct {
	done   chan struct{}
	result T
}

// do returns the result of a call of f, this caller's own or another's, that began after do was called. At most one runs at a time. It
// doesn't end with a caller's context: f bounds itself.
func (s *shared[T]) do(f func() T) T {
	s.mu.Lock()
	if c := s.next; c != nil {
		s.mu.Unlock()
		<-c.done
		return c.result
	}
	c, before := &sharedCall[T]{done: make(chan struct{})}, s.last
	s.next = c
	s.mu.Unlock()
	if before != nil {
		<-before.done
	}
	s.mu.Lock()
	s.last, s.next = c, nil
	s.mu.Unlock()
	c.result = f()
	close(c.done)
	return c.result
}
