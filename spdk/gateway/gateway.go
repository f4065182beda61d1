package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/holdfast-csi/holdfast/spdk"
)

// DefaultMaxConnections leaves half of the 64 connections that SPDK serves
// (lib/jsonrpc/jsonrpc_internal.h) to those who use its socket directly.
const DefaultMaxConnections = 32

// Config describes a gateway.
type Config struct {
	// Socket is the path of SPDK's Unix socket.
	Socket string
	// KeyDir is where SPDK finds keys of DH-HMAC-CHAP; without a path the gateway takes none.
	KeyDir spdk.KeyDir
	// CertFile and KeyFile are the gateway's own certificate and key; ClientCAFile holds the
	// authorities that clients' certificates are checked against. PEM, read again when they
	// change.
	CertFile, KeyFile, ClientCAFile string
	// MaxConnections bounds the clients; 0 means DefaultMaxConnections.
	MaxConnections int
	// Timeout bounds a handshake, a write to either side, and the wait for answers that are
	// outstanding when the gateway stops. It must be positive.
	Timeout time.Duration
	Logger  logr.Logger
}

// Gateway passes calls from authenticated clients to SPDK.
type Gateway struct {
	config       Config
	certificates *certificates
}

// New checks the configuration and reads the certificates.
func New(config Config) (*Gateway, error) {
	if config.Socket == "" {
		return nil, errors.New("a gateway needs the path of SPDK's socket")
	}
	if config.Timeout <= 0 {
		return nil, fmt.Errorf("a gateway's timeout is %v, give a positive duration", config.Timeout)
	}
	config.KeyDir.Socket = config.Socket
	if config.MaxConnections == 0 {
		config.MaxConnections = DefaultMaxConnections
	}
	certificates, err := newCertificates(config.CertFile, config.KeyFile, config.ClientCAFile, config.Logger)
	if err != nil {
		return nil, err
	}
	return &Gateway{config: config, certificates: certificates}, nil
}

// Serve takes connections from l, which it closes, until ctx ends. Then it takes no more
// requests, waits for the answers to those that it has passed on, and returns nil. Any
// other end of l is an error.
func (g *Gateway) Serve(ctx context.Context, l net.Listener) error {
	var clients sync.WaitGroup
	defer clients.Wait()
	defer l.Close()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	places := make(chan struct{}, g.config.MaxConnections)
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		raw, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("gateway on %s: %w", l.Addr(), err)
		}
		clients.Go(func() {
			defer func() { <-places }()
			g.serve(ctx, raw)
		})
	}
}

// serve handles one client until either side has gone.
func (g *Gateway) serve(ctx context.Context, raw net.Conn) {
	log := g.config.Logger.WithValues("client", raw.RemoteAddr().String())
	conn := tls.Server(raw, g.certificates.server())
	defer conn.Close()
	handshake, cancel := context.WithTimeout(ctx, g.config.Timeout)
	defer cancel()
	if err := conn.HandshakeContext(handshake); err != nil {
		level := 2
		if errors.Is(err, io.EOF) {
			level = 4 // it said nothing: a probe that looks whether the port is open
		}
		log.V(level).Info("Refused a client", "reason", err.Error())
		return
	}
	name := conn.ConnectionState().PeerCertificates[0].Subject.CommonName
	log = log.WithValues("name", name)
	log.V(4).Info("Client connected")
	s := &session{config: g.config, log: log, client: conn}
	err := s.run(ctx)
	log.V(4).Info("Client disconnected", "reason", fmt.Sprint(err))
}
