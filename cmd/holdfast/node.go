package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/driver"
	"github.com/holdfast-csi/holdfast/driver/metrics"
	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/node/mount"
	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// closeTimeout is how long a stopping node service waits for commands and kernel calls under way.
const closeTimeout = 10 * time.Second

// defaultMaxVolumes is below what Linux can have attached. It numbers NVMe controllers up to 2^20 (drivers/nvme/host/core.c, NVME_MINORS), and
// a volume has two, each with an admin queue and up to timeouts.HostQueues others. A queue is a TCP connection and, with 127 commands, some
// 0.2 MB of kernel memory (drivers/nvme/host/tcp.c, nvme_tcp_alloc_tag_set), so that 256 volumes are 2,560 connections and half a GB.
const defaultMaxVolumes = 256

type nodeOptions struct {
	driver.Source
	name, zone, endpoint, stateDir, machineID, metrics string
	maxVolumes                                         int64
	keySlotMiB                                         int
}

func nodeCommand() *cobra.Command {
	var o nodeOptions
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Run the CSI node service",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return runNode(cmd.Context(), o) },
	}
	flags := cmd.Flags()
	flags.StringVar(&o.name, "node-id", "", "name of this machine, unique in the cluster (required)")
	flags.StringVar(&o.zone, "zone", "", "failure domain of this machine; default is that of the SPDK node on it, if there is one")
	flags.StringVar(&o.endpoint, "endpoint", "unix:///run/holdfast/node.sock", "Unix socket to serve CSI on")
	addSource(flags, &o.Source, "", "where the records are: kube, unix:///path or tls://host:port of a served store, or bolt:///path (required)")
	flags.StringVar(&o.stateDir, "state-dir", "/var/lib/holdfast/node", "directory for what this node has attached")
	flags.StringVar(&o.machineID, "machine-id-file", "/etc/machine-id", "file that tells this machine from others of the same name")
	flags.Int64Var(&o.maxVolumes, "max-volumes-per-node", defaultMaxVolumes, "how many volumes may be published to this machine; 0 is no limit")
	flags.IntVar(&o.keySlotMiB, "key-slot-memory", mount.DefaultKeySlotMiB, "memory in MiB that it takes to try a passphrase of a volume that is encrypted here, 1 to 1024; less only for passphrases that were generated at random")
	addMetricsAddress(cmd, &o.metrics)
	for _, required := range []string{"node-id", "store"} {
		if err := cmd.MarkFlagRequired(required); err != nil {
			panic(err) // the flag was defined above
		}
	}
	return cmd
}

func runNode(ctx context.Context, o nodeOptions) error {
	if o.keySlotMiB < 1 || o.keySlotMiB > 1024 {
		return fmt.Errorf("--key-slot-memory %d: give 1 to 1024 MiB", o.keySlotMiB)
	}
	observed := newTelemetry()
	o.Owner, o.Wrap = o.name, observed.spdk.Wrap
	opened, err := o.Open(ctx)
	if err != nil {
		return err
	}
	defer opened.Close()
	observed.certificate(opened.Config.TLS)
	store := opened.Store
	if err := register(ctx, store, o.name, o.machineID); err != nil {
		return err
	}
	host, mounter := nvmeof.New(nvmeof.Options{}), mount.New(mount.Options{KeySlotMiB: o.keySlotMiB})
	server, err := node.New(node.Options{
		Name: o.name, Zone: cmp.Or(o.zone, opened.Config.ZoneOf(o.name)), Store: store, Cluster: opened.Cluster, Fabrics: host, FileSystems: mounter, Encryption: mounter, Mounts: mounter,
		StateDir: o.stateDir, Clock: clock.RealClock{}, MaxVolumes: o.maxVolumes, Observer: metrics.NewNode(observed.registry),
	})
	if err != nil {
		return err
	}
	observed.registry.MustRegister(metrics.Staged{Server: server})
	err = observed.serveBeside(ctx, o.metrics, store, func(ctx context.Context) error { return serveNode(ctx, o.endpoint, server, opened, observed) })
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	for _, closer := range []func(context.Context) error{mounter.Close, host.Close} {
		if closeErr := closer(closing); closeErr != nil && err == nil {
			err = closeErr
		}
	}
	return err
}

// serveNode serves CSI and watches the staged volumes and the SPDK nodes until ctx ends, or one of them.
func serveNode(ctx context.Context, endpoint string, server *node.Server, opened *driver.Opened, observed *telemetry) error {
	watching, stopWatching := context.WithCancel(ctx)
	watched, changed := make(chan error, 1), make(chan error, 1)
	go func() { watched <- server.Watch(watching) }()
	serving, stopServing := context.WithCancel(ctx)
	go func() {
		defer stopServing()
		changed <- opened.WatchNodes(serving, clock.RealClock{})
	}()
	err := driver.Serve(serving, endpoint, driver.Services{Identity: driver.Identity{WithController: true}, Node: server, Observe: observed.csi.Observe})
	stopServing()
	stopWatching()
	return errors.Join(err, <-changed, <-watched)
}

func register(ctx context.Context, store volume.Store, name, machineIDFile string) error {
	id, err := os.ReadFile(machineIDFile)
	if err != nil {
		return fmt.Errorf("read this machine's id: %w", err)
	}
	return volume.RegisterHost(ctx, store, volume.Host{Name: name, MachineID: strings.TrimSpace(string(id))})
}
