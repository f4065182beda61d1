// Package agent is the control channel between a test on the machine and the
// virtual machine it drives: it runs commands, moves files, opens connections
// and runs loads in the guest.
//
// The guest's side calls the machine's, which listens on a port of its own: that
// needs no port forwarded into the guest, and the first call says that the guest
// is up. A few calls wait idle; each serves one request and is then closed.
package agent

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
)

// Request is what the machine asks for on an idle call. One of the fields is set.
type Request struct {
	Run  *Command  `json:",omitempty"`
	Dial *Dial     `json:",omitempty"`
	Put  *File     `json:",omitempty"`
	Get  *File     `json:",omitempty"`
	Load *LoadSpec `json:",omitempty"`
}

// Command is a program to run. Its streams follow as frames.
type Command struct {
	Args []string
	Env  []string // added to the agent's own, KEY=value
	Dir  string
}

// Dial is a connection to open in the guest; its bytes follow as they are.
type Dial struct{ Network, Address string }

// File is a file to write or read; its bytes follow as they are.
type File struct {
	Path string
	Mode fs.FileMode
	Size int64
}

// Reply answers Dial, Put, Get and Load.
type Reply struct {
	Error string
	Size  int64 // of the file that follows, for Get
}

// Frame types of a running command.
const (
	frameStdin    = 'i' // an empty one ends standard input
	frameStdout   = 'o'
	frameStderr   = 'e'
	frameSignal   = 's' // one byte, the signal's number; sent to the process group
	frameExit     = 'x' // the exit code in decimal; 128+n for signal n; the last one
	frameNotFound = 'n' // the command could not be started; the text says why; the last one
)

const maxFrame = 1 << 20

// writeJSON sends one message: a length and JSON.
func writeJSON(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readJSON(r io.Reader, v any) error {
	var n [4]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return err
	}
	b := make([]byte, min(binary.BigEndian.Uint32(n[:]), maxFrame))
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// frameWriter sends frames from several goroutines.
type frameWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (f *frameWriter) send(kind byte, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(payload)))
	_, err := f.w.Write(append(b, payload...))
	return err
}

// stream is an io.Writer of one frame type.
type stream struct {
	to   *frameWriter
	kind byte
}

func (s stream) Write(p []byte) (int, error) {
	for sent := 0; sent < len(p); {
		n := min(len(p)-sent, maxFrame)
		if err := s.to.send(s.kind, p[sent:sent+n]); err != nil {
			return sent, err
		}
		sent += n
	}
	return len(p), nil
}

func readFrame(r io.Reader) (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("frame of %d bytes", n)
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(r, payload)
	return head[0], payload, err
}

func (r Reply) err() error {
	if r.Error != "" {
		return errors.New("in the guest: " + r.Error)
	}
	return nil
}
