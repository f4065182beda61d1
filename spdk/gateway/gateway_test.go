package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/holdfast-csi/holdfast/spdk"
)

// upstream stands for SPDK's socket: it is only the wire.
type upstream struct {
	socket string
	// answer is called with each request; it may block.
	answer func(r request) string

	mu       sync.Mutex
	listener net.Listener
	conns    []net.Conn
	seen     []string
	serving  sync.WaitGroup
}

func newUpstream(t *testing.T, answer func(r request) string) *upstream {
	t.Helper()
	u := &upstream{socket: filepath.Join(t.TempDir(), "s"), answer: answer}
	u.start(t)
	t.Cleanup(u.stop)
	return u
}

func (u *upstream) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("unix", u.socket)
	if err != nil {
		t.Fatal(err)
	}
	u.listener = l
	u.serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			u.mu.Lock()
			u.conns = append(u.conns, c)
			u.mu.Unlock()
			u.serving.Go(func() { u.serve(c) })
		}
	})
}

func (u *upstream) serve(c net.Conn) {
	defer c.Close()
	for in := json.NewDecoder(c); ; {
		var frame json.RawMessage
		if in.Decode(&frame) != nil {
			return
		}
		u.mu.Lock()
		u.seen = append(u.seen, string(frame))
		u.mu.Unlock()
		var r request
		json.Unmarshal(frame, &r)
		fmt.Fprintf(c, `{"jsonrpc":"2.0","id":%s,%s}`, r.ID, u.answer(r))
	}
}

// stop ends the listener and all connections, as the death of SPDK does.
func (u *upstream) stop() {
	u.listener.Close()
	u.mu.Lock()
	for _, c := range u.conns {
		c.Close()
	}
	u.conns = nil
	u.mu.Unlock()
	u.serving.Wait()
}

func (u *upstream) requests() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.seen)
}

func methodAsResult(r request) string { return fmt.Sprintf(`"result":{"version":%q}`, r.Method) }

// running is a gateway that serves.
type running struct {
	address string
	stop    func() // and wait for Serve
	config  Config
}

func start(t *testing.T, ca *authority, socket string, change func(*Config)) *running {
	t.Helper()
	cert, key := ca.issue("gateway", x509.ExtKeyUsageServerAuth)
	config := Config{
		Socket: socket, CertFile: cert, KeyFile: key, ClientCAFile: ca.file,
		Timeout: 10 * time.Second, Logger: logr.Discard(),
	}
	if change != nil {
		change(&config)
	}
	g, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx, l) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return &running{address: l.Addr().String(), stop: stop, config: config}
}

