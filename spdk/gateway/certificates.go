package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/go-logr/logr"
)

// certificates holds the server's certificate and the authorities for clients, and reads
// them again for the first connection after a file has changed. Files that cannot be used,
// as in the middle of being replaced, leave the previous ones in force.
type certificates struct {
	certFile, keyFile, caFile string
	log                       logr.Logger

	mu       sync.Mutex
	modified [3]time.Time
	config   *tls.Config
}

func newCertificates(certFile, keyFile, caFile string, log logr.Logger) (*certificates, error) {
	c := &certificates{certFile: certFile, keyFile: keyFile, caFile: caFile, log: log}
	modified, err := c.stat()
	if err != nil {
		return nil, err
	}
	if c.config, err = c.load(); err != nil {
		return nil, err
	}
	c.modified = modified
	return c, nil
}

// server returns the configuration of a listener.
func (c *certificates) server() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current(), nil },
	}
}

func (c *certificates) current() *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	modified, err := c.stat()
	if err == nil && modified == c.modified {
		return c.config
	}
	var config *tls.Config
	if err == nil {
		config, err = c.load()
	}
	if err != nil {
		c.log.Error(err, "Kept the previous certificates; put usable ones in place")
		return c.config
	}
	c.log.V(2).Info("Read the certificates again", "certFile", c.certFile)
	c.config, c.modified = config, modified
	return c.config
}

func (c *certificates) stat() (modified [3]time.Time, err error) {
	for i, file := range []string{c.certFile, c.keyFile, c.caFile} {
		info, err := os.Stat(file)
		if err != nil {
			return modified, fmt.Errorf("gateway certificates: %w", err)
		}
		modified[i] = info.ModTime()
	}
	return modified, nil
}

func (c *certificates) load() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return nil, fmt.Errorf("gateway certificate: %w", err)
	}
	pem, err := os.ReadFile(c.caFile)
	if err != nil {
		return nil, fmt.Errorf("authorities for clients: %w", err)
	}
	clients := x509.NewCertPool()
	if !clients.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("authorities for clients: %s holds no certificate", c.caFile)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    clients,
	}, nil
}
