package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/controller"
	"github.com/holdfast-csi/holdfast/driver"
	"github.com/holdfast-csi/holdfast/driver/metrics"
)

// sweepInterval is how often the controller tries again what it had to leave unfinished, and looks after replicas that are lost.
const sweepInterval = 5 * time.Second

func controllerCommand() *cobra.Command {
	var endpoint, config, store, serveStore, metricsAddress string
	cmd := &cobra.Command{
		Use:   "controller",
		Short: "Run the CSI controller service",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runController(cmd.Context(), endpoint, config, store, serveStore, metricsAddress)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&endpoint, "endpoint", "unix:///run/holdfast/controller.sock", "Unix socket to serve CSI on")
	flags.StringVar(&config, "config", "/etc/holdfast/config.yaml", "configuration file")
	flags.StringVar(&store, "store", "bolt:///var/lib/holdfast/volumes.db", "where the records are: bolt:///path, or unix:///path or tls://host:port of a served store")
	flags.StringVar(&serveStore, "serve-store", "", "let node services use the store here: unix:///path or tls://host:port")
	addMetricsAddress(cmd, &metricsAddress)
	return cmd
}

func runController(ctx context.Context, endpoint, configPath, storeAddress, serveStore, metricsAddress string) error {
	config, err := driver.LoadConfig(configPath)
	if err != nil {
		return err
	}
	observed := newTelemetry(config.TLS)
	cluster, closeCluster, err := config.Cluster(observed.spdk.Wrap)
	if err != nil {
		return err
	}
	defer closeCluster()
	store, closeStore, err := config.OpenStore(storeAddress)
	if err != nil {
		return err
	}
	defer closeStore()
	server, err := controller.New(ctx, controller.Options{
		Store: store, Cluster: cluster, Clock: clock.RealClock{}, ThinOvercommit: config.ThinOvercommit, Observer: metrics.NewController(observed.registry),
	})
	if err != nil {
		return err
	}
	observed.registry.MustRegister(metrics.Swept{Server: server})
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { server.SweepEvery(ctx, clock.RealClock{}, sweepInterval) })
	ended := make(chan error, 2)
	begin := func(run func() error) {
		wg.Go(func() {
			defer cancel()
			ended <- run()
		})
	}
	if serveStore != "" {
		begin(func() error { return config.ServeStore(ctx, serveStore, store) })
	}
	if metricsAddress != "" {
		begin(func() error { return observed.serve(ctx, metricsAddress, store) })
	}
	err = driver.Serve(ctx, endpoint, driver.Services{Identity: driver.Identity{WithController: true}, Controller: server, Observe: observed.csi.Observe})
	cancel()
	wg.Wait()
	close(ended)
	for failure := range ended {
		err = errors.Join(err, failure)
	}
	return err
}
