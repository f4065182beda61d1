package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/holdfast-csi/holdfast/spdk"
)

// maxIDBytes is the longest request id that SPDK takes (lib/jsonrpc/jsonrpc_internal.h).
const maxIDBytes = 128

var (
	errTooLong   = errors.New("message is too long")
	errNoRequest = errors.New("the client sent something that is no request")
	errStopping  = errors.New("gateway is stopping")
)

// request is what of a request goes on to SPDK.
type request struct {
	JSONRPC string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params,omitempty"`
}

// refusal is an answer that the gateway gives itself.
type refusal struct {
	JSONRPC string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Error   refusalError    `json:"error"`
}

type refusalError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// session is one client with its connection to SPDK. One goroutine reads requests, another
// answers; writes to the client are whole messages under a lock.
type session struct {
	config Config
	log    logr.Logger
	client net.Conn

	upstream net.Conn // made for the first request; of the request reader

	mu          sync.Mutex
	outstanding int  // requests passed on and not answered
	stopping    bool // no further requests are read
	writing     sync.Mutex
}

// run returns when the client or SPDK has gone, or the gateway has stopped and what was
// outstanding is answered.
func (s *session) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.stop)
	defer stop()
	var answers sync.WaitGroup
	defer answers.Wait()
	err := s.requests(&answers)
	if errors.Is(err, errStopping) && s.waitsForAnswers() {
		return err // the reader of answers closes both sides after the last
	}
	s.close()
	return err
}

// stop makes the reader of requests return, and bounds the wait for answers.
func (s *session) stop() {
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	_ = s.client.SetReadDeadline(time.Unix(1, 0)) // fails on a closed connection only, which ends reads as well
}

func (s *session) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

func (s *session) waitsForAnswers() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.upstream == nil || s.outstanding == 0 {
		return false
	}
	return s.upstream.SetReadDeadline(time.Now().Add(s.config.Timeout)) == nil
}

func (s *session) close() {
	defer s.client.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.upstream != nil {
		_ = s.upstream.Close()
	}
}

// requests reads requests until there is no going on.
func (s *session) requests(answers *sync.WaitGroup) error {
	in := &bounded{from: s.client, max: spdk.MaxRequestBytes}
	frames := json.NewDecoder(in)
	for {
		var frame json.RawMessage
		if err := frames.Decode(&frame); err != nil {
			if s.isStopping() {
				return errStopping
			}
			return fmt.Errorf("read a request: %w", err)
		}
		in.reset()
		if err := s.handle(frame, answers); err != nil {
			return err
		}
	}
}

// handle passes one request on or refuses it.
func (s *session) handle(frame json.RawMessage, answers *sync.WaitGroup) error {
	var r request
	if err := json.Unmarshal(frame, &r); err != nil || !usableID(r.ID) || r.Method == "" {
		refused := s.refuse(json.RawMessage("null"), spdk.CodeInvalidRequest, "not a request with an id and a method")
		return errors.Join(errNoRequest, refused)
	}
	method, params, err := s.config.KeyDir.Translate(r.Method, r.Params)
	if err != nil {
		s.log.Error(err, "A key can't be handled", "method", r.Method)
		return s.refuse(r.ID, spdk.CodeNotForwarded, err.Error())
	}
	if method == r.Method && !allowed[r.Method] {
		s.log.V(2).Info("Refused a method", "method", r.Method)
		return s.refuse(r.ID, spdk.CodeMethodNotFound, fmt.Sprintf("the gateway does not pass method %q", r.Method))
	}
	if s.upstream == nil {
		if err := s.connect(answers); err != nil {
			return s.refuse(r.ID, spdk.CodeNotForwarded, "the gateway cannot reach SPDK: "+err.Error())
		}
	}
	out, err := json.Marshal(request{JSONRPC: "2.0", ID: r.ID, Method: method, Params: params})
	if err != nil {
		return fmt.Errorf("encode %s: %w", r.Method, err)
	}
	s.mu.Lock()
	s.outstanding++
	s.mu.Unlock()
	if err := s.send(s.upstream, out); err != nil {
		return fmt.Errorf("pass %s on: %w", r.Method, err)
	}
	return nil
}

// usableID reports whether an id is a number or a string that SPDK takes.
func usableID(id json.RawMessage) bool {
	if len(id) == 0 || len(id) > maxIDBytes {
		return false
	}
	return id[0] == '"' || id[0] == '-' || (id[0] >= '0' && id[0] <= '9')
}

// connect makes the connection to SPDK and starts the reader of its answers.
func (s *session) connect(answers *sync.WaitGroup) error {
	d := net.Dialer{Timeout: s.config.Timeout}
	upstream, err := d.Dial("unix", s.config.Socket)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.upstream = upstream
	s.mu.Unlock()
	answers.Go(func() {
		err := s.answers(upstream)
		s.log.V(4).Info("No more answers from SPDK", "reason", fmt.Sprint(err))
		s.close()
	})
	return nil
}

// answers passes SPDK's answers to the client, whole and unchanged, until the connection
// ends or, when the gateway stops, none is outstanding.
func (s *session) answers(upstream net.Conn) error {
	in := &bounded{from: upstream, max: spdk.DefaultMaxAnswerBytes}
	frames := json.NewDecoder(in)
	for {
		var frame json.RawMessage
		if err := frames.Decode(&frame); err != nil {
			return err
		}
		in.reset()
		if err := s.write(frame); err != nil {
			return err
		}
		s.mu.Lock()
		s.outstanding--
		last := s.stopping && s.outstanding == 0
		s.mu.Unlock()
		if last {
			return errStopping
		}
	}
}

func (s *session) refuse(id json.RawMessage, code int, message string) error {
	out, err := json.Marshal(refusal{JSONRPC: "2.0", ID: id, Error: refusalError{Code: code, Message: message}})
	if err != nil {
		return fmt.Errorf("encode a refusal: %w", err)
	}
	return s.write(out)
}

func (s *session) write(frame []byte) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.send(s.client, frame); err != nil {
		return fmt.Errorf("write to the client: %w", err)
	}
	return nil
}

func (s *session) send(to net.Conn, frame []byte) error {
	if err := to.SetWriteDeadline(time.Now().Add(s.config.Timeout)); err != nil {
		return err
	}
	_, err := to.Write(frame)
	return err
}

// bounded fails when more than max bytes come in for one message.
type bounded struct {
	from io.Reader
	max  int
	n    int
}

func (b *bounded) reset() { b.n = 0 }

func (b *bounded) Read(p []byte) (int, error) {
	if b.n >= b.max {
		return 0, fmt.Errorf("%w: more than %d bytes", errTooLong, b.max)
	}
	n, err := b.from.Read(p[:min(len(p), b.max-b.n)])
	b.n += n
	return n, err
}
