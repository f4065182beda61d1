package kubernetes_test

import (
	"io"
	"net"
	"sync"
	"testing"
)

// proxy stands between clients and the API server at target, so that the server can go away and come back at the same address with the same
// certificate.
type proxy struct {
	t       *testing.T
	target  string
	address string

	mu       sync.Mutex
	listener net.Listener
	conns    []net.Conn
	ended    sync.WaitGroup
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	p := &proxy{t: t, target: target, address: "127.0.0.1:0"}
	p.start()
	p.address = p.listener.Addr().String()
	t.Cleanup(func() {
		p.stop()
		p.ended.Wait()
	})
	return p
}

// start lets clients in.
func (p *proxy) start() {
	p.t.Helper()
	l, err := net.Listen("tcp", p.address)
	must(p.t, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listener = l
	p.ended.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return // it was stopped
			}
			p.ended.Go(func() { p.pass(client) })
		}
	})
}

func (p *proxy) pass(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	p.mu.Lock()
	away := p.listener == nil
	p.conns = append(p.conns, client, server)
	p.mu.Unlock()
	if away {
		return
	}
	p.ended.Go(func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	})
	_, _ = io.Copy(client, server)
}

// stop ends all connections and refuses new ones.
func (p *proxy) stop() {
	p.mu.Lock()
	if p.listener != nil {
		_ = p.listener.Close()
	}
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.listener, p.conns = nil, nil
	p.mu.Unlock()
}
