package random_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/controller"
	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/sim/memnet"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

const (
	mib = int64(1) << 20
	// pool is the name of each node's lvstore.
	pool      = "pool"
	poolBytes = 512 * mib
	spdkNodes = 5
	// sweepEvery is how often the controller finishes what was left undone.
	sweepEvery = 10 * time.Second
)

// budgets are those of all volumes. The stall budget is the shortest there is, so that little happens while one waits for it.
var budgets = timeouts.Budgets{ReplicaStall: 10 * time.Second, TargetLoss: 3 * time.Minute}

// hostOf names the CSI node on the machine of an SPDK node: volumes of h1 find a raid host on their own machine, those of h2 don't.
var hostOf = map[string]string{"n1": "h1"}

// hostNames are the CSI nodes.
var hostNames = []string{"h1", "h2"}

func nodeIP(i int) string { return fmt.Sprintf("10.0.0.%d", i+1) }

// world is all that a run is about.
type world struct {
	t     *testing.T
	rng   *rand.Rand
	trace *trace
	dir   string

	tcp    *memnet.Network
	links  *sim.Network
	sims   []*sim.Node
	before map[string][]string // what was on each node at first
	store  *store

	controller *controllerLife
	hosts      []*host
	volumes    []*vol
	snaps      []*snap
	// snapsMade and modelsMade count, so that names and versions are used once.
	snapsMade, modelsMade int
	// order counts the beginnings and ends of transfers.
	order    atomic.Uint64
	workload sync.WaitGroup // transfers
	faults   faults
	// hiccupAt is when something else than a fault last went wrong.
	hiccupAt time.Time

	mu       sync.Mutex
	gateways map[string]gateway
}

// controllerLife is one life of the controller.
type controllerLife struct {
	*process
	*controller.Server
}

// host is a machine that uses volumes, and the present life of its node service.
type host struct {
	*process
	*node.Server
	w       *world
	name    string
	machine *userspace.Machine

	mu sync.Mutex
	// down: the service was killed and its code may still run.
	down bool
	// failIn counts the moments of the machine's operations down to one that fails; 0 is none.
	failIn int
}

func newWorld(t *testing.T, seed uint64, tr *trace) *world {
	t.Helper()
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 0)), trace: tr, dir: t.TempDir(), tcp: memnet.New(), links: sim.NewNetwork(nil),
		before: map[string][]string{}, store: newStore(), gateways: map[string]gateway{},
	}
	w.store.written = tr.record
	w.faults.init(w)
	for i := range spdkNodes {
		w.addNode(i)
	}
	for _, n := range w.sims {
		w.before[n.Name()] = w.inventory(n)
	}
	for _, name := range hostNames {
		w.addHost(name)
	}
	w.startController()
	for i := range volumeCount {
		v := &vol{client: client{w: w, name: fmt.Sprintf("v%d", i+1)}, history: map[int][]*transfer{}}
		v.share(false)
		w.volumes = append(w.volumes, v)
	}
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.fail("%v", err)
	}
}

// fail ends the run.
func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.trace.add("FAIL: "+format, args...)
	w.t.Fatalf(format, args...)
}

func (w *world) addNode(i int) {
	name := fmt.Sprintf("n%d", i+1)
	v, err := timeouts.Derive(budgets)
	w.must(err)
	n, err := sim.New(sim.Config{
		Name: name, Network: w.links, Listen: w.tcp.Listen, Dial: w.tcp.Dial,
		Pools:     []sim.PoolConfig{{Name: pool, SizeBytes: poolBytes}},
		Transport: map[string]any{"kas": v.Node.KAS, "min_kato": v.Node.MinKATO.Milliseconds()},
		NVMeOptions: map[string]any{
			"action_on_timeout": "reset", "timeout_us": v.Node.IOTimeout.Microseconds(), "timeout_admin_us": v.Node.AdminTimeout.Microseconds(),
			"keep_alive_timeout_ms": v.Node.KeepAlive.Milliseconds(), "transport_ack_timeout": v.Node.TransportAck,
		},
		Logger: w.trace.logger().WithName("spdk"),
	})
	w.must(err)
	w.must(n.Start())
	w.sims = append(w.sims, n)
}

func (w *world) sim(name string) *sim.Node { return w.links.Node(name) }

// gatewayOf is the state of a node's gateway.
func (w *world) gatewayOf(node string) gateway {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.gateways[node]
}

func (w *world) setGateway(node string, g gateway) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gateways[node] = g
}

// lifeContext is the root of all contexts of a process.
func (w *world) lifeContext(name string) context.Context {
	return klog.NewContext(context.Background(), w.trace.logger().WithName(name))
}

