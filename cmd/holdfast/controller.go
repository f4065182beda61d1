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
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/show"
)

// sweepInterval is how often the controller tries again what it had to leave unfinished, and looks after replicas that are lost.
const sweepInterval = 5 * time.Second

func controllerCommand() *cobra.Command {
	var o controllerOptions
	cmd := &cobra.Command{
		Use:   "controller",
		Short: "Run the CSI controller service",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return startController(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.endpoint, "endpoint", "unix:///run/holdfast/controller.sock", "Unix socket to serve CSI on")
	addSource(flags, &o.Source, "bolt:///var/lib/holdfast/volumes.db", "where the records are: kube, bolt:///path, or unix:///path or tls://host:port of a served store")
	flags.StringVar(&o.namespace, "leader-election-namespace", "", "namespace of the lease by which controllers with --store kube agree on one that acts; default is that of the pod")
	flags.StringVar(&o.serveStore, "serve-store", "", "let node services use the store here: unix:///path or tls://host:port")
	addMetricsAddress(cmd, &o.metrics)
	return cmd
}

type controllerOptions struct {
	driver.Source
	endpoint, serveStore, namespace, metrics string
}

// startController runs the controller, with records in Kubernetes when it is its turn: nothing but metrics is served before.
func startController(ctx context.Context, o controllerOptions) error {
	observed := newTelemetry()
	o.Wrap = observed.spdk.Wrap
	opened, err := o.Open(ctx)
	if err != nil {
		return err
	}
	defer opened.Close()
	observed.certificate(opened.Config.TLS)
	run := func(ctx context.Context) error { return runController(ctx, o, opened, observed) }
	if opened.Kube == nil {
		return observed.serveBeside(ctx, o.metrics, opened.Store, run)
	}
	namespace, err := driver.LeaseNamespace(o.namespace)
	if err != nil {
		return err
	}
	return observed.serveBeside(ctx, o.metrics, opened.Store, func(ctx context.Context) error { return driver.Lead(ctx, opened.Kube, namespace, run) })
}

func runController(ctx context.Context, o controllerOptions, opened *driver.Opened, observed *telemetry) error {
	options := controller.Options{
		Store: opened.Store, Cluster: opened.Cluster, Clock: clock.RealClock{}, ThinOvercommit: opened.Config.ThinOvercommit,
		Observer: metrics.NewController(observed.registry),
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	if opened.Kube != nil {
		display, err := show.New(ctx, opened.Kube, opened.Records.Client())
		if err != nil {
			return err
		}
		defer display.Close()
		options.Display = display
	}
	server, err := controller.New(ctx, options)
	if err != nil {
		return err
	}
	observed.registry.MustRegister(metrics.Swept{Server: server})
	wg.Go(func() { server.SweepEvery(ctx, clock.RealClock{}, sweepInterval) })
	ended := make(chan error, 2)
	begin := func(run func() error) {
		wg.Go(func() {
			defer cancel()
			ended <- run()
		})
	}
	begin(func() error { return opened.WatchNodes(ctx, clock.RealClock{}) })
	if o.serveStore != "" {
		begin(func() error { return opened.Config.ServeStore(ctx, o.serveStore, opened.Store) })
	}
	err = driver.Serve(ctx, o.endpoint, driver.Services{Identity: driver.Identity{WithController: true}, Controller: server, Observe: observed.csi.Observe})
	cancel()
	wg.Wait()
	close(ended)
	for failure := range ended {
		err = errors.Join(err, failure)
	}
	return err
}
