package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strconv"
	"sync"
	"syscall"
)

// Host is the machine's side: it holds the guest's idle calls.
type Host struct {
	Token string // the guest must show it

	listener net.Listener
	idle     chan net.Conn
	done     chan struct{}
	wg       sync.WaitGroup
	once     sync.Once
}

// Listen starts the machine's side on a loopback port.
func Listen() (*Host, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h := &Host{Token: rand.Text(), listener: l, idle: make(chan net.Conn), done: make(chan struct{})}
	h.wg.Go(h.accept)
	return h, nil
}

// Port is where the guest has to call.
func (h *Host) Port() int { return h.listener.Addr().(*net.TCPAddr).Port }

// Close ends the listening and the idle calls; calls in use end with the guest.
func (h *Host) Close() error {
	h.once.Do(func() { close(h.done) })
	err := h.listener.Close()
	h.wg.Wait()
	return err
}

func (h *Host) accept() {
	for {
		conn, err := h.listener.Accept()
		if err != nil {
			return
		}
		h.wg.Go(func() { h.offer(conn) })
	}
}

// offer keeps a call until somebody takes it.
func (h *Host) offer(conn net.Conn) {
	stop := make(chan struct{})
	h.wg.Go(func() {
		select {
		case <-h.done:
			conn.Close() // also ends the reading of a token that never comes
		case <-stop:
		}
	})
	defer close(stop)
	var token string
	if err := readJSON(conn, &token); err != nil || token != h.Token {
		conn.Close()
		return
	}
	select {
	case h.idle <- conn:
	case <-h.done:
		conn.Close()
	}
}

// call takes an idle call and sends req on it. The end of ctx closes the call;
// release undoes that.
func (h *Host) call(ctx context.Context, req Request) (conn net.Conn, release func() bool, err error) {
	select {
	case conn = <-h.idle:
	case <-h.done:
		return nil, nil, errors.New("the virtual machine's control channel is closed")
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("wait for the virtual machine: %w", context.Cause(ctx))
	}
	release = context.AfterFunc(ctx, func() { conn.Close() })
	if err := writeJSON(conn, req); err != nil {
		release()
		conn.Close()
		return nil, nil, err
	}
	return conn, release, nil
}

// DialContext opens a connection from inside the guest, say to a Unix socket
// there. It outlives ctx.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, release, err := h.call(ctx, Request{Dial: &Dial{network, address}})
	if err != nil {
		return nil, err
	}
	defer release()
	var reply Reply
	if err = readJSON(conn, &reply); err == nil {
		err = reply.err()
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("dial %s %s: %w", network, address, err)
	}
	return conn, nil
}

// Put writes a file in the guest, and the directories above it.
func (h *Host) Put(ctx context.Context, path string, mode fs.FileMode, size int64, content io.Reader) error {
	conn, release, err := h.call(ctx, Request{Put: &File{path, mode, size}})
	if err != nil {
		return err
	}
	defer conn.Close()
	defer release()
	var reply Reply
	_, err = io.CopyN(conn, content, size)
	if readErr := readJSON(conn, &reply); readErr != nil {
		return fmt.Errorf("write %s in the guest: %w", path, errors.Join(err, readErr))
	}
	return reply.err()
}

// Get reads a file of the guest.
func (h *Host) Get(ctx context.Context, path string) ([]byte, error) {
	conn, release, err := h.call(ctx, Request{Get: &File{Path: path}})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer release()
	var reply Reply
	if err := readJSON(conn, &reply); err != nil {
		return nil, fmt.Errorf("read %s in the guest: %w", path, err)
	}
	if err := reply.err(); err != nil {
		return nil, err
	}
	b := make([]byte, reply.Size)
	_, err = io.ReadFull(conn, b)
	return b, err
}

// Process is a command that runs in the guest.
type Process struct {
	conn    net.Conn
	out     *frameWriter
	release func() bool
	done    chan struct{}
	code    int
	err     error
}

// Streams are where a command's input comes from and its output goes; nil ones
// are empty and discarded.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Start starts a command in the guest. It is killed when ctx ends.
func (h *Host) Start(ctx context.Context, c Command, s Streams) (*Process, error) {
	conn, release, err := h.call(ctx, Request{Run: &c})
	if err != nil {
		return nil, err
	}
	p := &Process{conn: conn, out: &frameWriter{w: conn}, release: release, done: make(chan struct{})}
	go p.input(s.Stdin) // ends with its reader or the call
	go p.output(ctx, s)
	return p, nil
}

func (p *Process) input(from io.Reader) {
	if from != nil {
		if _, err := io.Copy(stream{p.out, frameStdin}, from); err != nil {
			return
		}
	}
	_ = p.out.send(frameStdin, nil) // a command that has ended takes no input
}

func (p *Process) output(ctx context.Context, s Streams) {
	defer close(p.done)
	defer p.conn.Close()
	defer p.release()
	for {
		kind, payload, err := readFrame(p.conn)
		if err != nil {
			p.err = fmt.Errorf("the call to the guest broke: %w", err)
			if ctx.Err() != nil {
				p.err = context.Cause(ctx)
			}
			return
		}
		switch kind {
		case frameStdout:
			err = write(s.Stdout, payload)
		case frameStderr:
			err = write(s.Stderr, payload)
		case frameExit:
			p.code, p.err = strconv.Atoi(string(payload))
			return
		case frameNotFound:
			err = errors.New(string(payload))
		}
		if err != nil {
			p.err = err
			return
		}
	}
}

func write(w io.Writer, b []byte) error {
	if w == nil {
		return nil
	}
	_, err := w.Write(b)
	return err
}

// Wait returns the exit code, 128+n after signal n. The error is for a command
// that could not be run to its end.
func (p *Process) Wait() (int, error) {
	<-p.done
	return p.code, p.err
}

// Done is closed when the command has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal to the command and its children.
func (p *Process) Signal(s syscall.Signal) error {
	return p.out.send(frameSignal, []byte{byte(s)})
}
