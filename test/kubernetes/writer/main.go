// Command writer writes to a file or a block device and verifies what is there: it is what the pods of the tests in a cluster run.
//
//	writer PATH
//
// Records of 4096 bytes go round a region of 16 MiB, each numbered, summed, and on disk (O_DIRECT, O_SYNC) before the next. It begins with
// what is there: the last round, in which no record may be missing or wrong. Each second it prints one line:
//
//	found 42 written 120 longest 17ms
//
// with the highest number that was there, the one that has been written since, and the longest write. It ends with status 1 at the first
// error, and with status 0 on SIGTERM.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
	"unsafe"
)

const (
	recordSize = 4096
	records    = 4096 // of a round
	pause      = 20 * time.Millisecond
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: writer PATH")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	err := run(ctx, os.Args[1], os.Stdout)
	stop()
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, path string, report io.Writer) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_DIRECT|syscall.O_SYNC, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	found, err := verify(file)
	if err != nil {
		return err
	}
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	var longest time.Duration
	buffer := aligned()
	last := time.Time{}
	for number := found; ; {
		if time.Since(last) >= time.Second {
			fmt.Fprintf(report, "found %d written %d longest %dms\n", found, number, longest.Milliseconds())
			last = time.Now()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		number++
		fill(buffer, number)
		begin := time.Now()
		if _, err := file.WriteAt(buffer, position(number)); err != nil {
			return fmt.Errorf("write record %d: %w", number, err)
		}
		longest = max(longest, time.Since(begin))
	}
}

func position(number uint64) int64 { return int64(number%records) * recordSize }

// fill makes the record of that number.
func fill(record []byte, number uint64) {
	clear(record)
	binary.LittleEndian.PutUint64(record, number)
	sum := sha256.Sum256(record[:8])
	for at := 8; at+len(sum) <= len(record); at += len(sum) {
		copy(record[at:], sum[:])
	}
}

// verify returns the number of the last record, 0 if there is none. All of the round that ends with it must be right, but for the place of the
// record that comes next: it may have been under way when the writer ended.
func verify(file io.ReaderAt) (uint64, error) {
	buffer, want := aligned(), make([]byte, recordSize)
	var numbers [records]uint64
	var right [records]bool
	var highest uint64
	for place := range numbers {
		n, err := file.ReadAt(buffer, int64(place)*recordSize)
		if errors.Is(err, io.EOF) && n < recordSize {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("read record at %d: %w", place, err)
		}
		number := binary.LittleEndian.Uint64(buffer)
		fill(want, number)
		if numbers[place], right[place] = number, number > 0 && number%records == uint64(place) && bytes.Equal(buffer, want); right[place] {
			highest = max(highest, number)
		}
	}
	first := uint64(1)
	if highest >= records {
		first = highest - records + 2
	}
	for number := first; number <= highest; number++ {
		if place := number % records; !right[place] || numbers[place] != number {
			return 0, fmt.Errorf("record %d of %d is wrong: in its place is one that says to be %d", number, highest, numbers[place])
		}
	}
	return highest, nil
}

// aligned returns a buffer for direct I/O.
func aligned() []byte {
	buffer := make([]byte, 2*recordSize)
	offset := recordSize - int(uintptr(unsafe.Pointer(&buffer[0]))%recordSize)
	return buffer[offset : offset+recordSize]
}
