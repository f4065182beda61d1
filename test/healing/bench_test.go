// Package healing runs controller and node service together on simulated SPDK nodes and makes parts fail under load.
package healing

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/go-logr/logr/testr"
	"github.com/google/uuid"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/controller"
	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

const (
	mib = int64(1) << 20
	// stall is the replica stall budget, the tightest there is.
	stall = 10 * time.Second
	host  = "host"
	// long bounds what is to succeed.
	long = 3 * time.Minute
)

// bench is a cluster with a controller that sweeps and a machine whose node service watches.
type bench struct {
	*cluster.Cluster
	t          *testing.T
	ctx        context.Context
	controller *controller.Server
	node       *node.Server
	machine    *userspace.Machine
	store      *switchedStore
	stopNode   func()
}

func newBench(t *testing.T, nodes int) *bench {
	t.Helper()
	o := cluster.Options{Stall: stall}
	real := os.Getenv("SPDK_RPC_SOCK")
	if real == "" && os.Getenv("HEALING_REALTIME") == "" {
		t.Skip("on a busy machine keep-alives of a second expire: run it alone with HEALING_REALTIME=1, or against real targets with SPDK_RPC_SOCK and SPDK_CONTROL; the other tests do the same in simulated time")
	}
	if real != "" {
		o.Sockets = strings.Split(real, ",")
		if len(o.Sockets) < nodes {
			t.Skipf("%d targets are needed, SPDK_RPC_SOCK names %d", nodes, len(o.Sockets))
		}
	}
	b := &bench{Cluster: cluster.New(t, nodes, o), t: t}
	b.store = &switchedStore{Store: b.Store}
	b.ctx = klog.NewContext(t.Context(), testr.NewWithOptions(t, testr.Options{LogTimestamp: true}))
	b.RegisterHosts(host)
	var err error
	b.machine, err = userspace.New(userspace.Options{Dir: filepath.Join(b.Dir, "dev"), Dial: b.Network.Dialer(sim.Outside, (&net.Dialer{}).DialContext)})
	b.must(err)
	t.Cleanup(b.machine.Close)
	b.controller, err = controller.New(b.ctx, controller.Options{Store: b.store, Cluster: b.Cluster.Cluster, Clock: clock.RealClock{}, ThinOvercommit: 1})
	b.must(err)
	ctx, cancel := context.WithCancel(b.ctx)
	var wg sync.WaitGroup
	wg.Go(func() { b.controller.SweepEvery(ctx, clock.RealClock{}, time.Second) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	b.startNode()
	t.Cleanup(func() { b.stopNode() })
	return b
}

// startNode starts the node service; what is attached and mounted is the machine's.
func (b *bench) startNode() {
	b.t.Helper()
	var err error
	b.node, err = node.New(node.Options{
		Name: host, Store: b.store, Cluster: b.Cluster.Cluster, Fabrics: b.machine, FileSystems: b.machine, Encryption: b.machine, Mounts: b.machine,
		StateDir: filepath.Join(b.Dir, "state"), Clock: clock.RealClock{},
	})
	b.must(err)
	ctx, cancel := context.WithCancel(b.ctx)
	watched := make(chan error, 1)
	go func() { watched <- b.node.Watch(ctx) }()
	b.stopNode = func() {
		cancel()
		if err := <-watched; err != nil {
			b.t.Error(err)
		}
	}
}

// kill ends an SPDK node's process, start starts it again, hang stops it and lets it go on. Of real targets SPDK_CONTROL does so, a
// program that is called with what to do (kill, start, stop, cont) and the number of the target.
func (b *bench) kill(node string) {
	b.t.Helper()
	if !b.control("kill", node) {
		b.Sim(node).Kill()
	}
}

func (b *bench) start(node string) {
	b.t.Helper()
	if !b.control("start", node) {
		b.must(b.Sim(node).Restart())
	}
}

func (b *bench) hang(node string, hung bool) {
	b.t.Helper()
	verb := "cont"
	if hung {
		verb = "stop"
	}
	if !b.control(verb, node) {
		b.Sim(node).Hang(hung)
	}
}

func (b *bench) control(verb, node string) bool {
	b.t.Helper()
	if os.Getenv("SPDK_RPC_SOCK") == "" {
		return false
	}
	out, err := exec.Command(os.Getenv("SPDK_CONTROL"), verb, strings.TrimPrefix(node, "n")).CombinedOutput()
	if err != nil {
		b.t.Fatalf("%s %s: %v: %s", verb, node, err, out)
	}
	return true
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) staging() string { return filepath.Join(b.Dir, "staging") }

var capability = &csi.VolumeCapability{
	AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
	AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
}

// create makes a volume and returns its ID.
func (b *bench) create(name string, size int64, parameters map[string]string) string {
	b.t.Helper()
	all := map[string]string{volume.ParamReplicaStallBudget: stall.String()}
	for key, value := range parameters {
		all[key] = value
	}
	resp, err := b.controller.CreateVolume(b.ctx, &csi.CreateVolumeRequest{
		Name: name, Parameters: all, VolumeCapabilities: []*csi.VolumeCapability{capability}, CapacityRange: &csi.CapacityRange{RequiredBytes: size},
	})
	b.must(err)
	return resp.GetVolume().GetVolumeId()
}

// use publishes and stages a volume.
func (b *bench) use(id string) *userspace.File {
	b.t.Helper()
	_, err := b.controller.ControllerPublishVolume(b.ctx, &csi.ControllerPublishVolumeRequest{VolumeId: id, NodeId: host, VolumeCapability: capability})
	b.must(err)
	_, err = b.node.NodeStageVolume(b.ctx, &csi.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: b.staging(), VolumeCapability: capability})
	b.must(err)
	file, err := b.machine.Open(b.staging())
	b.must(err)
	return file
}

// release ends the use of a volume, compares each of its replicas with what was written, deletes it, and wants nothing to be left.
func (b *bench) release(id string, l *load) {
	b.t.Helper()
	b.unuse(id)
	b.eventually("it is at rest", func() bool { v := b.Record(id); return v.Assembly == nil && len(v.Retired) == 0 })
	for _, r := range b.Record(id).InState(volume.ReplicaInSync) {
		b.checkReplica(b.Record(id), r, l)
	}
	b.retry(func() error {
		_, err := b.controller.DeleteVolume(b.ctx, &csi.DeleteVolumeRequest{VolumeId: id})
		return err
	})
	b.eventually("nothing is left", func() bool {
		left := b.Leftovers()
		b.t.Log(left)
		return len(left) == 0
	})
}

// checkReplica exports one replica for the test alone and compares it with what was acknowledged.
func (b *bench) checkReplica(v *volume.Volume, r volume.Replica, l *load) {
	b.t.Helper()
	node, err := b.Node(r.Node)
	b.must(err)
	nqn, me, ns := volume.NQNPrefix+"compare:"+r.ID, volume.NQNPrefix+"host:compare", uuid.New()
	b.must(node.Export(b.ctx, spdk.Export{
		NQN: nqn, Serial: "compare", Model: "compare", Bdev: r.LvStore + "/" + v.LvolName(r), NSUUID: ns, Listen: node.NVMf, Hosts: []string{me},
	}))
	head := nvmetcp.NewHead(nvmetcp.HeadConfig{SubNQN: nqn, HostNQN: me, HostID: volume.HostID(me), UUID: ns})
	b.must(head.AddPath(b.ctx, nvmetcp.PathConfig{Addr: node.NVMf.String()}))
	start := head.SizeBytes() - l.fileBytes // the pretend file system keeps the head of the device to itself
	b.t.Logf("replica %s on %s", r.ID, r.Node)
	l.check(func(buf []byte, off int64) error { return head.ReadAt(b.ctx, buf, start+off) })
	b.must(head.RemovePath(b.ctx, node.NVMf.String()))
	b.must(head.Close())
	b.must(node.Unexport(b.ctx, nqn))
}

// unuse unstages and unpublishes it.
func (b *bench) unuse(id string) {
	b.t.Helper()
	b.retry(func() error {
		_, err := b.node.NodeUnstageVolume(b.ctx, &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: b.staging()})
		return err
	})
	b.retry(func() error {
		_, err := b.controller.ControllerUnpublishVolume(b.ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: host})
		return err
	})
}

