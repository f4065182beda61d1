package main

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/holdfast-csi/holdfast/driver"
	"github.com/holdfast-csi/holdfast/driver/metrics"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// telemetry is the metrics of a process. They are counted whether or not they are served.
type telemetry struct {
	registry *prometheus.Registry
	csi      *metrics.CSI
	spdk     *metrics.SPDK
}

func addMetricsAddress(cmd *cobra.Command, address *string) {
	cmd.Flags().StringVar(address, "metrics-address", "", "host:port to serve /metrics, /healthz and /readyz on, to whoever reaches it, such as 127.0.0.1:9090; default is not to")
}

func newTelemetry(tls driver.TLSConfig) *telemetry {
	registry := metrics.New(driver.Version)
	if tls.Cert != "" {
		registry.MustRegister(metrics.Certificate{File: tls.Cert})
	}
	return &telemetry{registry: registry, csi: metrics.NewCSI(registry), spdk: metrics.NewSPDK(registry)}
}

// serve serves the metrics until ctx ends. The process is ready as long as the store answers.
func (t *telemetry) serve(ctx context.Context, address string, store volume.Store) error {
	listener, err := metrics.Listen(ctx, address)
	if err != nil {
		return err
	}
	return metrics.Serve(ctx, listener, metrics.Handler(t.registry, func(ctx context.Context) error {
		_, err := store.List(ctx, "", 1)
		return err
	}))
}
