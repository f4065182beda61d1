package driver

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
)

// StoreKube is the store address of the custom resources in an API server.
const StoreKube = "kube"

// Where the SPDK nodes are named.
const (
	NodesFromFile = "file"
	NodesFromKube = "kube"
)

// Source says where a process finds its configuration, the records and the SPDK nodes.
type Source struct {
	// Config is the path of the configuration file.
	Config string
	// Store is StoreKube, or an address that OpenStore knows.
	Store string
	// SPDKNodes is NodesFromFile, the configuration file, or NodesFromKube, the SPDKNode resources.
	SPDKNodes string
	// Kubeconfig is a file that says how the API server is reached; "" is as kubectl finds it, or as a pod of the cluster.
	Kubeconfig string
	// Owner is the name of the node service that runs in this process; "" is none.
	Owner string
	// Wrap, if not nil, stands between the operations on an SPDK node and its connection.
	Wrap func(node string, rpc spdk.Caller) spdk.Caller
}

// Opened is what a Source leads to. Close ends its connections.
type Opened struct {
	Config  *Config
	Cluster *converge.Cluster
	Store   volume.Store
	// Kube is how the API server is reached, and Records the store there; nil with other stores.
	Kube    *rest.Config
	Records *kube.Store

	source Source
	closes []func()
}

// Open reads the configuration, opens the store and finds the SPDK nodes.
func (s Source) Open(ctx context.Context) (*Opened, error) {
	if s.SPDKNodes != NodesFromFile && s.SPDKNodes != NodesFromKube {
		return nil, fmt.Errorf("--spdk-nodes %q must be %s or %s", s.SPDKNodes, NodesFromFile, NodesFromKube)
	}
	if s.SPDKNodes == NodesFromKube && s.Store != StoreKube {
		return nil, fmt.Errorf("--spdk-nodes=%s needs --store %s", NodesFromKube, StoreKube)
	}
	o := &Opened{source: s}
	err := o.open(ctx)
	if err != nil {
		o.Close()
		return nil, err
	}
	return o, nil
}

func (o *Opened) open(ctx context.Context) error {
	var err error
	if o.Config, err = readConfig(o.source.Config, o.source.SPDKNodes == NodesFromFile); err != nil {
		return err
	}
	if err := o.openStore(ctx); err != nil {
		return err
	}
	if o.source.SPDKNodes == NodesFromKube {
		if o.Config.Nodes, err = o.nodes(ctx); err != nil {
			return err
		}
		if err := o.Config.check(); err != nil {
			return fmt.Errorf("SPDKNode resources: %w", err)
		}
	}
	cluster, closeCluster, err := o.Config.Cluster(o.source.Wrap)
	if err != nil {
		return err
	}
	o.Cluster, o.closes = cluster, append(o.closes, closeCluster)
	return nil
}

func (o *Opened) openStore(ctx context.Context) error {
	if o.source.Store != StoreKube {
		store, closeStore, err := o.Config.OpenStore(o.source.Store)
		if err != nil {
			return err
		}
		o.Store, o.closes = store, append(o.closes, closeStore)
		return nil
	}
	config, err := kube.Config(o.source.Kubeconfig)
	if err != nil {
		return err
	}
	records, err := kube.Open(ctx, config, o.source.Owner)
	if err != nil {
		return err
	}
	o.Kube, o.Records, o.Store, o.closes = config, records, records, append(o.closes, records.Close)
	return nil
}

// Close ends what Open began, the last first.
func (o *Opened) Close() {
	for i := len(o.closes) - 1; i >= 0; i-- {
		o.closes[i]()
	}
}

// nodes returns the SPDK nodes that the resources say where to reach.
func (o *Opened) nodes(ctx context.Context) ([]NodeConfig, error) {
	resources, err := o.Records.SPDKNodes(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the SPDKNode resources: %w", err)
	}
	var nodes []NodeConfig
	for _, r := range resources {
		if r.Spec.RPC != "" {
			nodes = append(nodes, nodeConfig(r))
		}
	}
	return nodes, nil
}

func nodeConfig(r v1alpha1.SPDKNode) NodeConfig {
	return NodeConfig{
		Name: r.Name, RPC: r.Spec.RPC, NVMf: r.Spec.NVMf, Host: r.Spec.Host, Zone: r.Spec.Zone, Labels: r.Spec.Labels,
		LvStores: r.Spec.LvStores, ClearMethod: spdk.ClearMethod(r.Spec.ClearMethod),
	}
}

// ErrNodesChanged says that the process has to be started again to use the SPDK nodes as they are now. I/O doesn't notice.
var ErrNodesChanged = errors.New("the SPDKNode resources name other SPDK nodes than before; started again, this process uses them")

// nodesInterval is how often the SPDKNode resources are read again.
const nodesInterval = 30 * time.Second

// WatchNodes returns ErrNodesChanged when the SPDKNode resources name other nodes than when they were read, or nil when ctx ends. Without
// such resources it only waits. While the API server is away nothing has changed.
func (o *Opened) WatchNodes(ctx context.Context, c clock.WithTicker) error {
	if o.source.SPDKNodes != NodesFromKube {
		<-ctx.Done()
		return nil
	}
	ticker := c.NewTicker(nodesInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
		}
		if nodes, err := o.nodes(ctx); err == nil && !reflect.DeepEqual(nodes, o.Config.Nodes) {
			return ErrNodesChanged
		}
	}
}