func (w *world) startController() {
	p := newProcess(w.lifeContext("controller"))
	server, err := controller.New(p.ctx, controller.Options{
		Store: storeFor{w.store, p}, Cluster: w.clusterFor(p), Clock: clock.RealClock{}, ThinOvercommit: 1,
	})
	w.must(err)
	w.controller = &controllerLife{process: p, Server: server}
	p.spawn(func(ctx context.Context) { server.SweepEvery(ctx, clock.RealClock{}, sweepEvery) })
}

func (w *world) addHost(name string) {
	h := &host{w: w, name: name}
	w.must(volume.RegisterHost(context.Background(), w.store, volume.Host{Name: name, MachineID: "machine of " + name}))
	w.hosts = append(w.hosts, h)
	h.boot()
}

// boot starts the machine with nothing attached, mounted or noted, and its node service.
func (h *host) boot() {
	w := h.w
	w.must(os.RemoveAll(filepath.Join(w.dir, h.name)))
	var err error
	h.machine, err = userspace.New(userspace.Options{
		Dir: filepath.Join(w.dir, h.name, "dev"), Dial: w.links.Dialer(h.name, w.tcp.Dial), Fault: h.fault,
		Logger: w.trace.logger().WithName("kernel of " + h.name),
	})
	w.must(err)
	h.start()
}

// start begins a life of the node service.
func (h *host) start() {
	h.setDown(false)
	h.process = newProcess(h.w.lifeContext("node service of " + h.name))
	var err error
	h.Server, err = node.New(node.Options{
		Name: h.name, Store: storeFor{h.w.store, h.process}, Cluster: h.w.clusterFor(h.process),
		Fabrics: h.machine, FileSystems: h.machine, Encryption: h.machine, Mounts: h.machine,
		StateDir: filepath.Join(h.w.dir, h.name, "state"), Clock: clock.RealClock{},
	})
	h.w.must(err)
	server := h.Server
	h.spawn(func(ctx context.Context) {
		if err := server.Watch(ctx); err != nil {
			h.w.t.Errorf("watching ends with %v", err)
		}
	})
}

// stop kills the node service; the machine with what is attached and mounted stays.
func (h *host) stop() {
	h.setDown(true)
	h.end()
}

func (h *host) setDown(down bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = down
}

func (h *host) isDown() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.down
}

// fault is asked by the machine.
func (h *host) fault(op userspace.Op, at userspace.Moment) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		return errDead
	}
	if h.failIn == 0 {
		return nil
	}
	if h.failIn--; h.failIn > 0 {
		return nil
	}
	h.w.trace.add("  %s: %s fails %s", h.name, op, at)
	return errors.New("injected fault of the machine")
}

func (h *host) armFault(in int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failIn = in
}

// close ends everything that runs.
func (w *world) close() {
	for _, n := range w.sims {
		n.Hang(false)
	}
	for _, h := range w.hosts {
		h.stop()
	}
	w.controller.end()
	for _, h := range w.hosts {
		h.machine.Close()
	}
	w.workload.Wait()
	for _, n := range w.sims {
		n.Close()
	}
}

// pass lets time pass, and faults end in it; it returns when all that happens at its end has happened.
func (w *world) pass(d time.Duration) {
	for end := time.Now().Add(d); ; {
		next := end
		for _, f := range w.faults.active {
			if f.until.Before(next) {
				next = f.until
			}
		}
		time.Sleep(time.Until(next))
		synctest.Wait()
		if !next.Before(end) {
			return
		}
		w.checkHope()
		w.faults.expire(false)
		synctest.Wait()
	}
}

// leftovers lists what is on nodes and hosts and was not at first.
func (w *world) leftovers() []string {
	var left []string
	for _, n := range w.sims {
		for _, object := range w.inventory(n) {
			lvol := strings.HasPrefix(object, "bdev ["+pool) || strings.HasPrefix(object, "lvstore")
			if excused := lvol && w.faults.badDisks[n.Name()]; !excused && !slices.Contains(w.before[n.Name()], object) {
				left = append(left, n.Name()+": "+object)
			}
		}
	}
	for _, h := range w.hosts {
		for _, nqn := range h.machine.Attached() {
			left = append(left, h.name+" has attached "+nqn)
		}
		for _, mapping := range h.machine.Mappings() {
			left = append(left, h.name+" has open "+mapping)
		}
		for _, m := range h.machine.All() {
			left = append(left, h.name+" has mounted "+m.Target)
		}
		entries, err := os.ReadDir(filepath.Join(w.dir, h.name, "state"))
		w.must(err)
		for _, e := range entries {
			left = append(left, h.name+" has state "+e.Name())
		}
	}
	for _, v := range w.store.all() {
		left = append(left, fmt.Sprintf("record %s (%s)", v.Name, v.Phase))
	}
	for _, sn := range w.snapshots() {
		left = append(left, fmt.Sprintf("record of snapshot %s (%s)", sn.Name, sn.Phase))
	}
	return left
}
