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
)

// sweepInterval is how often the controller tries again what it had to leave unfinished, and looks after replicas that are lost.
const sweepInterval = 5 * time.Second

func controllerCommand() *cobra.Command {
	var endpoint, config, store, serveStore string
	cmd := &cobra.Command{
		Use:   "controller",
		Short: "Run the CSI controller service",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runController(cmd.Context(), endpoint, config, store, serveStore)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&endpoint, "endpoint", "unix:///run/holdfast/controller.sock", "Unix socket to serve CSI on")
	flags.StringVar(&config, "config", "/etc/holdfast/config.yaml", "configuration file")
	flags.StringVar(&store, "store", "bolt:///var/lib/holdfast/volumes.db", "where the records are: bolt:///path, or unix:///path or tls://host:port of a served store")
	flags.StringVar(&serveStore, "serve-store", "", "let node services use the store here: unix:///path or tls://host:port")
	return cmd
}

func runController(ctx context.Context, endpoint, configPath, storeAddress, serveStore string) error {
	config, err := driver.LoadConfig(configPath)
	if err != nil {
		return err
	}
	cluster, closeCluster, err := config.Cluster(nil)
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
		Store: store, Cluster: cluster, Clock: clock.RealClock{}, ThinOvercommit: config.ThinOvercommit,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { server.SweepEvery(ctx, clock.RealClock{}, sweepInterval) })
	served := make(chan error, 1)
	if serveStore != "" {
		wg.Go(func() {
			defer cancel()
			served <- config.ServeStore(ctx, serveStore, store)
		})
	} else {
		served <- nil
	}
	err = driver.Serve(ctx, endpoint, driver.Services{Identity: driver.Identity{WithController: true}, Controller: server})
	cancel()
	wg.Wait()
	return errors.Join(err, <-served)
}
