package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
)

// maxRPCConns is SPDK_JSONRPC_MAX_CONNS: further clients connect, but nobody
// answers them before another one is gone.
const maxRPCConns = 64

// JSON-RPC error codes (include/spdk/jsonrpc.h).
const (
	codeParseError     = -32700
	codeInvalidRequest = -32600
	codeMethodNotFound = -32601
	codeInvalidParams  = -32602
	codeInternalError  = -32603
	codeInvalidState   = -1
)

// rpcRequest is one request as it came.
type rpcRequest struct {
	method string
	params json.RawMessage // nil when absent or null
	id     json.RawMessage // nil when absent or null: no answer to a success
}

// rpcReply is the outcome of a request.
type rpcReply struct {
	result any
	err    *rpcError
	// raw replaces the whole answer by these bytes: a fault.
	raw []byte
	// none answers nothing, hangup closes the connection instead: faults.
	none, hangup bool
}

// rpcError is a JSON-RPC error object.
type rpcError struct {
	code    int
	message string
}

// rpcHandler starts a request; it, or something it started, calls reply once.
// Requests of one connection are started in their order.
type rpcHandler func(ctx context.Context, req rpcRequest, reply func(rpcReply))

// rpcServer is SPDK's JSON-RPC server (lib/jsonrpc): concatenated JSON values on
// a Unix stream socket, many requests in flight, answers in any order.
type rpcServer struct {
	ln      *net.UnixListener
	path    string
	handle  rpcHandler
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	mu      sync.Mutex
	conns   map[*rpcConn]struct{}
	closing bool
}

