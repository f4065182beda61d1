package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/controller"
	"github.com/holdfast-csi/holdfast/driver"
	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/bolt"
	"github.com/holdfast-csi/holdfast/test/vm/load"
)

// sweepInterval is how often the controller tries again what it had to leave unfinished.
const sweepInterval = 5 * time.Second

// StartLocal starts a stack all of which is in this process: it needs neither root nor a virtual machine.
func StartLocal(ctx context.Context, o Options) (*Stack, error) {
	s, err := newStack(ctx, "127.0.0.1", o)
	if err != nil {
		return nil, s.abandon(err)
	}
	if err := s.startServices(ctx); err != nil {
		return nil, s.abandon(err)
	}
	return s, nil
}

// InProcess says whether all of the stack is in this process. The pretend file system there is one file, at the published path.
func (s *Stack) InProcess() bool {
	_, ok := s.Host.(local)
	return ok
}

// services are the driver's, in this process.
type services struct {
	wg     sync.WaitGroup
	cancel context.CancelFunc
}

// run runs a part of the driver that ends with its context.
func (r *services) run(part func() error) {
	r.wg.Go(func() {
		if err := part(); err != nil {
			fmt.Fprintln(os.Stderr, "a part of the driver has ended:", err)
		}
	})
}

func (s *Stack) startServices(ctx context.Context) error {
	wires := map[string]*wire{}
	config := driver.Config{ThinOvercommit: 4, Nodes: s.nodes}
	cluster, closeCluster, err := config.Cluster(func(node string, rpc spdk.Caller) spdk.Caller {
		wires[node] = &wire{next: rpc, changed: make(chan struct{})}
		return wires[node]
	})
	if err != nil {
		return err
	}
	s.onClose(closeCluster)
	for _, t := range s.Targets {
		t.rpc = wires[t.Name].set
	}
	store, err := bolt.Open(s.path("volumes.db"))
	if err != nil {
		return err
	}
	s.Store = store
	s.onClose(func() { _ = store.Close() })
	if err := volume.RegisterHost(ctx, store, volume.Host{Name: NodeName, MachineID: "local"}); err != nil {
		return err
	}
	machine, err := userspace.New(userspace.Options{Dir: s.path("dev")})
	if err != nil {
		return err
	}
	s.Host = local{stack: s, machine: machine}
	s.onClose(machine.Close)
	controllerService, err := controller.New(ctx, controller.Options{Store: store, Cluster: cluster, Clock: clock.RealClock{}, ThinOvercommit: config.ThinOvercommit})
	if err != nil {
		return err
	}
	nodeService, err := node.New(node.Options{
		Name: NodeName, Store: store, Cluster: cluster, Fabrics: machine, FileSystems: machine, Encryption: machine, Mounts: machine, StateDir: s.path("state"), Clock: clock.RealClock{},
	})
	if err != nil {
		return err
	}
	r := &services{}
	ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.onClose(func() {
		r.cancel()
		r.wg.Wait()
	})
	r.run(func() error { return nodeService.Watch(ctx) })
	r.run(func() error {
		controllerService.SweepEvery(ctx, clock.RealClock{}, sweepInterval)
		return nil
	})
	identity := driver.Identity{WithController: true}
	r.run(func() error {
		return driver.Serve(ctx, s.path("controller.sock"), driver.Services{Identity: identity, Controller: controllerService})
	})
	r.run(func() error {
		return driver.Serve(ctx, s.path("node.sock"), driver.Services{Identity: identity, Node: nodeService})
	})
	return s.connectLocal(ctx)
}

func (s *Stack) connectLocal(ctx context.Context) error {
	conn, err := s.connect(ctx, "unix://"+s.path("controller.sock"))
	if err != nil {
		return err
	}
	s.Controller, s.Groups = csi.NewControllerClient(conn), csi.NewGroupControllerClient(conn)
	conn, err = s.connect(ctx, "unix://"+s.path("node.sock"))
	s.Node = csi.NewNodeClient(conn)
	return err
}

// errSilent is why a call on a cut wire ends.
var errSilent = errors.New("no answer: the wire is cut")

// wire is the way of JSON-RPC to a node; it can be cut.
type wire struct {
	next spdk.Caller

	mu      sync.Mutex
	cut     bool
	changed chan struct{} // closed when cut changes
}

func (w *wire) set(cut bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut != cut {
		w.cut = cut
		close(w.changed)
		w.changed = make(chan struct{})
	}
	return nil
}

// whole waits until the wire is, or ctx ends.
func (w *wire) whole(ctx context.Context) error {
	for {
		w.mu.Lock()
		cut, changed := w.cut, w.changed
		w.mu.Unlock()
		if !cut {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errSilent
		}
	}
}

// Call implements spdk.Caller: requests and answers are lost while the wire is cut.
func (w *wire) Call(ctx context.Context, method string, params, result any) error {
	ctx, cancel := context.WithTimeout(ctx, timeouts.RPC)
	defer cancel()
	if err := w.whole(ctx); err != nil {
		return fmt.Errorf("%s: %w: %w", method, spdk.ErrUnreachable, err)
	}
	err := w.next.Call(ctx, method, params, result)
	if lost := w.whole(ctx); lost != nil {
		return fmt.Errorf("%s: %w: %w", method, spdk.ErrUnknownOutcome, lost)
	}
	return err
}

// local is a host in Go.
type local struct {
	stack   *Stack
	machine *userspace.Machine
}

func (h local) Path(name string) string { return h.stack.path(name) }

// MakeDir implements Host: the node service makes what it needs here.
func (h local) MakeDir(context.Context, string) error { return nil }

func (h local) Describe(context.Context) (string, error) { return "a host in Go", nil }

func (h local) OpenLoad(_ context.Context, path string, blocks int) (Load, error) {
	file, err := h.machine.Open(path)
	if err != nil {
		return nil, err
	}
	return localLoad{load.New(file, 0, blocks)}, nil
}

// localLoad is a load in this process. What waits for I/O is given up with the context, and the load with it.
type localLoad struct{ load *load.Load }

func (l localLoad) do(ctx context.Context, f func()) (load.Report, error) {
	stop := context.AfterFunc(ctx, l.load.Abort)
	defer stop()
	f()
	return l.load.Report(), ctx.Err()
}

func (l localLoad) Fill(ctx context.Context) (load.Report, error) {
	return l.do(ctx, func() { l.load.Fill() })
}

func (l localLoad) Run(ctx context.Context, m load.Mix) error {
	_, err := l.do(ctx, func() { l.load.Run(m) })
	return err
}

func (l localLoad) Pause(ctx context.Context) (load.Report, error) { return l.do(ctx, l.load.Pause) }

func (l localLoad) Report(context.Context) (load.Report, error) { return l.load.Report(), nil }

func (l localLoad) Verify(ctx context.Context) (load.Report, error) {
	return l.do(ctx, func() { l.load.Verify() })
}

func (l localLoad) Close() error {
	l.load.Close()
	return nil
}