func (b *bench) retry(f func() error) {
	b.t.Helper()
	var err error
	defer func(begin time.Time) { b.t.Logf("after %s", time.Since(begin).Round(time.Millisecond)) }(time.Now())
	for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
		b.t.Log(err)
	}
	b.t.Fatal(err)
}

func (b *bench) eventually(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(long); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("not within %s: %s", long, what)
		}
	}
}

// whole says whether the volume has all its replicas in-sync and a standby.
func (b *bench) whole(id string) bool {
	v := b.Record(id)
	inSync := len(v.InState(volume.ReplicaInSync))
	return inSync == v.Parameters.Replicas && inSync == len(v.Replicas) && len(v.Retired) == 0 &&
		(v.Assembly == nil || !v.Assembly.Held && (!v.Parameters.Standby || v.Parameters.Replicas == 1 || v.Standby != nil && v.Standby.Running && len(v.Standby.Legs) == inSync))
}

const blockBytes = 16 << 10

// load writes to a volume, each writer to blocks of its own, and remembers what was acknowledged.
type load struct {
	b         *bench
	file      *userspace.File
	fileBytes int64
	stop      context.CancelFunc
	wg        sync.WaitGroup

	mu         sync.Mutex
	generation []uint32
	writes     int
	longest    time.Duration
	errs       []error
}