// listenRPC serves path. A socket left behind by a killed process is replaced.
func listenRPC(path string, handle rpcHandler) (*rpcServer, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the old RPC socket %s: %w", path, err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for RPC on %s (is the directory there, the path below 108 bytes?): %w", path, err)
	}
	ln.SetUnlinkOnClose(false)
	s := &rpcServer{ln: ln, path: path, handle: handle, conns: map[*rpcConn]struct{}{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Add(1)
	go s.accept()
	return s, nil
}

// close ends the server and every connection. A killed process leaves its
// socket's name behind; unlink removes it as an orderly end does.
func (s *rpcServer) close(unlink bool) {
	s.mu.Lock()
	s.closing = true
	for c := range s.conns {
		c.hangup()
	}
	s.mu.Unlock()
	_ = s.ln.Close()
	s.cancel()
	s.wg.Wait()
	if unlink {
		_ = os.Remove(s.path)
	}
}

func (s *rpcServer) accept() {
	defer s.wg.Done()
	slots := make(chan struct{}, maxRPCConns)
	for {
		select {
		case slots <- struct{}{}:
		case <-s.ctx.Done():
			return
		}
		nc, err := s.ln.Accept()
		if err != nil {
			return
		}
		c := &rpcConn{srv: s, nc: nc, wake: make(chan struct{}, 1), done: make(chan struct{})}
		s.mu.Lock()
		if s.closing {
			s.mu.Unlock()
			_ = nc.Close()
			return
		}
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.wg.Add(2)
		go func() {
			defer s.wg.Done()
			c.read()
		}()
		go func() {
			defer s.wg.Done()
			c.write()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
			<-slots
		}()
	}
}

// rpcConn is one client.
type rpcConn struct {
	srv  *rpcServer
	nc   net.Conn
	once sync.Once
	done chan struct{}
	wake chan struct{}

	mu      sync.Mutex
	queue   [][]byte
	pending int  // requests started and not answered
	eof     bool // the client sends no more
	held    bool // nothing is sent just now
}

func (c *rpcConn) hangup() {
	c.once.Do(func() {
		close(c.done)
		_ = c.nc.Close()
	})
}

// rpcBufSize is SPDK_JSONRPC_RECV_BUF_SIZE: a longer request ends the client's half
// of the connection.
const rpcBufSize = 256 << 10

// read takes requests off the stream. As in SPDK bytes that are not JSON end the
// connection without an answer, those to requests received together with them
// included.
func (c *rpcConn) read() {
	buf := make([]byte, 0, rpcBufSize)
	for len(buf) < cap(buf) {
		n, err := c.nc.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if n > 0 {
			c.hold(true)
			rest, ok := c.take(buf)
			if !ok {
				c.hangup()
				return
			}
			c.hold(false)
			buf = buf[:copy(buf, rest)]
		}
		if err != nil {
			break
		}
	}
	c.mu.Lock()
	c.eof = true
	c.mu.Unlock()
	c.signal()
}

// hold keeps answers back while a chunk of requests is being read.
func (c *rpcConn) hold(held bool) {
	c.mu.Lock()
	c.held = held
	c.mu.Unlock()
	c.signal()
}

// take starts every complete request in buf and returns what is left; ok is false
// where buf is not JSON.
func (c *rpcConn) take(buf []byte) (rest []byte, ok bool) {
	for {
		dec := json.NewDecoder(bytes.NewReader(buf))
		var raw json.RawMessage
		switch err := dec.Decode(&raw); {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return buf, true
		case err != nil:
			return nil, false
		}
		buf = buf[dec.InputOffset():]
		switch raw[0] {
		case '{':
			c.start(raw, c.send)
		case '[':
			c.startBatch(raw)
		default:
			c.send(encodeReply(nil, invalidRequest()))
		}
	}
}

func invalidRequest() rpcReply {
	return rpcReply{err: &rpcError{codeInvalidRequest, "Invalid request"}}
}

// start runs one request; out gets its answer, nil if there is none to send.
func (c *rpcConn) start(raw json.RawMessage, out func([]byte)) {
	c.mu.Lock()
	c.pending++
	c.mu.Unlock()
	finish := func(b []byte) {
		out(b)
		c.mu.Lock()
		c.pending--
		c.mu.Unlock()
		c.signal()
	}
	req, id, ok := parseRequest(raw)
	if !ok {
		finish(encodeReply(id, invalidRequest()))
		return
	}
	var once sync.Once
	c.srv.handle(c.srv.ctx, req, func(r rpcReply) {
		once.Do(func() {
			switch {
			case r.hangup:
				c.hangup()
			case r.none:
			case r.raw != nil:
				finish(r.raw)
			case r.err == nil && req.id == nil:
				finish(nil)
			default:
				finish(encodeReply(req.id, r))
			}
		})
	})
}

// startBatch runs the requests of an array and answers with one array, in the
// order in which they finish.
func (c *rpcConn) startBatch(raw json.RawMessage) {
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil || len(items) == 0 {
		c.send(encodeReply(nil, invalidRequest()))
		return
	}
	var mu sync.Mutex
	left := len(items)
	var answer []byte
	for _, item := range items {
		c.start(item, func(b []byte) {
			mu.Lock()
			defer mu.Unlock()
			if b != nil {
				sep := byte(',')
				if answer == nil {
					sep = '['
				}
				answer = append(append(answer, sep), b[:len(b)-1]...)
			}
			if left--; left == 0 && answer != nil {
				c.send(append(answer, ']', '\n'))
			}
		})
	}
}

// parseRequest checks the envelope (parse_single_request in
// lib/jsonrpc/jsonrpc_server.c).
func parseRequest(raw json.RawMessage) (req rpcRequest, id json.RawMessage, ok bool) {
	var m map[string]json.RawMessage
	if json.Unmarshal(raw, &m) != nil {
		return req, nil, false
	}
	for name := range m {
		switch name {
		case "jsonrpc", "method", "params", "id":
		default:
			return req, nil, false
		}
	}
	var version string
	if v, given := m["jsonrpc"]; given && (json.Unmarshal(v, &version) != nil || version != "2.0") {
		return req, nil, false
	}
	if v, given := m["method"]; !given || v[0] != '"' || json.Unmarshal(v, &req.method) != nil {
		return req, nil, false
	}
	if v, given := m["id"]; given {
		switch {
		case string(v) == "null":
		case v[0] == '"', v[0] == '-', v[0] >= '0' && v[0] <= '9':
			req.id = v
		default:
			return req, nil, false
		}
	}
	if v, given := m["params"]; given && string(v) != "null" {
		if v[0] != '{' && v[0] != '[' {
			return req, req.id, false
		}
		req.params = v
	}
	return req, req.id, true
}

// encodeReply is the answer's JSON and SPDK's newline.
func encodeReply(id json.RawMessage, r rpcReply) []byte {
	if id == nil {
		id = json.RawMessage("null")
	}
	o := obj("jsonrpc", "2.0", "id", id)
	if r.err != nil {
		o = o.with("error", obj("code", r.err.code, "message", r.err.message))
	} else {
		o = o.with("result", r.result)
	}
	b, err := marshal(o)
	if err != nil {
		panic(fmt.Sprintf("sim: an answer that is not JSON: %v", err))
	}
	return append(b, '\n')
}

func (c *rpcConn) send(b []byte) {
	if b == nil {
		return
	}
	c.mu.Lock()
	c.queue = append(c.queue, b)
	c.mu.Unlock()
	c.signal()
}

func (c *rpcConn) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// write sends answers until the connection is closed, or the client has sent its
// last and every request is answered.
func (c *rpcConn) write() {
	defer c.hangup()
	for {
		c.mu.Lock()
		var queue [][]byte
		if !c.held {
			queue, c.queue = c.queue, nil
		}
		over := c.eof && c.pending == 0 && len(queue) == 0 && !c.held
		c.mu.Unlock()
		if over {
			return
		}
		for _, b := range queue {
			if _, err := c.nc.Write(b); err != nil {
				return
			}
		}
		if len(queue) > 0 {
			continue
		}
		select {
		case <-c.wake:
		case <-c.done:
			return
		}
	}
}
