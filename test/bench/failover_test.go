package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/node/userspace"
)

// BenchmarkRaidHostOfManyVolumesDies kills the raid host of many volumes that are being written to, and measures when each can be written
// to again, and when all have a standby again. In the end it reads back all that was acknowledged.
//
// SPDK nodes, node service and writers are one process here.
func BenchmarkRaidHostOfManyVolumesDies(b *testing.B) {
	f := newFleet(b)
	for b.Loop() {
		ctx, stop := context.WithCancel(f.ctx)
		var wg sync.WaitGroup
		writers := make([]*writer, *fleetSize)
		for i := range writers {
			file, err := f.machine.Open(f.staging(i))
			must(b, err)
			writers[i] = newWriter(file)
			wg.Go(func() { writers[i].run(ctx) })
		}
		f.await("writes", func() bool {
			return !slices.ContainsFunc(writers, func(w *writer) bool { return !w.since(time.Time{}) })
		})
		before := f.calls()
		f.Sim(user).Kill()
		killed := time.Now()
		f.await("writes", func() bool { return !slices.ContainsFunc(writers, func(w *writer) bool { return !w.since(killed) }) })
		atLast := f.calls()
		f.await("standbys", f.whole)
		standbys := time.Since(killed)
		stop()
		wg.Wait()
		report(b, writers, killed)
		b.ReportMetric(float64(atLast-before)/float64(*fleetSize), "calls/volume")
		b.ReportMetric(standbys.Seconds(), "s-standbys")
	}
}

func (f *fleet) calls() int { return calls(f.Cluster) }

// report compares what the volumes hold with what was written, and says when each could be written to again.
func report(b *testing.B, writers []*writer, killed time.Time) {
	b.Helper()
	var again []time.Duration
	errors, wrong := 0, 0
	for _, w := range writers {
		again = append(again, w.firstAfter(killed).Sub(killed))
		if w.err != nil {
			b.Log(w.err)
			errors++
		}
		n, err := w.verify(context.Background())
		must(b, err)
		wrong += n
	}
	slices.Sort(again)
	b.ReportMetric(again[len(again)/2].Seconds(), "s-median")
	b.ReportMetric(again[len(again)-1].Seconds(), "s-last")
	b.ReportMetric(float64(errors), "io-errors")
	b.ReportMetric(float64(wrong), "wrong-blocks")
}

const (
	writeBytes = 4 << 10
	// writeEvery is the pause between a writer's writes.
	writeEvery = 100 * time.Millisecond
)

// writer writes one block of a volume after the other, and remembers what was acknowledged.
type writer struct {
	file *userspace.File

	mu         sync.Mutex
	generation []uint64 // by block
	acked      []time.Time
	began      []time.Time // of what was acknowledged
	err        error
}

func newWriter(file *userspace.File) *writer {
	return &writer{file: file, generation: make([]uint64, file.SizeBytes()/writeBytes)}
}

// run writes until ctx ends or a write fails.
func (w *writer) run(ctx context.Context) {
	ticker := time.NewTicker(writeEvery)
	defer ticker.Stop()
	for {
		block := rand.IntN(len(w.generation))
		began := time.Now()
		err := w.file.WriteAt(context.WithoutCancel(ctx), pattern(block, w.generation[block]+1), int64(block)*writeBytes)
		w.mu.Lock()
		if err != nil {
			w.err = err
			w.mu.Unlock()
			return
		}
		w.generation[block]++
		w.began, w.acked = append(w.began, began), append(w.acked, time.Now())
		w.mu.Unlock()
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// firstAfter returns when the first write was acknowledged that began after t, or t's zero value if none was.
func (w *writer) firstAfter(t time.Time) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, began := range w.began {
		if began.After(t) {
			return w.acked[i]
		}
	}
	return time.Time{}
}

// since says whether a write that began after t was acknowledged, or failed.
func (w *writer) since(t time.Time) bool {
	w.mu.Lock()
	failed := w.err != nil
	w.mu.Unlock()
	return failed || !w.firstAfter(t).IsZero()
}

// verify returns how many blocks don't hold what was written to them last.
func (w *writer) verify(ctx context.Context) (wrong int, err error) {
	got := make([]byte, writeBytes)
	for block, generation := range w.generation {
		if generation == 0 {
			continue
		}
		if err := w.file.ReadAt(ctx, got, int64(block)*writeBytes); err != nil {
			return wrong, err
		}
		if !bytes.Equal(got, pattern(block, generation)) {
			wrong++
		}
	}
	return wrong, nil
}

// pattern is what a block holds when it was written so many times.
func pattern(block int, generation uint64) []byte {
	p := make([]byte, writeBytes)
	source := rand.NewPCG(uint64(block), generation)
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], source.Uint64())
	}
	return p
}
