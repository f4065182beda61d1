package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/controller"
	"github.com/holdfast-csi/holdfast/driver"
	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk/operator"
	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/bolt"
)

// host is the CSI node of the demo.
const host = "demo-host"

// lab is what the demo runs on.
type lab struct {
	dir     string
	sims    map[string]*sim.Node
	store   *bolt.Store
	machine *userspace.Machine
	// operator looks at the volume as a person would.
	operator *operator.Operator
	// The CO's connections to the two services.
	controller, node *grpc.ClientConn

	services sync.WaitGroup
	stop     context.CancelFunc
	mu       sync.Mutex
	failed   error // of the services
	closers  []func()
}

// newLab starts everything. poolBytes is the room for the replica on each node.
func newLab(ctx context.Context, dir string, volumeBytes int64) (*lab, error) {
	l := &lab{dir: dir, sims: map[string]*sim.Node{}}
	ctx, l.stop = context.WithCancel(context.WithoutCancel(ctx)) // the services end in close, after the connections to them
	if err := l.start(ctx, volumeBytes); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *lab) start(ctx context.Context, volumeBytes int64) error {
	config := &driver.Config{ThinOvercommit: 1}
	addresses, err := freeAddresses(3)
	if err != nil {
		return err
	}
	for i, address := range addresses {
		name := fmt.Sprintf("n%d", i+1)
		if err := l.startSPDK(name, volumeBytes); err != nil {
			return err
		}
		config.Nodes = append(config.Nodes, driver.NodeConfig{Name: name, RPC: "unix://" + l.path(name+".sock"), NVMf: address})
	}
	cluster, closeCluster, err := config.Cluster(nil)
	if err != nil {
		return err
	}
	l.closers = append(l.closers, closeCluster)
	if l.store, err = bolt.Open(l.path("volumes.db")); err != nil {
		return err
	}
	l.closers = append(l.closers, func() { _ = l.store.Close() }) // the file is removed next
	if err := volume.RegisterHost(ctx, l.store, volume.Host{Name: host, MachineID: "demo"}); err != nil {
		return err
	}
	l.operator = operator.New(l.store, cluster, clock.RealClock{})
	if l.machine, err = userspace.New(userspace.Options{Dir: l.path("dev")}); err != nil {
		return err
	}
	l.closers = append(l.closers, l.machine.Close)
	controllerService, err := controller.New(ctx, controller.Options{Store: l.store, Cluster: cluster, Clock: clock.RealClock{}, ThinOvercommit: 1})
	if err != nil {
		return err
	}
	nodeService, err := node.New(node.Options{
		Name: host, Store: l.store, Cluster: cluster, Fabrics: l.machine, FileSystems: l.machine, Encryption: l.machine, Mounts: l.machine, StateDir: l.path("state"),
		Clock: clock.RealClock{},
	})
	if err != nil {
		return err
	}
	l.run(func() error { return nodeService.Watch(ctx) })
	identity := driver.Identity{WithController: true}
	l.serve(ctx, "controller", driver.Services{Identity: identity, Controller: controllerService})
	l.serve(ctx, "node", driver.Services{Identity: identity, Node: nodeService})
	if l.controller, err = l.connect("controller"); err != nil {
		return err
	}
	l.node, err = l.connect("node")
	return err
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

// startSPDK starts a simulated node that is configured for the demo's stall budget, as `holdfast spdk-config` would have it.
func (l *lab) startSPDK(name string, volumeBytes int64) error {
	v, err := timeouts.Derive(budgets)
	if err != nil {
		return err
	}
	n, err := sim.New(sim.Config{
		Name: name, Socket: l.path(name + ".sock"), Dir: l.dir,
		Pools:     []sim.PoolConfig{{Name: "pool-" + name, SizeBytes: volumeBytes + volumeBytes/4 + 64<<20}},
		Transport: map[string]any{"kas": v.Node.KAS, "min_kato": v.Node.MinKATO.Milliseconds()},
		NVMeOptions: map[string]any{
			"action_on_timeout": "reset", "timeout_us": v.Node.IOTimeout.Microseconds(), "timeout_admin_us": v.Node.AdminTimeout.Microseconds(),
			"keep_alive_timeout_ms": v.Node.KeepAlive.Milliseconds(), "transport_ack_timeout": v.Node.TransportAck,
		},
	})
	if err != nil {
		return err
	}
	l.sims[name] = n
	l.closers = append(l.closers, n.Close)
	return n.Start()
}

// freeAddresses returns addresses of this machine where nothing listens now.
func freeAddresses(n int) ([]string, error) {
	var addresses []string
	var config net.ListenConfig
	for range n {
		listener, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer listener.Close() // all are held until the last is found, so that they differ
		addresses = append(addresses, listener.Addr().String())
	}
	return addresses, nil
}

// serve offers services on a socket until close.
func (l *lab) serve(ctx context.Context, name string, services driver.Services) {
	l.run(func() error { return driver.Serve(ctx, l.path(name+".sock"), services) })
}

// run runs a part of the driver that ends with its context.
func (l *lab) run(part func() error) {
	l.services.Go(func() {
		if err := part(); err != nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.failed = errors.Join(l.failed, err)
		}
	})
}

// connect returns a connection to a service; its calls wait until the service is there.
func (l *lab) connect(name string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix://"+l.path(name+".sock"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		return nil, fmt.Errorf("connect to the %s service: %w", name, err)
	}
	return conn, nil
}

// close ends everything in the reverse order and returns what went wrong with the services.
func (l *lab) close() error {
	for _, conn := range []*grpc.ClientConn{l.controller, l.node} {
		if conn != nil {
			_ = conn.Close() // its calls have ended or are given up
		}
	}
	l.stop()
	l.services.Wait()
	for i := len(l.closers) - 1; i >= 0; i-- {
		l.closers[i]()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}
