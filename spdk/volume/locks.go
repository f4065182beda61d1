package volume

import (
	"fmt"
	"sync"
)

// Locks holds one lock a volume. A lock is tried, never waited for: the caller answers Aborted and the CO comes again. The zero
// value is ready for use.
type Locks struct{ held sync.Map }

// Try takes the lock of a volume, or answers ErrBusy.
func (l *Locks) Try(id string) (unlock func(), err error) {
	if _, busy := l.held.LoadOrStore(id, struct{}{}); busy {
		return nil, fmt.Errorf("volume %s: %w; try again", id, ErrBusy)
	}
	return func() { l.held.Delete(id) }, nil
}
