package load

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"unsafe"
)

// The content of a block: its mark, its number and its generation, 8 bytes each, little endian, and pseudo-random numbers that
// follow from both.
const (
	mark        = 0x6461_6f6c_7466_6468
	headerBytes = 24
)

// fill makes the content of a block in a generation. Generation 0, never written, is zeroes.
func fill(p []byte, number int, generation uint32) {
	if generation == 0 {
		clear(p)
		return
	}
	binary.LittleEndian.PutUint64(p, mark)
	binary.LittleEndian.PutUint64(p[8:], uint64(number))
	binary.LittleEndian.PutUint64(p[16:], uint64(generation))
	source := rand.NewPCG(uint64(number), uint64(generation))
	for i := headerBytes; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], source.Uint64())
	}
}

// parse reads a header.
func parse(p []byte) (number int, generation uint32, ok bool) {
	return int(binary.LittleEndian.Uint64(p[8:])), uint32(binary.LittleEndian.Uint64(p[16:])), binary.LittleEndian.Uint64(p) == mark
}

// differing counts the bytes of p that are not those of any generation from oldest to newest; want is for its own use.
func differing(p, want []byte, number int, oldest, newest uint32) int {
	expected := oldest
	if n, generation, ok := parse(p); ok && n == number && oldest <= generation && generation <= newest {
		expected = generation
	}
	fill(want, number, expected)
	n := 0
	for i := range p {
		if p[i] != want[i] {
			n++
		}
	}
	return n
}

// describe says what a block holds.
func describe(p []byte) string {
	number, generation, ok := parse(p)
	if !ok {
		return fmt.Sprintf("what no load wrote (%x...)", p[:16])
	}
	return fmt.Sprintf("generation %d of block %d", generation, number)
}

// newBuffer returns a block of memory that starts at a multiple of its size, as O_DIRECT wants it.
func newBuffer() []byte {
	b := make([]byte, 2*BlockBytes)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (BlockBytes - 1)
	return b[skip : skip+BlockBytes : skip+BlockBytes]
}
