// Package coalesce has callers that want to know the same thing at about the same time share the answer.
package coalesce

import "sync"

// Call is a call whose answer is shared: what tells of everything there is takes the longer the more there is, and all want it at once
// when something happens. The zero value is ready for use.
type Call[T any] struct {
	mu sync.Mutex
	// last is the call that was begun last, or nil; next is the one that begins when last has ended, or nil.
	last, next *call[T]
}

type call[T any] struct {
	done   chan struct{}
	result T
}

// Do returns the result of a call of f, this caller's own or another's, that began after Do was called. At most one runs at a time. It
// doesn't end with a caller's context: f bounds itself.
func (s *Call[T]) Do(f func() T) T {
	s.mu.Lock()
	if c := s.next; c != nil {
		s.mu.Unlock()
		<-c.done
		return c.result
	}
	c, before := &call[T]{done: make(chan struct{})}, s.last
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
