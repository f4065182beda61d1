package demo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-csi/holdfast/node/userspace"
)

const (
	// blockBytes is the size of a write, and of what is verified as a whole.
	blockBytes = 64 << 10
	// writers write at the same time, each to blocks of its own.
	writers = 4
	// writeInterval is how often each of them begins a write while the volume is overwritten, if it can: a load, and no contest.
	writeInterval = 3 * time.Millisecond
)

// load writes a pattern, block by block, and knows what each block must hold.
type load struct {
	file *userspace.File
	// generation is how often each block was written. Each belongs to one writer.
	generation []uint32

	done                                  atomic.Int64 // blocks of the present run
	bytesWritten, bytesVerified, ioErrors atomic.Int64
	longestPause, recentPause             atomic.Int64 // nanoseconds: ever, and since it was set to 0
	lastDone                              atomic.Int64 // nanoseconds since 1970
}

func newLoad(file *userspace.File) *load {
	return &load{file: file, generation: make([]uint32, file.SizeBytes()/blockBytes)}
}

// fraction is how much of the present run over all blocks is done.
func (l *load) fraction() float64 { return float64(l.done.Load()) / float64(len(l.generation)) }

// fill writes every block once.
func (l *load) fill(ctx context.Context) error {
	return l.each(func(writer int, buf []byte) error {
		for b := writer; b < len(l.generation); b += writers {
			if err := l.write(ctx, b, buf); err != nil {
				return err
			}
		}
		return nil
	})
}

// overwrite begins to write blocks at random. end ends it between two writes, waits for the writers and returns why any of them gave
// up; broken is closed when one has.
func (l *load) overwrite(ctx context.Context) (broken <-chan struct{}, end func() error) {
	stop, failed, finished := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var once sync.Once
	go func() {
		finished <- l.each(func(writer int, buf []byte) error {
			err := l.overwriteUntil(ctx, stop, writer, buf)
			if err != nil {
				once.Do(func() { close(failed) })
			}
			return err
		})
	}()
	return failed, func() error {
		close(stop)
		return <-finished
	}
}

func (l *load) overwriteUntil(ctx context.Context, stop <-chan struct{}, writer int, buf []byte) error {
	ticker := time.NewTicker(writeInterval)
	defer ticker.Stop()
	mine := (len(l.generation) - writer + writers - 1) / writers
	for {
		select {
		case <-stop:
			return nil
		case <-ticker.C:
		}
		if err := l.write(ctx, writer+writers*rand.IntN(mine), buf); err != nil {
			return err
		}
	}
}

// stalledFor is how long ago the last I/O was completed.
func (l *load) stalledFor() time.Duration { return time.Since(time.Unix(0, l.lastDone.Load())) }

// verify reads every block and compares it with what was written to it last.
func (l *load) verify(ctx context.Context) error {
	return l.each(func(writer int, buf []byte) error {
		want := make([]byte, blockBytes)
		for b := writer; b < len(l.generation); b += writers {
			err := l.timed(ctx, func() error { return l.file.ReadAt(ctx, buf, int64(b)*blockBytes) })
			if err != nil {
				return fmt.Errorf("read block %d: %w", b, err)
			}
			pattern(want, b, l.generation[b])
			if !bytes.Equal(buf, want) {
				return fmt.Errorf("block %d does not hold what was written to it last (generation %d)", b, l.generation[b])
			}
			l.bytesVerified.Add(blockBytes)
		}
		return nil
	})
}

// each runs all writers and waits for them.
func (l *load) each(f func(writer int, buf []byte) error) error {
	l.done.Store(0)
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() { errs[w] = f(w, make([]byte, blockBytes)) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (l *load) write(ctx context.Context, block int, buf []byte) error {
	next := l.generation[block] + 1
	pattern(buf, block, next)
	if err := l.timed(ctx, func() error { return l.file.WriteAt(ctx, buf, int64(block)*blockBytes) }); err != nil {
		return fmt.Errorf("write block %d: %w", block, err)
	}
	l.generation[block] = next
	l.bytesWritten.Add(blockBytes)
	return nil
}

// timed does one I/O and counts it. One that is given up because the demo is interrupted is no I/O error.
func (l *load) timed(ctx context.Context, io func() error) error {
	begin := time.Now()
	err := io()
	if err != nil && ctx.Err() == nil {
		l.ioErrors.Add(1)
	}
	if err != nil {
		return err
	}
	l.done.Add(1)
	l.lastDone.Store(time.Now().UnixNano())
	raise(&l.longestPause, int64(time.Since(begin)))
	raise(&l.recentPause, int64(time.Since(begin)))
	return nil
}

// raise makes a at least value.
func raise(a *atomic.Int64, value int64) {
	for old := a.Load(); old < value && !a.CompareAndSwap(old, value); old = a.Load() {
	}
}

// pattern fills p with what a block holds in a generation: numbers that no other block and no other generation has.
func pattern(p []byte, block int, generation uint32) {
	source := rand.NewPCG(uint64(block), uint64(generation))
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], source.Uint64())
	}
}
