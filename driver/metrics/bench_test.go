package metrics_test

import (
	"context"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/controller"
	"github.com/holdfast-csi/holdfast/driver/metrics"
	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/sim/memnet"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

const host = "host"

// process is what one process of the driver has of metrics.
type process struct {
	registry *prometheus.Registry
	csi      *metrics.CSI
	spdk     *metrics.SPDK
}

func newProcess(t *testing.T) *process {
	registry := metrics.New("v1.2.3")
	registry.MustRegister(metrics.Certificate{File: writeCertificate(t, time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC))})
	return &process{registry: registry, csi: metrics.NewCSI(registry), spdk: metrics.NewSPDK(registry)}
}

// bench is a controller and a node service with their metrics on four simulated SPDK nodes, in a bubble of testing/synctest.
type bench struct {
	*cluster.Bubble
	t           *testing.T
	ctx         context.Context
	network     *memnet.Network
	controlling *process
	using       *process
	controller  *controller.Server
	node        *node.Server
	machine     *userspace.Machine
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, ctx: klog.NewContext(context.WithoutCancel(t.Context()), logr.Discard()), network: memnet.New(), controlling: newProcess(t), using: newProcess(t)}
	b.Bubble = cluster.NewBubble(t, 4, cluster.Options{Stall: 10 * time.Second, RPCLatency: time.Millisecond, Wrap: func(name string, rpc spdk.Caller) spdk.Caller {
		return b.controlling.spdk.Wrap(name, b.using.spdk.Wrap(name, rpc))
	}})
	b.RegisterHosts(host)
	var err error
	b.machine, err = userspace.New(userspace.Options{Dir: filepath.Join(b.Dir, "dev"), Dial: b.Dial})
	b.must(err)
	b.controller, err = controller.New(b.ctx, controller.Options{
		Store: b.Store, Cluster: b.Cluster.Cluster, Clock: clock.RealClock{}, ThinOvercommit: 1, Observer: metrics.NewController(b.controlling.registry),
	})
	b.must(err)
	b.controlling.registry.MustRegister(metrics.Swept{Server: b.controller})
	b.node, err = node.New(node.Options{
		Name: host, Store: b.Store, Cluster: b.Cluster.Cluster, Fabrics: b.machine, FileSystems: b.machine, Encryption: b.machine, Mounts: b.machine,
		StateDir: filepath.Join(b.Dir, "state"), Clock: clock.RealClock{}, Observer: metrics.NewNode(b.using.registry),
	})
	b.must(err)
	b.using.registry.MustRegister(metrics.Staged{Server: b.node})
	ctx, cancel := context.WithCancel(b.ctx)
	var running sync.WaitGroup
	running.Go(func() { b.controller.SweepEvery(ctx, clock.RealClock{}, 5*time.Second) })
	running.Go(func() {
		if err := b.node.Watch(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		b.machine.Close()
		cancel()
		running.Wait()
	})
	return b
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) await(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(5 * time.Minute); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("it doesn't come to be that %s", what)
		}
	}
}

// call makes a CSI call as a CO's comes in.
func call[Q, R any](b *bench, p *process, method string, flow func(context.Context, Q) (R, error), req Q) R {
	b.t.Helper()
	resp, err := try(b, p, method, flow, req)
	b.must(err)
	return resp
}

// try makes a call that may fail.
func try[Q, R any](b *bench, p *process, method string, flow func(context.Context, Q) (R, error), req Q) (R, error) {
	resp, err := p.csi.Observe(b.ctx, req, &grpc.UnaryServerInfo{FullMethod: "/csi.v1.Service/" + method}, func(ctx context.Context, _ any) (any, error) {
		return flow(ctx, req)
	})
	got, _ := resp.(R)
	return got, err
}

var rawBlock = &csi.VolumeCapability{
	AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
	AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
}

// use makes a volume of three replicas and stages it.
func (b *bench) use(name string) (id string) {
	b.t.Helper()
	id = b.stage(name, "3")
	b.awaitWhole(id)
	return id
}

