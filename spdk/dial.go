package spdk

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
)

// TLSFiles are the PEM files of a mutual TLS connection to a gateway. They are read for
// each new connection, so that renewed certificates come into use by themselves.
type TLSFiles struct {
	// CertFile and KeyFile are the client's certificate and key.
	CertFile, KeyFile string
	// CAFile holds the authorities that the gateway's certificate is checked against.
	CAFile string
	// ServerName is the name that the gateway's certificate must have; empty means the
	// host of the address.
	ServerName string
}

// Dialer checks an address, unix:///path or tls://host:port, and returns how to connect to it.
func Dialer(address string, files TLSFiles) (func(context.Context) (net.Conn, error), error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("SPDK address %q: %w", address, err)
	}
	var d net.Dialer
	switch {
	case u.Scheme == "unix" && u.Host == "" && u.Path != "":
		return func(ctx context.Context) (net.Conn, error) {
			return d.DialContext(ctx, "unix", u.Path)
		}, nil
	case u.Scheme == "tls" && u.Hostname() != "" && u.Port() != "" && u.Path == "":
		if files.CertFile == "" || files.KeyFile == "" || files.CAFile == "" {
			return nil, fmt.Errorf("SPDK address %q: a certificate, a key and a CA file are needed", address)
		}
		return func(ctx context.Context) (net.Conn, error) {
			config, err := files.config(u.Hostname())
			if err != nil {
				return nil, err
			}
			td := tls.Dialer{NetDialer: &d, Config: config}
			return td.DialContext(ctx, "tcp", u.Host)
		}, nil
	}
	return nil, fmt.Errorf("SPDK address %q: want unix:///path or tls://host:port", address)
}

func (f TLSFiles) config(host string) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("load the client certificate: %w", err)
	}
	pem, err := os.ReadFile(f.CAFile)
	if err != nil {
		return nil, fmt.Errorf("load the CA file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("load the CA file %s: %w", f.CAFile, errors.New("it holds no certificate"))
	}
	if f.ServerName != "" {
		host = f.ServerName
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		RootCAs:      roots,
		ServerName:   host,
	}, nil
}
