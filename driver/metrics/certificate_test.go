package metrics_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-csi/holdfast/driver/metrics"
)

func writeCertificate(t *testing.T, ends time.Time) (file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: ends.Add(-time.Hour), NotAfter: ends}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "tls.crt")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestEndOfACertificateIsReadAnewForEachScrape(t *testing.T) {
	ends := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	file := writeCertificate(t, ends)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(metrics.Certificate{File: file})
	want := func(value float64) {
		t.Helper()
		families, err := registry.Gather()
		if err != nil || len(families) != 1 || families[0].GetMetric()[0].GetGauge().GetValue() != value {
			t.Errorf("got %v, %v, want %g", families, err, value)
		}
	}
	want(float64(ends.Unix()))
	renewed, err := os.ReadFile(writeCertificate(t, ends.Add(time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		body string
		want float64
	}{{string(renewed), float64(ends.Add(time.Hour).Unix())}, {"not a certificate", 0}} {
		if err := os.WriteFile(file, []byte(step.body), 0o600); err != nil {
			t.Fatal(err)
		}
		want(step.want)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	want(0)
}
