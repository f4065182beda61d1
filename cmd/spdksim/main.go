// Command spdksim runs simulated SPDK targets: nodes with lvol stores, each
// answering JSON-RPC on its own Unix socket as nvmf_tgt does, in one process.
//
//	spdksim --dir /tmp/sim --nodes 3 --pool lvs=10GiB
//
// serves /tmp/sim/node-0.sock to node-2.sock and, for faults, /tmp/sim/control.sock.
// It ends on SIGINT or SIGTERM. Data lives as long as the program.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk/sim"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "spdksim:", err)
		os.Exit(1)
	}
}

// options are the program's flags.
type options struct {
	dir          string
	nodes        int
	prefix       string
	pools        []string
	clusterSize  string
	blockSize    int
	files        bool
	noUnmap      bool
	noTransport  bool
	kas          uint16
	minKATO      time.Duration
	waitForRPC   bool
	rpcLatency   time.Duration
	defaultsOnly bool
	fixedRaid    bool
	sharedCore   bool
	timeout      time.Duration
	keepAlive    time.Duration
	ackTimeout   uint8
	verbosity    int
}

func command() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:           "spdksim",
		Short:         "Simulated SPDK targets for tests and demos",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), &o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", "", "directory for the sockets, and for the disks with --files (required)")
	f.IntVar(&o.nodes, "nodes", 3, "number of nodes")
	f.StringVar(&o.prefix, "name", "node-", "what the nodes' names begin with; a number from 0 follows")
	f.StringArrayVar(&o.pools, "pool", []string{"lvs=8GiB"}, "lvol store on every node, name=size; may be given several times")
	f.StringVar(&o.clusterSize, "cluster-size", "4MiB", "cluster size of the lvol stores")
	f.IntVar(&o.blockSize, "block-size", 4096, "block size of the disks: 512 or 4096")
	f.BoolVar(&o.files, "files", false, "keep data in sparse files in --dir, not in memory")
	f.BoolVar(&o.noUnmap, "no-unmap", false, "disks without unmap, as bdev_aio_create makes them by default: freed clusters keep their data")
	f.BoolVar(&o.noTransport, "no-transport", false, "don't create the TCP transport at start")
	f.Uint16Var(&o.kas, "kas", 5, "keep-alive granularity of the transport in units of 100 ms")
	f.DurationVar(&o.minKATO, "min-kato", 2*time.Second, "shortest keep-alive timeout that the transport grants")
	f.BoolVar(&o.defaultsOnly, "default-nvme-options", false, "leave bdev_nvme_set_options at SPDK's defaults")
	f.DurationVar(&o.timeout, "io-timeout", time.Minute, "timeout_us of bdev_nvme_set_options, with action reset")
	f.DurationVar(&o.keepAlive, "keep-alive", 2*time.Second, "keep_alive_timeout_ms of bdev_nvme_set_options")
	f.Uint8Var(&o.ackTimeout, "ack-timeout", 10, "transport_ack_timeout of bdev_nvme_set_options: 2^n ms")
	f.BoolVar(&o.fixedRaid, "survive-rebuild-errors", false, "don't die of a leg's failed write during a rebuild, as SPDK does")
	f.BoolVar(&o.sharedCore, "shared-reactor", false, "run the target on the application thread's core: changes of own exports stop the process for 30 s")
	f.BoolVar(&o.waitForRPC, "wait-for-rpc", false, "start as nvmf_tgt --wait-for-rpc does")
	f.DurationVar(&o.rpcLatency, "rpc-latency", 0, "delay of every JSON-RPC call")
	f.IntVar(&o.verbosity, "v", 0, "log verbosity")
	return cmd
}

func run(ctx context.Context, o *options) error {
	if o.dir == "" {
		return errors.New("--dir is required: it is where the sockets are made")
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return fmt.Errorf("make the directory: %w", err)
	}
	pools, err := parsePools(o)
	if err != nil {
		return err
	}
	w := sim.NewNetwork(nil)
	var nodes []*sim.Node
	defer func() {
		for _, n := range nodes {
			n.Close()
		}
	}()
	for i := range o.nodes {
		n, err := startNode(o, w, o.prefix+strconv.Itoa(i), pools)
		if err != nil {
			return err
		}
		nodes = append(nodes, n)
		fmt.Printf("%s listening on %s\n", n.Name(), n.Socket())
	}
	control, err := sim.ServeControl(filepath.Join(o.dir, "control.sock"), w)
	if err != nil {
		return err
	}
	defer control.Close()
	fmt.Printf("control listening on %s\n", filepath.Join(o.dir, "control.sock"))
	<-ctx.Done()
	return nil
}

func startNode(o *options, w *sim.Network, name string, pools []sim.PoolConfig) (*sim.Node, error) {
	logger := klog.Background().WithName(name)
	if o.verbosity == 0 {
		logger = klog.Logger{}
	}
	cfg := sim.Config{Name: name, Socket: filepath.Join(o.dir, name+".sock"), Pools: pools, Network: w,
		WaitForRPC: o.waitForRPC, RPCLatency: o.rpcLatency, SurviveRebuildErrors: o.fixedRaid,
		SharedReactor: o.sharedCore, Logger: logger}
	if o.files {
		cfg.Dir = filepath.Join(o.dir, name)
		if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
			return nil, fmt.Errorf("make the disks' directory: %w", err)
		}
	}
	if !o.noTransport {
		cfg.Transport = map[string]any{"kas": o.kas, "min_kato": o.minKATO.Milliseconds()}
	}
	if !o.defaultsOnly {
		cfg.NVMeOptions = map[string]any{"action_on_timeout": "reset", "timeout_us": o.timeout.Microseconds(),
			"keep_alive_timeout_ms": o.keepAlive.Milliseconds(), "transport_ack_timeout": o.ackTimeout}
	}
	n, err := sim.New(cfg)
	if err != nil {
		return nil, err
	}
	if err := n.Start(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func parsePools(o *options) ([]sim.PoolConfig, error) {
	cluster, err := parseSize(o.clusterSize)
	if err != nil {
		return nil, fmt.Errorf("--cluster-size: %w", err)
	}
	var pools []sim.PoolConfig
	for _, p := range o.pools {
		name, size, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--pool %q: name=size is wanted, such as lvs=8GiB", p)
		}
		bytes, err := parseSize(size)
		if err != nil {
			return nil, fmt.Errorf("--pool %q: %w", p, err)
		}
		pools = append(pools, sim.PoolConfig{Name: name, SizeBytes: bytes, ClusterSize: uint32(cluster),
			BlockSize: o.blockSize, NoUnmap: o.noUnmap})
	}
	return pools, nil
}

// parseSize reads a number of bytes with an optional KiB, MiB, GiB or TiB.
func parseSize(s string) (int64, error) {
	shift := 0
	number := s
	for unit, n := range map[string]int{"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40} {
		if rest, ok := strings.CutSuffix(s, unit); ok {
			number, shift = rest, n
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if err != nil || n <= 0 || n > 1<<62>>shift {
		return 0, fmt.Errorf("%q is no size: a number of bytes, KiB, MiB, GiB or TiB is wanted", s)
	}
	return n << shift, nil
}
