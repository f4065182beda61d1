package metrics

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"

	"github.com/prometheus/client_golang/prometheus"
)

var certificateExpiry = describe("certificate_expiry_timestamp_seconds", "When the certificate of this process ends; 0 if it can't be read.")

// Certificate tells when a certificate ends. It implements prometheus.Collector.
type Certificate struct {
	// File is a PEM file, the certificate of the process first. It is read for each scrape, for it is replaced while the process runs.
	File string
}

// Describe implements prometheus.Collector.
func (Certificate) Describe(descs chan<- *prometheus.Desc) { descs <- certificateExpiry }

// Collect implements prometheus.Collector.
func (c Certificate) Collect(metrics chan<- prometheus.Metric) {
	ends, err := c.ends()
	if err != nil {
		ends = 0
	}
	sink(metrics).gauge(certificateExpiry, float64(ends))
}

// ends returns the end of the certificate as seconds since 1970.
func (c Certificate) ends() (int64, error) {
	body, err := os.ReadFile(c.File)
	if err != nil {
		return 0, err
	}
	block, _ := pem.Decode(body)
	if block == nil {
		return 0, fmt.Errorf("%s is not PEM", c.File)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", c.File, err)
	}
	return certificate.NotAfter.Unix(), nil
}
