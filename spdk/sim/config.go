package sim

import (
	"context"
	"net"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/utils/clock"
)

// Config describes a node: one machine with disks, running one SPDK process.
type Config struct {
	// Name tells nodes of one Network apart; it is also the name of the machine
	// in faults. Required.
	Name string
	// Socket is the path of the JSON-RPC socket, at most 107 bytes. Without one only
	// Node.Call reaches the process.
	Socket string
	// Dir holds a sparse file for each pool. Empty keeps data in memory. The
	// metadata of lvol stores lives as long as the Node either way.
	Dir string
	// Pools are the disks that the process has from its start, each with an lvol
	// store: the JSON configuration that nvmf_tgt would be started with.
	Pools []PoolConfig
	// Transport creates the TCP transport at start when not nil, with the
	// parameters of nvmf_create_transport ("trtype" is added).
	Transport map[string]any
	// NVMeOptions is given to bdev_nvme_set_options at start when not nil, NVMf to
	// nvmf_set_config.
	NVMeOptions, NVMf map[string]any
	// WaitForRPC starts the process as --wait-for-rpc does: most methods answer
	// only after framework_start_init.
	WaitForRPC bool
	// Clock drives every timer of the process. Nil is the real clock.
	Clock clock.WithTicker
	// SurviveRebuildErrors repairs raid1: a write that a leg fails in the part of the
	// device that a rebuild has copied ejects that leg. SPDK dies of a segmentation
	// fault there, and so does the process by default.
	SurviveRebuildErrors bool
	// SharedReactor runs the poll groups of the target on the core of the application
	// thread: when the namespaces of a subsystem change that the process has attached
	// from itself, it stops for half a minute and does not learn of the change.
	// nvmf_set_config with a poll_groups_mask, before framework_start_init, cures it.
	SharedReactor bool
	// RPCLatency delays every call, for benchmarks.
	RPCLatency time.Duration
	// Network connects the nodes of a test and cuts them apart. Nil is a network
	// of its own, on which this node is alone.
	Network *Network
	// Listen and Dial replace net.Listen and net.Dialer.DialContext under the
	// Network's faults.
	Listen func(network, addr string) (net.Listener, error)
	Dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	// Logger gets what SPDK would log.
	Logger logr.Logger
}

// PoolConfig describes a disk and the lvol store on it.
type PoolConfig struct {
	// Name is the lvol store's name; the bdev under it is called "aio_" + Name.
	// With NoStore only the bdev exists.
	Name string
	// SizeBytes is the size of the disk.
	SizeBytes int64
	// ClusterSize is the lvol store's cluster size in bytes; 0 is SPDK's 4 MiB.
	ClusterSize uint32
	// BlockSize is 512 or 4096 bytes; 0 is 4096.
	BlockSize int
	// NoUnmap makes the aio bdev as bdev_aio_create does by default, without
	// "fallocate": freed clusters keep their data, and a new lvol shows it.
	NoUnmap bool
	// NoStore leaves the disk without an lvol store.
	NoStore bool
}

// Defaults of the configuration.
const (
	defaultClusterSize = 4 << 20
	defaultBlockSize   = 4096
)

func (c *Config) setDefaults() {
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	if c.Network == nil {
		c.Network = NewNetwork(c.Clock)
	}
	if c.Listen == nil {
		c.Listen = net.Listen
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	for i := range c.Pools {
		if c.Pools[i].BlockSize == 0 {
			c.Pools[i].BlockSize = defaultBlockSize
		}
		if c.Pools[i].ClusterSize == 0 {
			c.Pools[i].ClusterSize = defaultClusterSize
		}
	}
}
