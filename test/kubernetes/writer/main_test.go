package main

import (
	"bytes"
	"io"
	"testing"
)

// written is a region after as many records as number says.
func written(number uint64) []byte {
	region := make([]byte, records*recordSize)
	for n := uint64(1); n <= number; n++ {
		at := position(n)
		fill(region[at:at+recordSize], n)
	}
	return region
}

func TestWhatIsWrittenIsFound(t *testing.T) {
	for _, number := range []uint64{0, 1, 50, records - 1, records, records + 1, 3*records + 7} {
		if found, err := verify(bytes.NewReader(written(number))); err != nil || found != number {
			t.Errorf("of %d records %d are found (%v)", number, found, err)
		}
	}
}

func TestFileThatIsNotYetAWholeRoundIsFound(t *testing.T) {
	region := written(5)[:6*recordSize]
	if found, err := verify(bytes.NewReader(region)); err != nil || found != 5 {
		t.Errorf("of 5 records %d are found (%v)", found, err)
	}
}

func TestRecordUnderWayAtTheEndIsNoLoss(t *testing.T) {
	for _, number := range []uint64{5, records + 5} {
		region := written(number)
		at := position(number + 1)
		_, _ = io.ReadFull(bytes.NewReader(bytes.Repeat([]byte{7}, 100)), region[at:at+100])
		if found, err := verify(bytes.NewReader(region)); err != nil || found != number {
			t.Errorf("of %d records %d are found (%v)", number, found, err)
		}
	}
}

func TestLossIsAnError(t *testing.T) {
	for name, spoil := range map[string]func(region []byte){
		"a byte is another":       func(r []byte) { r[position(90)+2000]++ },
		"a record is of long ago": func(r []byte) { fill(r[position(90):position(90)+recordSize], 90) },
		"a record is gone":        func(r []byte) { clear(r[position(90) : position(90)+recordSize]) },
		"a record is of elsewhere": func(r []byte) {
			copy(r[position(90):position(90)+recordSize], r[position(91):position(91)+recordSize])
		},
	} {
		region := written(records + 200)
		spoil(region)
		if found, err := verify(bytes.NewReader(region)); err == nil {
			t.Errorf("%s: %d records are found, and no error", name, found)
		}
	}
}
