package random_test

import (
	"context"
	"fmt"
	"time"
)

// transfer is a read or write under way.
type transfer struct {
	write   bool
	extent  int
	blocks  int
	version uint64
	content []byte
	begun   time.Time
	ended   chan outcome
	// beginsAt and endsAt order it among all transfers; endsAt is 0 unless it was acknowledged.
	beginsAt, endsAt uint64
	// lost: the machine that it is from has lost power.
	lost bool
}

// outcome is how a transfer ended, and when.
type outcome struct {
	err   error
	at    time.Time
	order uint64
}

func (x *transfer) String() string {
	if x.write {
		return fmt.Sprintf("write of version %d to extent %d, %d blocks", x.version, x.extent, x.blocks)
	}
	return fmt.Sprintf("read of extent %d", x.extent)
}

// transfer begins a read or write of an extent, unless one is under way there. It waits for as long as the device does.
func (a *attachment) transfer(write bool) {
	if extent := a.v.w.rng.IntN(extents); !a.v.model.busy[extent] {
		a.transferAt(extent, write)
	}
}

func (a *attachment) transferAt(extent int, write bool) {
	v := a.v
	m, rng := v.model, v.w.rng
	x := &transfer{write: write, extent: extent, blocks: extentBlocks, begun: time.Now(), ended: make(chan outcome, 1)}
	f, err := a.host.machine.Open(a.target())
	if err != nil {
		v.w.fail("%s: what is in use can't be opened: %v", a, err)
	}
	offset := m.offset(x.extent)
	if write {
		x.blocks = 1 + rng.IntN(extentBlocks)
		x.content, x.version = m.next(x.extent, x.blocks)
		x.beginsAt = v.w.order.Add(1)
		v.history[v.incarnation] = append(v.history[v.incarnation], x)
		for _, win := range v.windows {
			win.note(x)
		}
	} else {
		x.content = make([]byte, extentBlocks*blockBytes)
	}
	v.w.trace.add("%s: %s", a, x)
	m.busy[x.extent] = true
	a.io = append(a.io, x)
	v.w.workload.Go(func() {
		run := f.ReadAt
		if write {
			run = f.WriteAt
		}
		err := run(context.Background(), x.content, offset)
		x.ended <- outcome{err, time.Now(), v.w.order.Add(1)}
	})
}

// collectIO holds the transfers that have ended against the model.
func (a *attachment) collectIO() {
	left := a.io[:0]
	for _, x := range a.io {
		select {
		case o := <-x.ended:
			if o.err == nil {
				x.endsAt = o.order
			}
			a.finish(x, o.err, o.at.Sub(x.begun))
		default:
			left = append(left, x)
		}
	}
	a.io = left
}

// onlyCopyFails says whether the volume has one replica, on a node that fails: its disk's errors are the volume's, at once.
func (v *vol) onlyCopyFails() bool {
	record := v.w.store.peek(v.id())
	if record == nil {
		return false
	}
	only := copies(record)
	return len(only) == 1 && v.w.faults.harmed(only[0].Node)
}

func (a *attachment) finish(x *transfer, err error, took time.Duration) {
	v := a.v
	m := v.model
	m.busy[x.extent] = false
	switch {
	case err != nil:
		v.w.trace.add("%s: %s failed after %v: %v", a, x, took, err)
		if !x.lost && (!v.broken || v.promised()) && !v.onlyCopyFails() {
			v.w.fail("%s: I/O error though a good replica was in reach: %s: %v", a, x, err)
		}
		if x.lost && x.write {
			m.busy[x.extent], a.doubtful = true, append(a.doubtful, x.extent)
		}
	case took > 0:
		v.w.trace.add("%s: %s took %v", a, x, took)
	}
	if x.write {
		m.wrote(x.extent, x.blocks, x.version, err == nil)
		return
	}
	if err == nil {
		v.unwritten(x.content, x.extent)
		if err := m.read(x.extent, x.content); err != nil {
			v.w.fail("%s: an acknowledged write is lost: %v", a, err)
		}
	}
}
