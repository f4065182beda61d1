package spdk

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeServer accepts connections on a Unix socket and hands each to serve. It is only the
// wire: what SPDK does is tested in test/contract.
type fakeServer struct {
	listener net.Listener
	address  string
	handlers sync.WaitGroup
}

// request is what a fakeServer reads.
type request struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
}

// serve starts a fakeServer that calls handle for each connection, with its number.
func serve(t *testing.T, handle func(n int, c *serverConn)) *fakeServer {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &fakeServer{listener: l, address: "unix://" + path}
	s.handlers.Go(func() {
		for n := 0; ; n++ {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			s.handlers.Go(func() {
				defer raw.Close()
				handle(n, &serverConn{Conn: raw, in: json.NewDecoder(bufio.NewReader(raw))})
			})
		}
	})
	t.Cleanup(func() { l.Close(); s.handlers.Wait() })
	return s
}

type serverConn struct {
	net.Conn
	in *json.Decoder
}

// next reads a request; ok is false when the client has gone.
func (c *serverConn) next() (r request, ok bool) {
	return r, c.in.Decode(&r) == nil
}

func (c *serverConn) send(text string, args ...any) { fmt.Fprintf(c, text, args...) }

// echo answers every request with its method as result.
func echo(_ int, c *serverConn) {
	for {
		r, ok := c.next()
		if !ok {
			return
		}
		c.send(`{"jsonrpc":"2.0","id":%s,"result":%q}`, r.ID, r.Method)
	}
}

func dialTest(t *testing.T, s *fakeServer) *Client {
	t.Helper()
	c, err := Dial(s.address, Options{CallTimeout: 10 * time.Second, MaxAnswerBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func callString(ctx context.Context, c *Client, method string) (string, error) {
	var s string
	err := c.Call(ctx, method, nil, &s)
	return s, err
}

func TestManyCallsAreInFlightOnOneConnectionAndAnswersMayComeInAnyOrder(t *testing.T) {
	const calls = 50
	s := serve(t, func(n int, c *serverConn) {
		if n != 0 {
			t.Errorf("connection %d was made", n)
		}
		var all []request
		for range calls {
			r, ok := c.next()
			if !ok {
				return
			}
			all = append(all, r)
		}
		var answers strings.Builder // all in one write
		for i := len(all) - 1; i >= 0; i-- {
			fmt.Fprintf(&answers, `{"jsonrpc":"2.0","id":%s,"result":%q}`, all[i].ID, all[i].Method)
		}
		c.send("%s", answers.String())
		c.next()
	})
	client := dialTest(t, s)
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			want := fmt.Sprintf("method%d", i)
			if got, err := callString(context.Background(), client, want); err != nil || got != want {
				t.Errorf("got %q, %v; want %q", got, err, want)
			}
		})
	}
	wg.Wait()
}

