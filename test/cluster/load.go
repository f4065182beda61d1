package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"
)

// BlockBytes is the unit of a Load's reads and writes.
const BlockBytes = 4096

// File is what a Load reads and writes.
type File interface {
	ReadAt(ctx context.Context, p []byte, off int64) error
	WriteAt(ctx context.Context, p []byte, off int64) error
}

// Load uses a volume: writers, each with blocks of its own, write them again and again and read back what they have written. Every block
// holds its number and the generation of its last write, so that whoever reads it elsewhere can tell whether an acknowledged write is
// missing there.
type Load struct {
	file    File
	pause   time.Duration
	stop    context.CancelFunc
	running sync.WaitGroup

	mu     sync.Mutex
	blocks []generations
	writes int
	errs   []error
}

// generations are those of one block.
type generations struct{ issued, acknowledged uint32 }

// StartLoad uses the first blocks of a file until End. Each writer pauses after each write and read.
func StartLoad(ctx context.Context, file File, blocks, writers int, pause time.Duration) *Load {
	ctx, stop := context.WithCancel(ctx)
	l := &Load{file: file, pause: pause, stop: stop, blocks: make([]generations, blocks)}
	for writer := range writers {
		l.running.Go(func() { l.run(ctx, writer, writers) })
	}
	return l
}

func (l *Load) run(ctx context.Context, writer, writers int) {
	for {
		for block := writer; block < len(l.blocks); block += writers {
			if err := errors.Join(l.write(ctx, block), l.read(ctx, block)); err != nil {
				l.mu.Lock()
				l.errs = append(l.errs, err)
				l.mu.Unlock()
				return
			}
			timer := time.NewTimer(l.pause)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
		}
	}
}

func (l *Load) write(ctx context.Context, block int) error {
	l.mu.Lock()
	l.blocks[block].issued++
	generation := l.blocks[block].issued
	l.mu.Unlock()
	if err := l.file.WriteAt(context.WithoutCancel(ctx), content(block, generation), int64(block)*BlockBytes); err != nil {
		return fmt.Errorf("write block %d, generation %d: %w", block, generation, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blocks[block].acknowledged = generation
	l.writes++
	return nil
}

func (l *Load) read(ctx context.Context, block int) error {
	return l.check(block, func(p []byte, off int64) error { return l.file.ReadAt(context.WithoutCancel(ctx), p, off) })
}

// check reads one block and compares it with what was acknowledged before.
func (l *Load) check(block int, read func(p []byte, off int64) error) error {
	l.mu.Lock()
	least := l.blocks[block].acknowledged
	l.mu.Unlock()
	p := make([]byte, BlockBytes)
	if err := read(p, int64(block)*BlockBytes); err != nil {
		return fmt.Errorf("read block %d: %w", block, err)
	}
	l.mu.Lock()
	most := l.blocks[block].issued
	l.mu.Unlock()
	if least == 0 {
		return nil // it may hold what was there before the load
	}
	generation := binary.LittleEndian.Uint32(p)
	if string(p) != string(content(block, generation)) {
		return fmt.Errorf("block %d holds what was never written to it", block)
	}
	if generation < least || generation > most {
		return fmt.Errorf("block %d holds generation %d: %d was acknowledged, %d written last", block, generation, least, most)
	}
	return nil
}

// Check reads every block and says which lack an acknowledged write. read may go to the file or to a replica; the load may go on.
func (l *Load) Check(read func(p []byte, off int64) error) error {
	var errs []error
	for block := range l.blocks {
		errs = append(errs, l.check(block, read))
	}
	return errors.Join(errs...)
}

// Acknowledged are the generations of each block that were acknowledged by now.
func (l *Load) Acknowledged() []uint32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []uint32
	for _, b := range l.blocks {
		all = append(all, b.acknowledged)
	}
	return all
}

// CheckMoment says which blocks of an image that was taken after Acknowledged answered before lack a write that was acknowledged then, or
// hold what was never written.
func (l *Load) CheckMoment(before []uint32, image []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for block := range l.blocks {
		p := image[block*BlockBytes : (block+1)*BlockBytes]
		generation := binary.LittleEndian.Uint32(p)
		switch {
		case before[block] == 0 && generation == 0:
		case string(p) != string(content(block, generation)):
			errs = append(errs, fmt.Errorf("block %d holds what was never written to it", block))
		case generation < before[block] || generation > l.blocks[block].issued:
			errs = append(errs, fmt.Errorf("block %d holds generation %d: %d was acknowledged before, %d written last", block, generation, before[block], l.blocks[block].issued))
		}
	}
	return errors.Join(errs...)
}

// Err is the I/O errors and stale reads that there were.
func (l *Load) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.errs...)
}

// Writes is how many writes were acknowledged.
func (l *Load) Writes() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.writes
}

// InFlight is how many blocks are being written.
func (l *Load) InFlight() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, b := range l.blocks {
		if b.issued != b.acknowledged {
			n++
		}
	}
	return n
}

// End begins no more, waits for what is under way and returns Err.
func (l *Load) End() error {
	l.stop()
	l.running.Wait()
	return l.Err()
}

// content fills a block.
func content(block int, generation uint32) []byte {
	p := make([]byte, BlockBytes)
	for i := 0; i < BlockBytes; i += 8 {
		binary.LittleEndian.PutUint32(p[i:], generation)
		binary.LittleEndian.PutUint32(p[i+4:], uint32(block))
	}
	return p
}
