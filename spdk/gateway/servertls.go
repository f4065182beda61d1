package gateway

import (
	"crypto/tls"

	"github.com/go-logr/logr"
)

// ServerTLS returns the configuration of a listener on which clients need a certificate of the given authorities (TLS 1.3). The
// PEM files are read again when they change.
func ServerTLS(certFile, keyFile, clientCAFile string, log logr.Logger) (*tls.Config, error) {
	c, err := newCertificates(certFile, keyFile, clientCAFile, log)
	if err != nil {
		return nil, err
	}
	return c.server(), nil
}