func TestAnswerInPiecesIsPutTogether(t *testing.T) {
	s := serve(t, func(_ int, c *serverConn) {
		r, _ := c.next()
		for _, b := range []byte(fmt.Sprintf(` {"jsonrpc":"2.0","id":%s,`+"\n"+`"result":"ok{}"}`, r.ID)) {
			c.Write([]byte{b})
		}
		c.next()
	})
	if got, err := callString(context.Background(), dialTest(t, s), "m"); err != nil || got != "ok{}" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestAnswersWithUnknownIDsAreIgnored(t *testing.T) {
	s := serve(t, func(_ int, c *serverConn) {
		r, _ := c.next()
		c.send(`{"jsonrpc":"2.0","id":4711,"result":"other"}{"jsonrpc":"2.0","id":"text","result":"other"}`)
		c.send(`{"jsonrpc":"2.0","id":%s,"result":"mine"}`, r.ID)
		c.next()
	})
	if got, err := callString(context.Background(), dialTest(t, s), "m"); err != nil || got != "mine" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestErrorAnswerKeepsCodeMethodAndMessage(t *testing.T) {
	s := serve(t, func(_ int, c *serverConn) {
		r, _ := c.next()
		c.send(`{"jsonrpc":"2.0","id":%s,"error":{"code":-19,"message":"No such device"}}`, r.ID)
		c.next()
	})
	err := dialTest(t, s).Call(context.Background(), "bdev_get_bdevs", nil, nil)
	var answer *Error
	if !errors.As(err, &answer) || answer.Code != -19 || answer.Method != "bdev_get_bdevs" || answer.Message != "No such device" {
		t.Fatalf("got %#v", err)
	}
	if !IsErrno(err, unix.ENODEV) || IsErrno(err, unix.EIO) || IsCode(err, CodeInvalidParams) {
		t.Fatalf("%v is not recognized as ENODEV alone", err)
	}
	if errors.Is(err, ErrUnknownOutcome) || errors.Is(err, ErrUnreachable) {
		t.Fatalf("%v counts as an error of the connection", err)
	}
}

func TestBrokenAnswersDropTheConnectionAndLeaveCallsUnknown(t *testing.T) {
	for name, answer := range map[string]string{
		"not JSON":                      `hello`,
		"an array":                      `[1,2]`,
		"no id":                         `{"jsonrpc":"2.0","result":1}`,
		"a null id":                     `{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}`,
		"neither result nor error":      `{"jsonrpc":"2.0","id":1}`,
		"more bytes than are allowed":   `{"jsonrpc":"2.0","id":1,"result":"` + strings.Repeat("x", 65<<10) + `"}`,
		"the end of the connection":     ``,
		"the end, in the middle of one": `{"jsonrpc":"2.0","id":1,"res`,
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(n int, c *serverConn) {
				if n > 0 {
					echo(n, c)
					return
				}
				c.next()
				c.next()
				c.send("%s", answer)
				if strings.HasPrefix(name, "the end") {
					return
				}
				c.next() // until the client has dropped the connection
			})
			client := dialTest(t, s)
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					if _, err := callString(context.Background(), client, "m"); !errors.Is(err, ErrUnknownOutcome) {
						t.Errorf("got %v, want an unknown outcome", err)
					}
				})
			}
			wg.Wait()
			if got, err := callString(context.Background(), client, "again"); err != nil || got != "again" {
				t.Fatalf("after it: got %q, %v", got, err)
			}
		})
	}
}

func TestResultOfTheWrongTypeIsAnUnknownOutcomeAndKeepsTheConnection(t *testing.T) {
	s := serve(t, func(n int, c *serverConn) {
		if n > 0 {
			t.Errorf("connection %d was made", n)
		}
		echo(n, c)
	})
	client := dialTest(t, s)
	var number int
	if err := client.Call(context.Background(), "m", nil, &number); !errors.Is(err, ErrUnknownOutcome) {
		t.Fatalf("got %v", err)
	}
	if _, err := callString(context.Background(), client, "m"); err != nil {
		t.Fatal(err)
	}
}

