package load

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// operation is what a worker does.
type operation string

const (
	write operation = "write"
	read  operation = "read"
	flush operation = "flush"
)

// meter counts and times I/O.
type meter struct {
	mu       sync.Mutex
	seen     Report
	underWay map[int]time.Time // by worker, since when
}

// do runs one I/O of a worker. One that fails because the load is closed is not counted.
func (m *meter) do(ctx context.Context, worker int, op operation, io func() error) error {
	begin := time.Now()
	m.mu.Lock()
	m.underWay[worker] = begin
	m.mu.Unlock()
	err := io()
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.underWay, worker)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	m.seen.LongestPause = max(m.seen.LongestPause, time.Since(begin))
	switch op {
	case write:
		m.seen.Writes++
	case read:
		m.seen.Reads++
	case flush:
		m.seen.Flushes++
	}
	if err != nil {
		if m.seen.Errors++; m.seen.Errors == 1 {
			m.seen.FirstError = fmt.Sprintf("%s at %s: %v", op, clock(time.Now()), err)
		}
	}
	return err
}

func clock(t time.Time) string { return t.UTC().Format("15:04:05.000") }

func (m *meter) differ(bytes int, first string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seen.DifferingBytes == 0 {
		m.seen.FirstDifference = fmt.Sprintf("at %s %s", clock(time.Now()), first)
	}
	m.seen.DifferingBytes += int64(bytes)
}

// restart forgets the longest pause.
func (m *meter) restart() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen.LongestPause = 0
}

func (m *meter) report() Report {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.seen
	for _, begin := range m.underWay {
		r.LongestPause = max(r.LongestPause, time.Since(begin))
	}
	return r
}
