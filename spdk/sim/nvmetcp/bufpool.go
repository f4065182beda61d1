package nvmetcp

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

const (
	minBufShift = 12 // 4 KiB
	maxBufShift = 21 // 2 MiB
)

// buffers are pools of data buffers by power of two, shared by every connection
// of the process.
var buffers [maxBufShift - minBufShift + 1]sync.Pool

// buffer is a pooled piece of memory. Who holds a reference frees it, once.
type buffer struct {
	b    []byte
	refs atomic.Int32
	pool *sync.Pool
}

// getBuffer returns a buffer of n bytes with undefined content and one reference.
func getBuffer(n int) *buffer {
	shift := max(bits.Len(uint(max(n, 1)-1)), minBufShift)
	if shift > maxBufShift {
		buf := &buffer{b: make([]byte, n)}
		buf.refs.Store(1)
		return buf
	}
	pool := &buffers[shift-minBufShift]
	buf, ok := pool.Get().(*buffer)
	if !ok {
		buf = &buffer{b: make([]byte, 1<<shift), pool: pool}
	}
	buf.b = buf.b[:n]
	buf.refs.Store(1)
	return buf
}

// zeroed is getBuffer with every byte 0.
func zeroed(n int) *buffer {
	buf := getBuffer(n)
	clear(buf.b)
	return buf
}

// retain adds a reference. A nil buffer has none to count.
func (b *buffer) retain() *buffer {
	if b != nil {
		b.refs.Add(1)
	}
	return b
}

// free drops a reference; the last one gives the memory back.
func (b *buffer) free() {
	if b != nil && b.refs.Add(-1) == 0 && b.pool != nil {
		b.pool.Put(b)
	}
}
