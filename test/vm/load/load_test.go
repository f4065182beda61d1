package load

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

// memory is a file whose I/O a test may hold up, fail and forge.
type memory struct {
	mu   sync.Mutex
	data []byte
	// hook, if not nil, comes before each I/O; false makes a write be acknowledged and lost.
	hook func(op operation, off int64) (bool, error)
}

func (m *memory) io(op operation, off int64, act func()) error {
	m.mu.Lock()
	hook := m.hook
	m.mu.Unlock()
	if hook != nil {
		if keep, err := hook(op, off); err != nil || !keep {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	act()
	return nil
}

func (m *memory) ReadAt(_ context.Context, p []byte, off int64) error {
	return m.io(read, off, func() { copy(p, m.data[off:]) })
}

func (m *memory) WriteAt(_ context.Context, p []byte, off int64) error {
	return m.io(write, off, func() { copy(m.data[off:], p) })
}

func (m *memory) Flush(context.Context) error { return m.io(flush, 0, func() {}) }

func (m *memory) set(hook func(op operation, off int64) (bool, error)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hook = hook
}

const blocks = 16

func newLoad(t *testing.T) (*Load, *memory) {
	m := &memory{data: make([]byte, blocks*BlockBytes)}
	l := New(m, 0, blocks)
	t.Cleanup(l.Close)
	return l, m
}

// until waits for what a running load will have done.
func until(t *testing.T, l *Load, done func(Report) bool) {
	t.Helper()
	for !done(l.Report()) {
		if t.Context().Err() != nil {
			t.Fatal("the test is over")
		}
	}
}

func TestHealthyFileReadsBackAsWritten(t *testing.T) {
	l, _ := newLoad(t)
	l.Fill()
	l.Run(Mix{Writers: 2, Readers: 2, FlushEvery: 8})
	until(t, l, func(r Report) bool { return r.Writes > 500 && r.Reads > 500 && r.Flushes > 50 })
	l.Pause()
	if r := l.Verify(); r.Errors != 0 || r.DifferingBytes != 0 {
		t.Errorf("got %+v", r)
	}
}

func TestLoadsOnPartsOfAFileDontMeet(t *testing.T) {
	m := &memory{data: make([]byte, blocks*BlockBytes)}
	loads := []*Load{New(m, 0, blocks/2), New(m, blocks/2, blocks/2)}
	for _, l := range loads {
		defer l.Close()
		l.Fill()
	}
	for i, l := range loads {
		if r := l.Verify(); r.Errors != 0 || r.DifferingBytes != 0 || r.Reads != blocks/2 {
			t.Errorf("part %d: %+v", i, r)
		}
	}
}

func TestAcknowledgedWriteThatIsLostDiffers(t *testing.T) {
	l, m := newLoad(t)
	l.Fill()
	m.set(func(op operation, off int64) (bool, error) { return op != write || off != 3*BlockBytes, nil })
	l.writeBlock(0, 3, newBuffer())
	r := l.Verify()
	if r.DifferingBytes == 0 || !strings.Contains(r.FirstDifference, "block 3 held generation 1 of block 3, acknowledged was generation 2") {
		t.Errorf("got %+v", r)
	}
}

func TestRunningReaderSeesAStaleBlock(t *testing.T) {
	l, m := newLoad(t)
	l.Fill()
	stale := append([]byte(nil), m.data...)
	l.Fill()
	copy(m.data, stale)
	l.Run(Mix{Readers: 1})
	until(t, l, func(r Report) bool { return r.DifferingBytes > 0 })
}

func TestForgedBytesAreCounted(t *testing.T) {
	l, m := newLoad(t)
	l.Fill()
	m.data[5*BlockBytes+1000] ^= 0xff
	m.data[7*BlockBytes+4095] ^= 0xff
	if r := l.Verify(); r.DifferingBytes != 2 {
		t.Errorf("got %+v", r)
	}
}

// Of a write that failed nobody knows whether it took effect: either is right, and the next one that succeeds counts again.
func TestFailedWriteMayOrMayNotHaveTakenEffect(t *testing.T) {
	broken := errors.New("broken")
	for _, effect := range []bool{false, true} {
		l, m := newLoad(t)
		l.Fill()
		if effect {
			m.set(func(op operation, off int64) (bool, error) {
				fill(m.data[off:off+BlockBytes], int(off/BlockBytes), 2)
				return false, broken
			})
		} else {
			m.set(func(operation, int64) (bool, error) { return false, broken })
		}
		l.writeBlock(0, 4, newBuffer())
		m.set(nil)
		if r := l.Verify(); r.Errors != 1 || !strings.Contains(r.FirstError, "broken") || r.DifferingBytes != 0 {
			t.Errorf("took effect: %t: %+v", effect, r)
		}
		l.writeBlock(0, 4, newBuffer())
		if r := l.Verify(); r.DifferingBytes != 0 {
			t.Errorf("took effect: %t, then written again: %+v", effect, r)
		}
	}
}

func TestPauseUnderWayIsReported(t *testing.T) {
	l, m := newLoad(t)
	l.Fill()
	release := make(chan struct{})
	m.set(func(op operation, _ int64) (bool, error) {
		if op == write {
			<-release
		}
		return true, nil
	})
	l.Run(Mix{Writers: 1})
	until(t, l, func(r Report) bool { return r.LongestPause >= 30*time.Millisecond })
	close(release)
	l.Pause()
	if r := l.Report(); r.LongestPause < 30*time.Millisecond {
		t.Errorf("after its end: %v", r.LongestPause)
	}
	m.set(nil)
	l.Run(Mix{})
	if r := l.Report(); r.LongestPause != 0 {
		t.Errorf("the next run began with a pause of %v", r.LongestPause)
	}
}

func TestDirectFileKeepsWhatIsWritten(t *testing.T) {
	path := t.TempDir() + "/data"
	f, err := OpenDirect(path)
	if err != nil {
		t.Skipf("no O_DIRECT here: %v", err)
	}
	defer f.Close()
	l := New(f, 0, blocks)
	defer l.Close()
	l.Fill()
	if r := l.Verify(); r.Errors != 0 || r.DifferingBytes != 0 || r.Reads != blocks {
		t.Errorf("got %+v", r)
	}
}
