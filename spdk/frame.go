package spdk

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// frames cuts what a connection sends into JSON objects. It finds where each ends and checks nothing else: a watcher reads megabytes,
// nearly all of them the same as the time before, and whoever decodes an answer checks it.
type frames struct {
	from io.Reader
	buf  []byte
	used int // bytes of buf that were returned
}

// frame is one JSON object as it came. Object is valid until the next one is cut off.
type frame struct {
	object []byte
	// from and to are where in object the last value of a member is, that is an object or an array; 0 if there is none.
	from, to int
}

// next returns the next object.
func (f *frames) next() (frame, error) {
	f.buf = append(f.buf[:0], f.buf[f.used:]...)
	f.used = 0
	var s valueScan
	for seen := 0; ; {
		n, ended, err := s.scan(f.buf[seen:])
		if err != nil {
			return frame{}, err
		}
		if seen += n; ended {
			f.used = seen
			return frame{object: f.buf[:seen], from: s.from, to: s.to}, nil
		}
		if len(f.buf) == cap(f.buf) {
			f.buf = append(f.buf, make([]byte, max(len(f.buf), minRead))...)[:len(f.buf)]
		}
		n, err = f.from.Read(f.buf[len(f.buf):cap(f.buf)])
		f.buf = f.buf[:len(f.buf)+n]
		if err != nil && n == 0 {
			return frame{}, err
		}
	}
}

const (
	minRead = 4 << 10
	space   = " \t\r\n"
)

// valueScan finds the end of a JSON object or array that may come in pieces.
type valueScan struct {
	at, depth         int // at is how many bytes were scanned before
	inString, escaped bool
	from, to          int // of the last object or array that is a member's value
}

// scan returns how many bytes of p belong to the value, white space before it included, and whether it ends with them.
func (s *valueScan) scan(p []byte) (n int, ended bool, err error) {
	for n = 0; n < len(p) && !ended && err == nil; n++ {
		if s.inString {
			n += s.skipString(p[n:])
			continue
		}
		ended, err = s.step(p[n], s.at+n)
	}
	s.at += n
	return n, ended, err
}

// step takes one byte, the one with that number, which is in no string.
func (s *valueScan) step(b byte, at int) (ended bool, err error) {
	switch b {
	case '{', '[':
		if s.depth++; s.depth == 2 {
			s.from = at
		}
		return false, nil
	case ' ', '\t', '\r', '\n':
		return false, nil
	}
	if s.depth == 0 {
		return false, fmt.Errorf("%w: it begins with %q", errBadAnswer, b)
	}
	switch b {
	case '"':
		s.inString = true
	case '}', ']':
		if s.depth--; s.depth == 1 {
			s.to = at + 1
		}
	}
	return s.depth == 0, nil
}

// skipString returns the place in p, which begins within a string, of the string's end or, if that is not in it, of p's last byte.
func (s *valueScan) skipString(p []byte) int {
	if end := bytes.IndexByte(p, '"'); !s.escaped && end >= 0 && bytes.IndexByte(p[:end], '\\') < 0 {
		s.inString = false
		return end
	}
	for i, b := range p {
		switch {
		case s.escaped:
			s.escaped = false
		case b == '\\':
			s.escaped = true
		case b == '"':
			s.inString = false
			return i
		}
	}
	return len(p) - 1
}

// answer takes an answer apart. Its result, where it is long, is a copy of what was sent and is checked by whoever decodes it.
func (f frame) answer() (wireAnswer, error) {
	var a wireAnswer
	short, long := f.object, []byte(nil)
	if bytes.HasSuffix(bytes.TrimRight(f.object[:f.from], space+":"), resultKey) {
		short = bytes.Join([][]byte{f.object[:f.from], []byte("null"), f.object[f.to:]}, nil)
		long = bytes.Clone(f.object[f.from:f.to])
	}
	if err := json.Unmarshal(short, &a); err != nil {
		return a, fmt.Errorf("%w: %w", errBadAnswer, err)
	}
	if long != nil {
		a.Result = long
	}
	return a, nil
}

var resultKey = []byte(`"result"`)
