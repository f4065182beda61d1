// Package bench measures the driver; docs/performance.md has the figures. Nothing here asserts a time.
package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/controller"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/bolt"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/storetest"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

var mount = &csi.VolumeCapability{
	AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
}

func newController(b *testing.B, c *cluster.Cluster) *controller.Server {
	b.Helper()
	s, err := controller.New(b.Context(), controller.Options{Store: c.Store, Cluster: c.Cluster, Clock: clock.RealClock{}, ThinOvercommit: 100})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

func request(name string, replicas int) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name: name, VolumeCapabilities: []*csi.VolumeCapability{mount}, CapacityRange: &csi.CapacityRange{RequiredBytes: 64 << 20},
		Parameters: map[string]string{volume.ParamReplicas: strconv.Itoa(replicas)},
	}
}

// BenchmarkCreateVolume compares one replica with three, on nodes that take 1 ms for each call.
func BenchmarkCreateVolume(b *testing.B) {
	for _, replicas := range []int{1, 3} {
		b.Run(fmt.Sprintf("replicas=%d", replicas), func(b *testing.B) {
			c := cluster.New(b, 3, cluster.Options{RPCLatency: time.Millisecond})
			s := newController(b, c)
			const volumes = 50
			var took []time.Duration
			for b.Loop() {
				for i := range volumes {
					begin := time.Now()
					if _, err := s.CreateVolume(b.Context(), request(fmt.Sprintf("%d-%d", i, len(took)), replicas)); err != nil {
						b.Fatal(err)
					}
					took = append(took, time.Since(begin))
				}
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-median")
		})
	}
}

// BenchmarkThousandVolumes creates 1,000 volumes of three replicas by 32 callers.
func BenchmarkThousandVolumes(b *testing.B) {
	c := cluster.New(b, 3, cluster.Options{RPCLatency: time.Millisecond})
	s := newController(b, c)
	const volumes, callers = 1000, 32
	for b.Loop() {
		begin := time.Now()
		names := make(chan string)
		var wg sync.WaitGroup
		var mu sync.Mutex
		failed := 0
		for range callers {
			wg.Go(func() {
				for name := range names {
					if _, err := s.CreateVolume(context.Background(), request(name, 3)); err != nil {
						mu.Lock()
						failed++
						mu.Unlock()
						b.Log(err)
					}
				}
			})
		}
		for i := range volumes {
			names <- fmt.Sprint("volume-", i)
		}
		close(names)
		wg.Wait()
		b.ReportMetric(float64(failed), "errors")
		b.ReportMetric(time.Since(begin).Seconds(), "s-all")
	}
}

// BenchmarkCallsToSPDK counts the calls to SPDK that each controller call makes, all nodes together.
func BenchmarkCallsToSPDK(b *testing.B) {
	c := cluster.New(b, 3, cluster.Options{})
	c.RegisterHosts("n1")
	s := newController(b, c)
	count := func(name string, call func() error) {
		before := calls(c)
		if err := call(); err != nil {
			b.Fatal(name, err)
		}
		b.ReportMetric(float64(calls(c)-before), name)
	}
	for b.Loop() {
		if _, err := s.GetCapacity(b.Context(), &csi.GetCapacityRequest{}); err != nil {
			b.Fatal(err)
		}
		var id string
		count("create", func() error {
			resp, err := s.CreateVolume(b.Context(), request("v", 3))
			id = resp.GetVolume().GetVolumeId()
			return err
		})
		publish := &csi.ControllerPublishVolumeRequest{VolumeId: id, NodeId: "n1", VolumeCapability: mount}
		count("publish", func() error { _, err := s.ControllerPublishVolume(b.Context(), publish); return err })
		count("publish-again", func() error { _, err := s.ControllerPublishVolume(b.Context(), publish); return err })
		count("unpublish", func() error {
			_, err := s.ControllerUnpublishVolume(b.Context(), &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: "n1"})
			return err
		})
		count("delete", func() error {
			_, err := s.DeleteVolume(b.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
			return err
		})
	}
}

func calls(c *cluster.Cluster) int {
	total := 0
	for _, node := range c.Sims {
		for _, n := range node.Calls() {
			total += n
		}
	}
	return total
}

// BenchmarkTenThousandVolumes runs the controller's own process with 10,000 volumes on record: its memory, and a list of all.
func BenchmarkTenThousandVolumes(b *testing.B) {
	dir := b.TempDir()
	fill(b, filepath.Join(dir, "volumes.db"), 10_000)
	binary := filepath.Join(dir, "holdfast")
	run(b, "go", "build", "-o", binary, "github.com/holdfast-csi/holdfast/cmd/holdfast")
	config := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(config, []byte(`nodes: [{name: a, rpc: "unix:///absent", nvmf: "127.0.0.1:4420"}]`), 0o600); err != nil {
		b.Fatal(err)
	}
	socket := filepath.Join(dir, "csi.sock")
	process := exec.CommandContext(b.Context(), binary, "controller", "--config", config, "--endpoint", "unix://"+socket, "--store", "bolt://"+filepath.Join(dir, "volumes.db"))
	process.Stderr = os.Stderr
	if err := process.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() {
		_ = process.Process.Signal(os.Interrupt)
		_ = process.Wait()
	}()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	client := csi.NewControllerClient(conn)
	if _, err := client.ControllerGetCapabilities(b.Context(), &csi.ControllerGetCapabilitiesRequest{}, grpc.WaitForReady(true)); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		begin := time.Now()
		resp, err := client.ListVolumes(b.Context(), &csi.ListVolumesRequest{})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(begin).Milliseconds()), "ms-list")
		b.ReportMetric(float64(len(resp.GetEntries())), "volumes")
		b.ReportMetric(float64(memory(b, process.Process.Pid, "VmRSS"))/1024, "MiB-rss")
		b.ReportMetric(float64(memory(b, process.Process.Pid, "RssAnon"))/1024, "MiB-anonymous")
	}
}

// fill writes records as a controller would have.
func fill(b *testing.B, path string, n int) {
	store, err := bolt.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	work := make(chan int)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for i := range work {
				if err := store.Create(b.Context(), storetest.Volume(fmt.Sprint("volume-", i))); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
}

// memory reads a line of /proc/PID/status, in KiB.
func memory(b *testing.B, pid int, key string) int {
	b.Helper()
	body, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatalf("no %s", key)
	return 0
}

func run(b *testing.B, name string, args ...string) {
	b.Helper()
	if out, err := exec.CommandContext(b.Context(), name, args...).CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", name, err, out)
	}
}