func (r *running) dial(t *testing.T, files spdk.TLSFiles) *spdk.Client {
	t.Helper()
	c, err := spdk.Dial("tls://"+r.address, spdk.Options{CallTimeout: 10 * time.Second, TLS: files})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func version(c *spdk.Client) (string, error) {
	v, err := spdk.GetVersion(context.Background(), c)
	return v.Version, err
}

func TestListIsWhatPackageSPDKCalls(t *testing.T) {
	var list []string
	for name := range allowed {
		list = append(list, name)
	}
	slices.Sort(list)
	if want := spdk.Methods(); !slices.Equal(list, want) {
		t.Errorf("the list is\n%q\npackage spdk calls\n%q", list, want)
	}
}

func TestCallsOfManyClientsPass(t *testing.T) {
	ca := newAuthority(t)
	u := newUpstream(t, func(r request) string { return `"result":` + string(r.Params) })
	g := start(t, ca, u.socket, nil)
	files := ca.client()
	var wg sync.WaitGroup
	for i := range 4 {
		c := g.dial(t, files)
		for j := range 10 {
			wg.Go(func() {
				want := fmt.Sprintf("bdev-%d-%d", i, j)
				var got struct{ Name string }
				err := c.Call(context.Background(), "bdev_get_bdevs", spdk.BdevGetBdevsParams{Name: want}, &got)
				if err != nil || got.Name != want {
					t.Errorf("got %q, %v; want %q", got.Name, err, want)
				}
			})
		}
	}
	wg.Wait()
}

func TestMethodThatIsNotOnTheListIsRefusedByNameAndTheConnectionGoesOn(t *testing.T) {
	ca := newAuthority(t)
	u := newUpstream(t, methodAsResult)
	c := start(t, ca, u.socket, nil).dial(t, ca.client())
	err := c.Call(context.Background(), "bdev_aio_create", map[string]string{"filename": "/etc/passwd"}, nil)
	if !spdk.IsCode(err, spdk.CodeMethodNotFound) || !strings.Contains(err.Error(), `"bdev_aio_create"`) {
		t.Errorf("got %v", err)
	}
	if got, err := version(c); err != nil || got != "spdk_get_version" {
		t.Errorf("after it: %q, %v", got, err)
	}
	if seen := u.requests(); len(seen) != 1 {
		t.Errorf("SPDK saw %q", seen)
	}
}

// rawClient is a connection on which a test writes what it likes.
func rawClient(t *testing.T, g *running, files spdk.TLSFiles) *tls.Conn {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	c, err := tls.Dial("tcp", g.address, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestRequestThatCanBeReadInTwoWaysReachesSPDKInTheCheckedOne(t *testing.T) {
	ca := newAuthority(t)
	u := newUpstream(t, methodAsResult)
	c := rawClient(t, start(t, ca, u.socket, nil), ca.client())
	io.WriteString(c, `{"method":"bdev_aio_create","jsonrpc":"2.0","id":1,"extra":1,"METHOD":"bdev_aio_delete","method":"spdk_get_version","params":null}`)
	var answer json.RawMessage
	if err := json.NewDecoder(c).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	if seen := u.requests(); len(seen) != 1 || strings.Contains(seen[0], "aio") || strings.Contains(seen[0], "extra") {
		t.Errorf("SPDK saw %q", seen)
	}
}

func TestWhatIsNoRequestEndsTheConnection(t *testing.T) {
	ca := newAuthority(t)
	u := newUpstream(t, methodAsResult)
	g := start(t, ca, u.socket, nil)
	files := ca.client()
	for name, text := range map[string]string{
		"not JSON":       `hello`,
		"a batch":        `[{"jsonrpc":"2.0","id":1,"method":"spdk_get_version"}]`,
		"no id":          `{"jsonrpc":"2.0","method":"spdk_get_version"}`,
		"an object id":   `{"jsonrpc":"2.0","id":{},"method":"spdk_get_version"}`,
		"a long id":      `{"jsonrpc":"2.0","id":"` + strings.Repeat("1", 200) + `","method":"spdk_get_version"}`,
		"a long request": `{"jsonrpc":"2.0","id":1,"method":"spdk_get_version","params":"` + strings.Repeat("x", spdk.MaxRequestBytes),
	} {
		t.Run(name, func(t *testing.T) {
			c := rawClient(t, g, files)
			io.WriteString(c, text)
			if _, err := io.Copy(io.Discard, c); err != nil && !isReset(err) {
				t.Errorf("the connection ended with %v", err)
			}
		})
	}
	if seen := u.requests(); len(seen) != 0 {
		t.Errorf("SPDK saw %q", seen)
	}
}

func isReset(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && !op.Timeout()
}

func TestClientsWithoutAGoodCertificateGetNothing(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	u := newUpstream(t, methodAsResult)
	g := start(t, ca, u.socket, nil)
	stranger := other.client()
	stranger.CAFile = ca.file
	if _, err := version(g.dial(t, stranger)); err == nil || !isConnectionError(err) {
		t.Errorf("certificate of another authority: %v", err)
	}
	server := ca.client()
	server.CertFile, server.KeyFile = ca.issue("server", x509.ExtKeyUsageServerAuth)
	if _, err := version(g.dial(t, server)); err == nil || !isConnectionError(err) {
		t.Errorf("certificate that is not for clients: %v", err)
	}
	for name, config := range map[string]*tls.Config{
		"no certificate": {InsecureSkipVerify: true},
		"TLS 1.2":        {InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12},
	} {
		c, err := tls.Dial("tcp", g.address, config)
		if err != nil {
			continue
		}
		io.WriteString(c, `{"jsonrpc":"2.0","id":1,"method":"spdk_get_version"}`)
		if n, err := io.Copy(io.Discard, c); err == nil || n != 0 {
			t.Errorf("%s: read %d bytes, %v", name, n, err)
		}
		c.Close()
	}
	if seen := u.requests(); len(seen) != 0 {
		t.Errorf("SPDK saw %q", seen)
	}
}

func isConnectionError(err error) bool {
	return errors.Is(err, spdk.ErrUnknownOutcome) || errors.Is(err, spdk.ErrUnreachable)
}

func TestClientRefusesAGatewayOfAnotherAuthorityOrName(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	u := newUpstream(t, methodAsResult)
	g := start(t, ca, u.socket, nil)
	distrusting, misnamed := ca.client(), ca.client()
	distrusting.CAFile = other.file
	misnamed.ServerName = "elsewhere"
	for _, files := range []spdk.TLSFiles{distrusting, misnamed} {
		if _, err := version(g.dial(t, files)); !errors.Is(err, spdk.ErrUnreachable) {
			t.Errorf("got %v", err)
		}
	}
}

func TestCallIsUnreachableWhileSPDKIsGoneAndWorksWhenItIsBack(t *testing.T) {
	ca := newAuthority(t)
	u := newUpstream(t, methodAsResult)
	c := start(t, ca, u.socket, nil).dial(t, ca.client())
	u.stop()
	if _, err := version(c); !errors.Is(err, spdk.ErrUnreachable) || errors.Is(err, spdk.ErrUnknownOutcome) {
		t.Fatalf("gone: %v", err)
	}
	u.start(t)
	if _, err := version(c); err != nil {
		t.Fatalf("back: %v", err)
	}
}

func TestCallThatSPDKDiesUnderHasAnUnknownOutcome(t *testing.T) {
	ca := newAuthority(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	u := newUpstream(t, func(r request) string {
		close(arrived)
		<-release
		return methodAsResult(r)
	})
	c := start(t, ca, u.socket, nil).dial(t, ca.client())
	called := make(chan error)
	go func() { _, err := version(c); called <- err }()
	<-arrived
	u.mu.Lock()
	for _, conn := range u.conns {
		conn.Close()
	}
	u.mu.Unlock()
	if err := <-called; !errors.Is(err, spdk.ErrUnknownOutcome) {
		t.Errorf("got %v", err)
	}
	close(release)
}

func TestStopWaitsForOutstandingAnswersAndTakesNoMoreClients(t *testing.T) {
	ca := newAuthority(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	u := newUpstream(t, func(r request) string {
		close(arrived)
		<-release
		return methodAsResult(r)
	})
	g := start(t, ca, u.socket, nil)
	c := g.dial(t, ca.client())
	called := make(chan error)
	go func() { _, err := version(c); called <- err }()
	<-arrived
	stopped := make(chan struct{})
	go func() { g.stop(); close(stopped) }()
	for refused := false; !refused; { // until the listener is closed
		conn, err := net.Dial("tcp", g.address)
		if refused = err != nil; !refused {
			conn.Close()
		}
	}
	close(release)
	if err := <-called; err != nil {
		t.Errorf("the call that was under way: %v", err)
	}
	<-stopped
}

func TestStopDoesNotWaitForIdleClients(t *testing.T) {
	ca := newAuthority(t)
	u := newUpstream(t, methodAsResult)
	g := start(t, ca, u.socket, func(c *Config) { c.Timeout = time.Hour })
	if _, err := version(g.dial(t, ca.client())); err != nil {
		t.Fatal(err)
	}
	g.stop()
}

func TestReplacedCertificatesAreUsedForTheNextConnection(t *testing.T) {
	old, new := newAuthority(t), newAuthority(t)
	u := newUpstream(t, methodAsResult)
	g := start(t, old, u.socket, nil)
	if _, err := version(g.dial(t, old.client())); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.config.CertFile, []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := version(g.dial(t, old.client())); err != nil {
		t.Fatalf("with a broken file the previous certificate should serve: %v", err)
	}
	cert, key := new.issue("gateway", x509.ExtKeyUsageServerAuth)
	later := time.Now().Add(time.Minute)
	for from, to := range map[string]string{cert: g.config.CertFile, key: g.config.KeyFile, new.file: g.config.ClientCAFile} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.WriteFile(to, text, 0o600), os.Chtimes(to, later, later)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := version(g.dial(t, new.client())); err != nil {
		t.Errorf("client of the new authority: %v", err)
	}
	former := new.client()
	former.CertFile, former.KeyFile = old.issue("former", x509.ExtKeyUsageClientAuth)
	if _, err := version(g.dial(t, former)); err == nil {
		t.Error("a client of the old authority was let in")
	}
}

func TestClientsBeyondTheBoundWaitForAPlace(t *testing.T) {
	ca := newAuthority(t)
	u := newUpstream(t, methodAsResult)
	g := start(t, ca, u.socket, func(c *Config) { c.MaxConnections = 1 })
	files := ca.client()
	first, second := g.dial(t, files), g.dial(t, files)
	if _, err := version(first); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { _, err := version(second); served <- err }()
	if _, err := version(first); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-served:
		t.Fatalf("the second client was served beside the first: %v", err)
	default:
	}
	first.Close()
	if err := <-served; err != nil {
		t.Errorf("the second client: %v", err)
	}
}

func TestConfigurationThatCannotWorkIsRefused(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.issue("gateway", x509.ExtKeyUsageServerAuth)
	good := Config{Socket: "/s", CertFile: cert, KeyFile: key, ClientCAFile: ca.file, Timeout: time.Second, Logger: logr.Discard()}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"no socket":          func(c *Config) { c.Socket = "" },
		"no timeout":         func(c *Config) { c.Timeout = 0 },
		"no certificate":     func(c *Config) { c.CertFile = "" },
		"a key that differs": func(c *Config) { _, c.KeyFile = ca.issue("other", x509.ExtKeyUsageServerAuth) },
		"no authorities":     func(c *Config) { c.ClientCAFile = key },
	} {
		bad := good
		change(&bad)
		if _, err := New(bad); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
