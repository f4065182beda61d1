package random_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"slices"
)

const (
	blockBytes = 4096
	// extents is how many places of a volume are read and written, extentBlocks how many blocks each has.
	extents      = 24
	extentBlocks = 8
)

// model knows what the blocks of one volume may hold. A block holds a version: what it was last written with, 0 if it never was.
type model struct {
	tag     uint64 // tells volumes apart, and incarnations of one
	version uint64 // the newest
	// span is how many bytes the extents are spread over; it stays what it was when the volume grows, and in what is made of it.
	span int64
	// allowed are the versions that a block may hold: more than one after a write of unknown outcome.
	allowed [extents][extentBlocks][]uint64
	// busy has the extents with I/O under way: writers don't overlap.
	busy [extents]bool
}

func newModel(volume string, incarnation int, span int64) *model {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s/%d", volume, incarnation) // a hash takes everything
	m := &model{tag: h.Sum64(), span: span}
	for e := range m.allowed {
		for b := range m.allowed[e] {
			m.allowed[e][b] = []uint64{0}
		}
	}
	return m
}

// offset is where an extent lies.
func (m *model) offset(extent int) int64 {
	return m.span / extents / blockBytes * blockBytes * int64(extent)
}

// copy returns a model of what holds the same and goes its own way from now on: its versions are above the given one.
func (m *model) copy(above uint64) *model {
	c := &model{tag: m.tag, span: m.span, version: above}
	for e := range m.allowed {
		for b := range m.allowed[e] {
			c.allowed[e][b] = slices.Clone(m.allowed[e][b])
		}
	}
	return c
}

// fill makes a block hold a version.
func (m *model) fill(b []byte, extent, block int, version uint64) {
	clear(b)
	if version == 0 {
		return
	}
	x := m.tag
	for i := 0; i < len(b); i += 8 {
		switch i {
		case 0:
		case 8:
			x = uint64(extent)<<32 | uint64(block)
		case 16:
			x = version
		default: // splitmix64
			x += 0x9e3779b97f4a7c15
			x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
			x ^= x >> 27
		}
		binary.LittleEndian.PutUint64(b[i:], x)
	}
}

// next returns the content of an extent for a write, and its version.
func (m *model) next(extent, blocks int) ([]byte, uint64) {
	m.version++
	content := make([]byte, blocks*blockBytes)
	for b := range blocks {
		m.fill(content[b*blockBytes:][:blockBytes], extent, b, m.version)
	}
	return content, m.version
}

// wrote notes the end of a write to the first blocks of an extent.
func (m *model) wrote(extent, blocks int, version uint64, acknowledged bool) {
	for b := range blocks {
		allowed := &m.allowed[extent][b]
		if acknowledged {
			*allowed = (*allowed)[:0]
		}
		*allowed = append(*allowed, version)
	}
}

// read checks what an extent was read to hold; from then on it holds that. The error names the first block that is wrong.
func (m *model) read(extent int, content []byte) error {
	want := make([]byte, blockBytes)
	for b := range extentBlocks {
		got := content[b*blockBytes:][:blockBytes]
		version := binary.LittleEndian.Uint64(got[16:])
		m.fill(want, extent, b, version)
		if !slices.Contains(m.allowed[extent][b], version) || !bytes.Equal(got, want) {
			return fmt.Errorf("extent %d block %d holds %s, allowed are versions %v", extent, b, m.describe(got, want), m.allowed[extent][b])
		}
		m.allowed[extent][b] = append(m.allowed[extent][b][:0], version)
	}
	return nil
}

func (m *model) describe(got, want []byte) string {
	where := binary.LittleEndian.Uint64(got[8:])
	switch {
	case bytes.Equal(got, want):
		return fmt.Sprintf("version %d", binary.LittleEndian.Uint64(got[16:]))
	case binary.LittleEndian.Uint64(got) == m.tag:
		return fmt.Sprintf("version %d of extent %d block %d", binary.LittleEndian.Uint64(got[16:]), where>>32, where&0xffffffff)
	}
	return fmt.Sprintf("no block of this volume: %x...", got[:32])
}