// stage makes a volume of so many replicas and stages it.
func (b *bench) stage(name, replicas string) (id string) {
	b.t.Helper()
	id = call(b, b.controlling, "CreateVolume", b.controller.CreateVolume, &csi.CreateVolumeRequest{
		Name: name, VolumeCapabilities: []*csi.VolumeCapability{rawBlock}, CapacityRange: &csi.CapacityRange{RequiredBytes: 8 << 20},
		Parameters: map[string]string{volume.ParamReplicas: replicas, volume.ParamReplicaStallBudget: "10s", volume.ParamReplaceAfter: "3s"},
	}).GetVolume().GetVolumeId()
	call(b, b.controlling, "ControllerPublishVolume", b.controller.ControllerPublishVolume, &csi.ControllerPublishVolumeRequest{VolumeId: id, NodeId: host, VolumeCapability: rawBlock})
	call(b, b.using, "NodeStageVolume", b.node.NodeStageVolume, &csi.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: filepath.Join(b.Dir, "staging"), VolumeCapability: rawBlock})
	return id
}

// awaitWhole waits until a volume has all its replicas and a standby.
func (b *bench) awaitWhole(id string) {
	b.t.Helper()
	b.await("the volume is whole", func() bool {
		v := b.Record(id)
		return len(v.InState(volume.ReplicaInSync)) == 3 && len(v.Replicas) == 3 && len(v.Retired) == 0 && !v.Assembly.Held && v.Standby != nil && v.Standby.Running &&
			len(v.Standby.Legs) == 3
	})
}

// get asks a process over HTTP.
func (b *bench) get(p *process, path string, ready func(context.Context) error) (code int, body string) {
	b.t.Helper()
	const address = "10.0.0.99:9090"
	listener, err := b.network.Listen("tcp", address)
	b.must(err)
	ctx, cancel := context.WithCancel(b.ctx)
	served := make(chan error, 1)
	go func() { served <- metrics.Serve(ctx, listener, metrics.Handler(p.registry, ready)) }()
	client := &http.Client{Transport: &http.Transport{DialContext: b.network.Dial, DisableKeepAlives: true}}
	resp, err := client.Get("http://" + address + path)
	b.must(err)
	text, err := io.ReadAll(resp.Body)
	b.must(err)
	b.must(resp.Body.Close())
	cancel()
	b.must(<-served)
	return resp.StatusCode, string(text)
}

// family is a metric as it was scraped.
type family struct {
	kind   string
	labels map[string]bool
	// samples are its values by what stands before them.
	samples map[string]string
}

var sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$`)

var labelOfSample = regexp.MustCompile(`([a-z_]+)="(?:[^"\\]|\\.)*"`)

// scrape reads what a process tells in Prometheus' text format.
func (b *bench) scrape(p *process) (map[string]*family, string) {
	b.t.Helper()
	code, body := b.get(p, "/metrics", nil)
	if code != http.StatusOK {
		b.t.Fatalf("%d: %s", code, body)
	}
	families := map[string]*family{}
	var last string
	for line := range strings.Lines(body) {
		line = strings.TrimSuffix(line, "\n")
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(rest, " ")
			last, families[name] = name, &family{kind: kind, labels: map[string]bool{}, samples: map[string]string{}}
			continue
		}
		if strings.HasPrefix(line, "#") {
			continue
		}
		parts := sampleLine.FindStringSubmatch(line)
		if parts == nil || !strings.HasPrefix(parts[1], last) {
			b.t.Fatalf("not a sample of %s: %q", last, line)
		}
		for _, l := range labelOfSample.FindAllStringSubmatch(parts[2], -1) {
			if l[1] != "le" {
				families[last].labels[l[1]] = true
			}
		}
		families[last].samples[strings.TrimSuffix(line, " "+parts[3])] = parts[3]
	}
	return families, body
}

// ours leaves the metrics that are the driver's own.
func ours(families map[string]*family) map[string]*family {
	own := maps.Clone(families)
	maps.DeleteFunc(own, func(name string, _ *family) bool { return !strings.HasPrefix(name, "holdfast_") })
	return own
}
