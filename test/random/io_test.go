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

// usable says whether I/O may begin.
func (v *vol) usable() bool { return v.is(inUse) && v.call == nil }

// transfer begins a read or write of an extent, unless one is under way there. It waits for as long as the device does.
func (v *vol) transfer(write bool) {
	if extent := v.w.rng.IntN(extents); !v.model.busy[extent] {
		v.transferAt(extent, write)
	}
}

func (v *vol) transferAt(extent int, write bool) {
	m, rng := v.model, v.w.rng
	x := &transfer{write: write, extent: extent, blocks: extentBlocks, begun: time.Now(), ended: make(chan outcome, 1)}
	f, err := v.host.machine.Open(v.target())
	if err != nil {
		v.w.fail("%s: what is in use can't be opened: %v", v, err)
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
	v.w.trace.add("%s: %s", v, x)
	m.busy[x.extent] = true
	v.io = append(v.io, x)
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
func (v *vol) collectIO() {
	left := v.io[:0]
	for _, x := range v.io {
		select {
		case o := <-x.ended:
			if o.err == nil {
				x.endsAt = o.order
			}
			v.finish(x, o.err, o.at.Sub(x.begun))
		default:
			left = append(left, x)
		}
	}
	v.io = left
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

func (v *vol) finish(x *transfer, err error, took time.Duration) {
	m := v.model
	m.busy[x.extent] = false
	switch {
	case err != nil:
		v.w.trace.add("%s: %s failed after %v: %v", v, x, took, err)
		if !x.lost && (!v.broken || v.promised()) && !v.onlyCopyFails() {
			v.w.fail("%s: I/O error though a good replica was in reach: %s: %v", v, x, err)
		}
	case took > 0:
		v.w.trace.add("%s: %s took %v", v, x, took)
	}
	if x.write {
		m.wrote(x.extent, x.blocks, x.version, err == nil)
		return
	}
	if err == nil {
		if err := m.read(x.extent, x.content); err != nil {
			v.w.fail("%s: an acknowledged write is lost: %v", v, err)
		}
	}
}
