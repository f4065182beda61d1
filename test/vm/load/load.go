// Package load writes to a file, reads it again, and knows at any time what each of its blocks may hold: a journal has, for every
// block, the last generation whose write was acknowledged and the last that was attempted. It says how long I/O had to wait, what
// failed, and which bytes are not what was acknowledged.
//
// It takes no sides about what the file is: a volume in this process, or, in the test virtual machine, one that the kernel has.
package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// BlockBytes is the size of each read and write, and of what is verified as a whole.
const BlockBytes = 4096

// retryPause keeps a worker whose I/O fails from failing as fast as it can.
const retryPause = 100 * time.Millisecond

// File is what is written to. Offsets and lengths are whole blocks.
type File interface {
	ReadAt(ctx context.Context, p []byte, off int64) error
	WriteAt(ctx context.Context, p []byte, off int64) error
	Flush(ctx context.Context) error
}

// Mix says what runs at the same time. Each writer has blocks of its own; readers read all.
type Mix struct {
	Writers, Readers int
	// FlushEvery is after how many of its writes a writer flushes; 0 is never.
	FlushEvery int
	// Pace is how long a worker rests after each I/O; 0 is not at all.
	Pace time.Duration
}

// Report is what a load has seen.
type Report struct {
	Writes, Reads, Flushes int64
	// Errors counts failed I/O; FirstError is the first of them and when it was.
	Errors     int64
	FirstError string
	// LongestPause is the longest that one I/O took since the last Run began, one that is still under way included.
	LongestPause time.Duration
	// DifferingBytes counts bytes that were read and are not what a write left there; FirstDifference says of the first block what
	// it holds, and when it was read.
	DifferingBytes  int64
	FirstDifference string
}

// Done is how many I/O have ended.
func (r Report) Done() int64 { return r.Writes + r.Reads + r.Flushes }

// Load is a load on one file. Its methods are for one goroutine; Report and Abort are for any.
type Load struct {
	file   File
	first  int // number of blocks[0]
	blocks []block
	meter  meter

	ctx     context.Context // of the I/O: ends with Close
	cancel  context.CancelFunc
	stop    chan struct{} // ends the workers after the I/O that they are at; nil while none run
	workers sync.WaitGroup
}

// block is a line of the journal. 0 is a block that was never written.
type block struct{ acknowledged, attempted atomic.Uint32 }

// New returns a load on so many blocks of a file from the first one's number on.
func New(file File, first, blocks int) *Load {
	l := &Load{file: file, first: first, blocks: make([]block, blocks), meter: meter{underWay: map[int]time.Time{}}}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l
}

// Abort gives up what is under way, as far as the file lets it; it may be called while another method runs. The load is of no use
// after it, but for its report.
func (l *Load) Abort() { l.cancel() }

// Close gives up what is under way and waits for it.
func (l *Load) Close() {
	l.Abort()
	l.Pause()
}

// Report returns what was seen so far.
func (l *Load) Report() Report { return l.meter.report() }

// Run starts workers, and counts pauses from here on. Those that ran before are paused first.
func (l *Load) Run(m Mix) {
	l.Pause()
	l.meter.restart()
	l.stop = make(chan struct{})
	stop := l.stop
	for w := range m.Writers {
		l.workers.Go(func() { l.write(stop, w, m) })
	}
	for r := range m.Readers {
		l.workers.Go(func() { l.read(stop, m.Writers+r, m) })
	}
}

// Pause ends the workers when the I/O that they are at has ended.
func (l *Load) Pause() {
	if l.stop != nil {
		close(l.stop)
		l.stop = nil
	}
	l.workers.Wait()
}

// Fill writes every block once, in order, and flushes. No workers run meanwhile.
func (l *Load) Fill() Report {
	l.Pause()
	buf := newBuffer()
	for i := range l.blocks {
		if l.ctx.Err() != nil {
			break
		}
		l.writeBlock(0, i, buf)
	}
	l.flush(0)
	return l.Report()
}

// Verify reads every block that was ever written and compares it with the journal. No workers run meanwhile.
func (l *Load) Verify() Report {
	l.Pause()
	buf, want := newBuffer(), make([]byte, BlockBytes)
	for i := range l.blocks {
		if l.ctx.Err() != nil {
			break
		}
		if l.blocks[i].attempted.Load() > 0 {
			l.readBlock(0, i, buf, want)
		}
	}
	return l.Report()
}

func (l *Load) write(stop <-chan struct{}, worker int, m Mix) {
	random, buf := rand.New(rand.NewPCG(uint64(worker), 1)), newBuffer()
	mine := (len(l.blocks) - worker + m.Writers - 1) / m.Writers
	for n := 1; !ended(stop); n++ {
		ok := l.writeBlock(worker, worker+m.Writers*random.IntN(mine), buf)
		if m.FlushEvery > 0 && n%m.FlushEvery == 0 {
			ok = l.flush(worker) && ok
		}
		if !rest(stop, ok, m.Pace) {
			return
		}
	}
}

func (l *Load) read(stop <-chan struct{}, worker int, m Mix) {
	random, buf, want := rand.New(rand.NewPCG(uint64(worker), 2)), newBuffer(), make([]byte, BlockBytes)
	for !ended(stop) {
		if !rest(stop, l.readBlock(worker, random.IntN(len(l.blocks)), buf, want), m.Pace) {
			return
		}
	}
}

func ended(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// rest waits after an I/O, for longer if it failed; false means that the worker is to end.
func rest(stop <-chan struct{}, ok bool, pace time.Duration) bool {
	if !ok {
		pace = max(pace, retryPause)
	}
	if pace == 0 {
		return true
	}
	timer := time.NewTimer(pace)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-stop:
		return false
	}
}

// offset is where blocks[i] is in the file.
func (l *Load) offset(i int) int64 { return int64(l.first+i) * BlockBytes }

// writeBlock writes the next generation of a block and says whether that succeeded. Of a write that failed nobody knows whether it
// took effect: it stays attempted.
func (l *Load) writeBlock(worker, i int, buf []byte) bool {
	b := &l.blocks[i]
	generation := b.attempted.Add(1)
	fill(buf, l.first+i, generation)
	err := l.meter.do(l.ctx, worker, write, func() error { return l.file.WriteAt(l.ctx, buf, l.offset(i)) })
	if err != nil {
		return false
	}
	b.acknowledged.Store(generation)
	return true
}

// readBlock reads a block and compares it with every generation that it may hold: from the last that was acknowledged when the
// read began to the last that was attempted when it ended.
func (l *Load) readBlock(worker, i int, buf, want []byte) bool {
	b := &l.blocks[i]
	oldest := b.acknowledged.Load()
	err := l.meter.do(l.ctx, worker, read, func() error { return l.file.ReadAt(l.ctx, buf, l.offset(i)) })
	if err != nil {
		return false
	}
	if n := differing(buf, want, l.first+i, oldest, b.attempted.Load()); n > 0 {
		l.meter.differ(n, fmt.Sprintf("block %d held %s, acknowledged was generation %d", l.first+i, describe(buf), oldest))
	}
	return true
}

func (l *Load) flush(worker int) bool {
	return l.meter.do(l.ctx, worker, flush, func() error { return l.file.Flush(l.ctx) }) == nil
}
