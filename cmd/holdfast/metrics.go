package main

import (
	"context"
	"errors"

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

func newTelemetry() *telemetry {
	registry := metrics.New(driver.Version)
	return &telemetry{registry: registry, csi: metrics.NewCSI(registry), spdk: metrics.NewSPDK(registry)}
}

// certificate has the end of the process' certificate told, if it has one.
func (t *telemetry) certificate(tls driver.TLSConfig) {
	if tls.Cert != "" {
		t.registry.MustRegister(metrics.Certificate{File: tls.Cert})
	}
}

// serveBeside serves the metrics beside run, unless the address is empty; either ends the other. The process is ready as long as the store answers.
func (t *telemetry) serveBeside(ctx context.Context, address string, store volume.Store, run func(context.Context) error) error {
	if address == "" {
		return run(ctx)
	}
	listener, err := metrics.Listen(ctx, address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() {
		defer cancel()
		served <- metrics.Serve(ctx, listener, metrics.Handler(t.registry, func(ctx context.Context) error {
			_, err := store.List(ctx, "", 1)
			return err
		}))
	}()
	err = run(ctx)
	cancel()
	return errors.Join(err, <-served)
}