func (b *bench) load(file *userspace.File) *load {
	ctx, cancel := context.WithCancel(b.ctx)
	l := &load{b: b, file: file, fileBytes: file.SizeBytes(), stop: cancel, generation: make([]uint32, file.SizeBytes()/blockBytes)}
	for writer := range 4 {
		l.wg.Go(func() { l.write(ctx, writer) })
	}
	return l
}

func (l *load) write(ctx context.Context, writer int) {
	buf := make([]byte, blockBytes)
	for ctx.Err() == nil {
		block := writer + 4*rand.IntN((len(l.generation)-writer+3)/4)
		next := l.generation[block] + 1
		pattern(buf, block, next)
		begin := time.Now()
		err := l.file.WriteAt(context.WithoutCancel(ctx), buf, int64(block)*blockBytes)
		l.mu.Lock()
		if err != nil {
			l.errs = append(l.errs, err)
			l.mu.Unlock()
			return
		}
		l.generation[block] = next
		l.writes++
		l.longest = max(l.longest, time.Since(begin))
		l.mu.Unlock()
		time.Sleep(2 * time.Millisecond)
	}
}

// pause returns the longest pause since the last call.
func (l *load) pause() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	longest := l.longest
	l.longest = 0
	return longest
}

// pauseUntilNextWrite waits until a write that began after the call is acknowledged.
func (l *load) pauseUntilNextWrite() {
	l.mu.Lock()
	before := l.writes
	l.mu.Unlock()
	l.b.eventually("writes go on", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.writes > before+8 || len(l.errs) > 0
	})
}

// verify ends the load and compares every block with what was written to it last.
func (l *load) verify() {
	l.b.t.Helper()
	l.stop()
	l.wg.Wait()
	for _, err := range l.errs {
		l.b.t.Error(err)
	}
	l.b.t.Logf("%d writes acknowledged", l.writes)
	l.check(func(buf []byte, off int64) error { return l.file.ReadAt(l.b.ctx, buf, off) })
}

func (l *load) check(read func(buf []byte, off int64) error) {
	l.b.t.Helper()
	buf, want := make([]byte, blockBytes), make([]byte, blockBytes)
	for block, generation := range l.generation {
		if generation == 0 {
			continue
		}
		l.b.must(read(buf, int64(block)*blockBytes))
		pattern(want, block, generation)
		if !bytes.Equal(buf, want) {
			l.b.t.Fatalf("block %d does not hold generation %d", block, generation)
		}
	}
}

func pattern(p []byte, block int, generation uint32) {
	source := rand.NewPCG(uint64(block), uint64(generation))
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], source.Uint64())
	}
}

func (b *bench) describe(id string) string {
	v := b.Record(id)
	text := ""
	for _, r := range v.Replicas {
		text += fmt.Sprintf(" %s@%s:%s", r.ID, r.Node, r.State)
	}
	return fmt.Sprintf("assembly %+v standby %+v retired %d replicas%s", v.Assembly, v.Standby, len(v.Retired), text)
}