func TestRefusedConnectionIsUnreachable(t *testing.T) {
	client, err := Dial("unix://"+filepath.Join(t.TempDir(), "none"), Options{CallTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	err = client.Call(context.Background(), "m", nil, nil)
	if !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrUnknownOutcome) || !strings.Contains(err.Error(), client.Address()) {
		t.Fatalf("got %v", err)
	}
}

func TestDeadlineWithoutAnAnswerIsUnknownAndTheNextCallConnectsAnew(t *testing.T) {
	s := serve(t, func(n int, c *serverConn) {
		if n > 0 {
			echo(n, c)
			return
		}
		for { // read and never answer
			if _, ok := c.next(); !ok {
				return
			}
		}
	})
	client := dialTest(t, s)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	_, err := callString(ctx, client, "m")
	if !errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	if got, err := callString(context.Background(), client, "again"); err != nil || got != "again" {
		t.Fatalf("after it: got %q, %v", got, err)
	}
}

func TestCallTimeoutOfTheOptionsHoldsWhereTheContextHasNone(t *testing.T) {
	s := serve(t, func(_ int, c *serverConn) {
		for {
			if _, ok := c.next(); !ok {
				return
			}
		}
	})
	client, err := Dial(s.address, Options{CallTimeout: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := callString(context.Background(), client, "m"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}

func TestLateAnswerDisturbsNothing(t *testing.T) {
	first, late := make(chan struct{}), make(chan struct{})
	s := serve(t, func(n int, c *serverConn) {
		if n > 0 {
			t.Errorf("connection %d was made", n)
		}
		r, _ := c.next()
		close(first)
		<-late
		c.send(`{"jsonrpc":"2.0","id":%s,"result":"late"}`, r.ID)
		echo(n, c)
	})
	client := dialTest(t, s)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-first; cancel() }()
	if _, err := callString(ctx, client, "m"); !errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	close(late)
	if got, err := callString(context.Background(), client, "next"); err != nil || got != "next" {
		t.Fatalf("got %q, %v", got, err)
	}
}

func TestPeerThatDoesNotReadHoldsNobodyBeyondItsContext(t *testing.T) {
	done := make(chan struct{})
	s := serve(t, func(int, *serverConn) { <-done })
	client := dialTest(t, s)
	defer close(done)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for range 8 { // far more than the socket buffers take
		wg.Go(func() {
			err := client.Call(ctx, "m", []string{strings.Repeat("x", 200<<10)}, nil)
			if !errors.Is(err, ErrUnknownOutcome) && !errors.Is(err, ErrUnreachable) {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
}

func TestRequestLongerThanSPDKAcceptsIsNotSent(t *testing.T) {
	s := serve(t, echo)
	err := dialTest(t, s).Call(context.Background(), "m", strings.Repeat("x", MaxRequestBytes), nil)
	if err == nil || errors.Is(err, ErrUnknownOutcome) {
		t.Fatalf("got %v", err)
	}
}

func TestCloseEndsCallsInFlightAndRefusesLaterOnes(t *testing.T) {
	arrived := make(chan struct{})
	s := serve(t, func(_ int, c *serverConn) {
		c.next()
		close(arrived)
		c.next()
	})
	client := dialTest(t, s)
	inFlight := make(chan error)
	go func() { _, err := callString(context.Background(), client, "m"); inFlight <- err }()
	<-arrived
	client.Close()
	if err := <-inFlight; !errors.Is(err, ErrUnknownOutcome) {
		t.Fatalf("in flight: %v", err)
	}
	if _, err := callString(context.Background(), client, "m"); !errors.Is(err, ErrUnreachable) {
		t.Fatalf("later: %v", err)
	}
}

func TestReconnectsAfterTheServerHasGone(t *testing.T) {
	s := serve(t, func(n int, c *serverConn) {
		r, ok := c.next()
		if ok {
			c.send(`{"jsonrpc":"2.0","id":%s,"result":"%d"}`, r.ID, n)
		}
	})
	client := dialTest(t, s)
	for seen := map[string]bool{}; len(seen) < 3; {
		got, err := callString(context.Background(), client, "m")
		if err != nil && !errors.Is(err, ErrUnknownOutcome) && !errors.Is(err, ErrUnreachable) {
			t.Fatal(err)
		}
		if err == nil {
			seen[got] = true
		}
	}
}

// SPDK ends after each answer: a call that meets the end of the connection before it was sent goes over a new one.
func TestConnectionThatEndedBetweenCallsIsNoError(t *testing.T) {
	s := serve(t, func(_ int, c *serverConn) {
		if r, ok := c.next(); ok {
			c.send(`{"jsonrpc":"2.0","id":%s,"result":%q}`, r.ID, r.Method)
		}
	})
	c := dialTest(t, s)
	for range 300 {
		_, err := callString(t.Context(), c, "a")
		if errors.Is(err, ErrUnreachable) {
			t.Fatal(err)
		}
	}
}

func TestDialRefusesAddressesAndOptionsItCannotUse(t *testing.T) {
	files := TLSFiles{CertFile: "c", KeyFile: "k", CAFile: "a"}
	for address, files := range map[string]TLSFiles{
		"":                    files,
		"/run/spdk.sock":      files,
		"unix://host/path":    files,
		"unix://":             files,
		"tcp://host:1":        files,
		"tls://host":          files,
		"tls://host:1/path":   files,
		"tls://host:1":        {},
		"unix:///sock\x00%zz": files,
	} {
		if _, err := Dial(address, Options{CallTimeout: time.Second, TLS: files}); err == nil {
			t.Errorf("%q was accepted", address)
		}
	}
	if _, err := Dial("unix:///sock", Options{}); err == nil {
		t.Error("a missing CallTimeout was accepted")
	}
}

func TestLoggedPayloadsHoldNoSecrets(t *testing.T) {
	in := `{"psk":"s3cr3t","a":[{"dhchap_key":"s3cr3t","encryptionPassphrase":"s3cr3t","keep_alive_timeout_ms":2000}],"name":"x"}`
	got := redact(json.RawMessage(in))
	if strings.Contains(got, "s3cr3t") || !strings.Contains(got, "2000") || !strings.Contains(got, `"name":"x"`) {
		t.Fatalf("got %s", got)
	}
}
