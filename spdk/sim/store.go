package sim

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// store keeps a disk's bytes; what was never written reads as zeroes. Offsets
// have been checked. Concurrent calls on ranges that don't overlap are safe.
type store interface {
	ReadAt(p []byte, off int64) error
	WriteAt(p []byte, off int64) error
	Zero(off, n int64) error
	Close() error
}

func newStore(inFile bool, file string, size int64) (store, error) {
	if !inFile {
		return newMemStore(), nil
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create the disk's sparse file: %w", err)
	}
	if err := f.Truncate(size); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("size the disk's sparse file: %w", err)
	}
	return &fileStore{f: f}, nil
}

// memPage is the granularity in which memStore holds data.
const memPage = 64 << 10

// memStore keeps the pages that were written.
type memStore struct {
	mu    sync.RWMutex
	pages map[int64]*page
}

type page struct {
	mu sync.RWMutex
	b  [memPage]byte
}

func newMemStore() *memStore { return &memStore{pages: map[int64]*page{}} }

// each splits a range at page borders.
func (m *memStore) each(off, n int64, fn func(index int64, from, to int, pos int64)) {
	for pos := int64(0); pos < n; {
		index, from := (off+pos)/memPage, (off+pos)%memPage
		to := min(int64(memPage), from+n-pos)
		fn(index, int(from), int(to), pos)
		pos += to - from
	}
}

func (m *memStore) page(i int64) *page {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.pages[i]
}

func (m *memStore) ReadAt(p []byte, off int64) error {
	m.each(off, int64(len(p)), func(index int64, from, to int, pos int64) {
		dst := p[pos : pos+int64(to-from)]
		if pg := m.page(index); pg != nil {
			pg.mu.RLock()
			copy(dst, pg.b[from:to])
			pg.mu.RUnlock()
		} else {
			clear(dst)
		}
	})
	return nil
}

func (m *memStore) WriteAt(p []byte, off int64) error {
	m.each(off, int64(len(p)), func(index int64, from, to int, pos int64) {
		pg := m.page(index)
		if pg == nil {
			m.mu.Lock()
			if pg = m.pages[index]; pg == nil {
				pg = new(page)
				m.pages[index] = pg
			}
			m.mu.Unlock()
		}
		pg.mu.Lock()
		copy(pg.b[from:to], p[pos:])
		pg.mu.Unlock()
	})
	return nil
}

func (m *memStore) Zero(off, n int64) error {
	m.each(off, n, func(index int64, from, to int, _ int64) {
		if from == 0 && to == memPage {
			m.mu.Lock()
			delete(m.pages, index)
			m.mu.Unlock()
		} else if pg := m.page(index); pg != nil {
			pg.mu.Lock()
			clear(pg.b[from:to])
			pg.mu.Unlock()
		}
	})
	return nil
}

func (m *memStore) Close() error { return nil }

// fileStore keeps data in a sparse file.
type fileStore struct{ f *os.File }

func (s *fileStore) ReadAt(p []byte, off int64) error {
	_, err := s.f.ReadAt(p, off)
	return err
}

func (s *fileStore) WriteAt(p []byte, off int64) error {
	_, err := s.f.WriteAt(p, off)
	return err
}

func (s *fileStore) Zero(off, n int64) error {
	return unix.Fallocate(int(s.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
}

func (s *fileStore) Close() error { return s.f.Close() }
