package sim

import "sync"

// ioLock orders I/O, which holds it shared, against what must not run beside any, which holds it exclusively. It is a
// sync.RWMutex that may be held for as long as a disk hangs: who waits for it waits on a condition, so that a fake clock goes on.
// The zero value is ready for use.
type ioLock struct {
	mu        sync.Mutex
	released  *sync.Cond // made by the first that waits
	shared    int
	exclusive bool
	wanted    int // how many wait to hold it exclusively: no more share it before them
}

func (l *ioLock) wait() {
	if l.released == nil {
		l.released = sync.NewCond(&l.mu)
	}
	l.released.Wait()
}

func (l *ioLock) wake() {
	if l.released != nil {
		l.released.Broadcast()
	}
}

func (l *ioLock) RLock() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.exclusive || l.wanted > 0 {
		l.wait()
	}
	l.shared++
}

func (l *ioLock) RUnlock() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shared--
	l.wake()
}

func (l *ioLock) Lock() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted++
	for l.exclusive || l.shared > 0 {
		l.wait()
	}
	l.wanted--
	l.exclusive = true
}

func (l *ioLock) Unlock() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.exclusive = false
	l.wake()
}
