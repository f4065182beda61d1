package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/driver"
	"github.com/holdfast-csi/holdfast/node"
	mounts "github.com/holdfast-csi/holdfast/node/mount"
	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// lone names, in the environment, the directory of a fleet: this process is then its node service and nothing else.
const lone = "HOLDFAST_BENCH_NODE"

// TestMain is the node service whose idle cost is measured where a benchmark started this program for that.
func TestMain(m *testing.M) {
	if dir := os.Getenv(lone); dir != "" {
		if err := runLone(dir); err != nil {
			fmt.Fprintln(os.Stderr, "node service:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// runLone is what holdfast node does, without its gRPC server and with another sysfs.
func runLone(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	config, err := driver.LoadConfig(filepath.Join(dir, "config.yaml"))
	if err != nil {
		return err
	}
	cluster, closeCluster, err := config.Cluster(nil)
	if err != nil {
		return err
	}
	defer closeCluster()
	store, closeStore, err := config.OpenStore(storeAddress(dir))
	if err != nil {
		return err
	}
	defer closeStore()
	mounter := mounts.New(mounts.Options{})
	server, err := node.New(node.Options{
		Name: user, Store: store, Cluster: cluster, Fabrics: nvmeof.New(nvmeof.Options{SysRoot: filepath.Join(dir, "sys"), DevRoot: filepath.Join(dir, "dev")}),
		FileSystems: mounter, Encryption: mounter, Mounts: mounter, StateDir: filepath.Join(dir, "state"), Clock: clock.RealClock{},
	})
	if err != nil {
		return err
	}
	return server.Watch(ctx)
}

func storeAddress(dir string) string { return "unix://" + filepath.Join(dir, "store.sock") }

// BenchmarkIdleNodeService measures what a node service costs that has many healthy volumes staged: calls to each SPDK node, and its own
// processor time. It is a process of its own with real connections to the nodes and to the store; NVMe controllers, which are the kernel's
// on a real machine, are files here that say what a kernel's sysfs would.
func BenchmarkIdleNodeService(b *testing.B) {
	f := newFleet(b)
	f.stopWatch()
	f.writeSysfs()
	config, err := json.Marshal(f.Config)
	must(b, err)
	must(b, os.WriteFile(filepath.Join(f.Dir, "config.yaml"), config, 0o600))
	ctx, cancel := context.WithCancel(f.ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := f.Config.ServeStore(ctx, storeAddress(f.Dir), f.Store); err != nil {
			b.Error(err)
		}
	})
	defer wg.Wait()
	defer cancel()
	process := exec.CommandContext(b.Context(), os.Args[0])
	process.Env, process.Stderr = append(os.Environ(), lone+"="+f.Dir), os.Stderr
	must(b, process.Start())
	defer func() {
		_ = process.Process.Signal(os.Interrupt)
		_ = process.Wait()
	}()
	f.await("rest of the node service", func() bool {
		before := f.calls()
		time.Sleep(5 * time.Second)
		return f.calls() > before && f.calls()-before <= 2*11*3 // two calls a look, and one look more than fits into the time
	})
	const window = 20 * time.Second
	for b.Loop() {
		before, cpu, begin := f.callsByNode(), cpuTime(b, process.Process.Pid), time.Now()
		time.Sleep(window)
		after, took := f.callsByNode(), time.Since(begin).Seconds()
		b.ReportMetric(100*(cpuTime(b, process.Process.Pid)-cpu).Seconds()/took, "%-of-a-core")
		for name, n := range after {
			b.ReportMetric(float64(n-before[name])/took, "calls/s-"+name)
		}
		b.ReportMetric(float64(memory(b, process.Process.Pid, "VmRSS"))/1024, "MiB-rss")
	}
}

func (f *fleet) callsByNode() map[string]int {
	found := map[string]int{}
	for _, s := range f.Sims {
		for _, n := range s.Calls() {
			found[s.Name()] += n
		}
	}
	return found
}

// writeSysfs writes what the kernel would show of the machine's controllers.
func (f *fleet) writeSysfs() {
	f.b.Helper()
	write := func(body string, path ...string) {
		name := filepath.Join(append([]string{f.Dir, "sys"}, path...)...)
		must(f.b, os.MkdirAll(filepath.Dir(name), 0o700))
		must(f.b, os.WriteFile(name, []byte(body+"\n"), 0o600))
	}
	write("Y", "module", "nvme_core", "parameters", "multipath")
	number := 0
	for _, v := range f.records() {
		paths, err := f.machine.Paths(f.ctx, v.NQN())
		must(f.b, err)
		for _, p := range paths {
			dir := filepath.Join("class", "nvme", fmt.Sprint("nvme", number))
			host, port, _ := strings.Cut(p.Address, ":")
			for attr, value := range map[string]string{
				"transport": "tcp", "subsysnqn": v.NQN(), "address": "traddr=" + host + ",trsvcid=" + port, "state": p.State, "cntlid": strconv.Itoa(p.CNTLID),
				"hostnqn": volume.HostNQN(user), "hostid": volume.HostID(volume.HostNQN(user)).String(),
			} {
				write(value, dir, attr)
			}
			ns := filepath.Join(dir, fmt.Sprintf("nvme%dc%dn1", number, number))
			for attr, value := range map[string]string{"uuid": v.UUID.String(), "nsid": "1", "ana_state": p.ANAState} {
				write(value, ns, attr)
			}
			number++
		}
	}
}

// cpuTime is what a process has used of processors, in user and kernel mode (proc_pid_stat(5), fields 14 and 15, in units of 10 ms).
func cpuTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	body, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(b, err)
	fields := strings.Fields(string(body[strings.LastIndexByte(string(body), ')')+1:]))
	var ticks int
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		must(b, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
