package guest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// LoadReport is what a write load has seen.
type LoadReport struct {
	Writes       int
	Errors       int
	FirstError   string
	LongestPause time.Duration // of one write
	Differing    int           // blocks that read back as something else than written last
}

const (
	loadBlock  = 4096
	loadBlocks = 1024
)

// loads are the write loads under way, by the path written to.
type loads struct {
	mu      sync.Mutex
	running map[string]*load
}

// load writes numbered blocks, past the page cache, one after the other.
type load struct {
	file     *os.File
	buf      []byte
	stopping chan struct{}
	done     chan struct{}
	report   LoadReport
	last     [loadBlocks]uint64 // number last written to each block
}

func (l *loads) start(path string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running[path] != nil {
		return fmt.Errorf("a load on %s is running", path)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	buf, err := unix.Mmap(-1, 0, loadBlock, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		f.Close()
		return err
	}
	ld := &load{file: f, buf: buf, stopping: make(chan struct{}), done: make(chan struct{})}
	if l.running == nil {
		l.running = map[string]*load{}
	}
	l.running[path] = ld
	go ld.run()
	return nil
}

// stop ends the load on path, reads everything back, and reports.
func (l *loads) stop(path string) (LoadReport, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ld := l.running[path]
	if ld == nil {
		return LoadReport{}, fmt.Errorf("no load on %s", path)
	}
	delete(l.running, path)
	close(ld.stopping)
	<-ld.done
	defer ld.file.Close()
	want := make([]byte, loadBlock)
	for i, number := range ld.last {
		if number == 0 {
			continue
		}
		fill(want, number)
		if _, err := ld.file.ReadAt(ld.buf, int64(i)*loadBlock); err != nil || !bytes.Equal(ld.buf, want) {
			ld.report.Differing++
		}
	}
	return ld.report, nil
}

func (ld *load) run() {
	defer close(ld.done)
	for number := uint64(1); ; number++ {
		select {
		case <-ld.stopping:
			return
		default:
		}
		fill(ld.buf, number)
		block := int(number % loadBlocks)
		begin := time.Now()
		_, err := ld.file.WriteAt(ld.buf, int64(block)*loadBlock)
		ld.report.LongestPause = max(ld.report.LongestPause, time.Since(begin))
		ld.report.Writes++
		if err != nil {
			if ld.report.Errors++; ld.report.Errors == 1 {
				ld.report.FirstError = err.Error()
			}
			continue
		}
		ld.last[block] = number
	}
}

// fill makes the content of a block from its number.
func fill(b []byte, number uint64) {
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], number*2654435761+uint64(i))
	}
}
