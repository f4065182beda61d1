package cluster

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/holdfast-csi/holdfast/test/vm"
	"github.com/holdfast-csi/holdfast/test/vm/agent"
)

const containerdConfig = `version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + pauseImage + `"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "/etc/cni/net.d"
`

// kubeletConfig leaves the guest's cgroups to kubelet, as there is no systemd; nothing is evicted for what the machine's disk has.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: /etc/kubernetes/pki/kubelet.crt
tlsPrivateKeyFile: /etc/kubernetes/pki/kubelet.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
makeIPTablesUtilChains: false
failSwapOn: false
resolvConf: /etc/resolv.conf
runtimeRequestTimeout: 10m
nodeLeaseDurationSeconds: 240
imageGCHighThresholdPercent: 100
volumeStatsAggPeriod: 10m
evictionHard: {memory.available: 20Mi}
`

// network is the network of a worker's pods: addresses of the guest's own network, for which the guest answers.
const network = `{"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local",
"ranges": [[{"subnet": "10.99.%[1]d.0/24", "rangeStart": "10.99.%[1]d.100", "rangeEnd": "10.99.%[1]d.250", "gateway": "10.99.%[1]d.254"}]],
"routes": [{"dst": "0.0.0.0/0"}]}}]}`

// kubeletPort is where kubelets serve the API server.
const kubeletPort = 10250

// Worker is a machine for pods.
type Worker struct {
	// Name is that of its Node.
	Name string

	cluster *Cluster
	number  int
	machine *vm.VM
	logs    []io.Closer

	mu      sync.Mutex
	kubelet *agent.Process // nil while it does not run
}

func (c *Cluster) startWorkers(ctx context.Context) error {
	for range c.options.Workers {
		if err := c.prepareWorker(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, upLimit)
	defer cancel()
	return c.each(func(w *Worker) error { return w.boot(ctx) })
}

// AddWorker starts one more worker, and returns when it is Ready and has the driver, which must be installed.
func (c *Cluster) AddWorker(ctx context.Context) (*Worker, error) {
	if err := c.prepareWorker(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, upLimit)
	defer cancel()
	w := c.Workers[len(c.Workers)-1]
	if err := w.boot(ctx); err != nil {
		return nil, err
	}
	return w, w.hasDriver(ctx)
}

// prepareWorker makes what a further worker proves itself with.
func (c *Cluster) prepareWorker() error {
	number := len(c.Workers) + 1
	w := &Worker{Name: workerName(number), cluster: c, number: number}
	if err := c.authority.kubeconfig(w.Name, "system:node:"+w.Name, "system:nodes"); err != nil {
		return err
	}
	if err := c.authority.issue(w.Name+"-server", w.Name, nil, workerAddress(number)); err != nil {
		return err
	}
	c.Workers = append(c.Workers, w)
	return nil
}

// hasDriver returns when the driver is registered with the worker's kubelet.
func (w *Worker) hasDriver(ctx context.Context) error {
	_, err := w.cluster.Await(ctx, func(out string) bool { return strings.Contains(out, "csi.holdfast.dev") },
		"get", "csinode", w.Name, "-o", "jsonpath={.spec.drivers[*].name}")
	return err
}

// Lose ends the machine as a power cut does, for good.
func (w *Worker) Lose() error { return w.close() }

// boot starts the machine with all that is on it, and returns when its Node is Ready.
func (w *Worker) boot(ctx context.Context) error {
	var err error
	w.machine, err = vm.Start(ctx, vm.Config{
		MemoryMiB: 2560, Disk: w.cluster.disk(), Address: workerAddress(w.number), Ports: []int{kubeletPort},
		KernelArgs: []string{"no5lvl"}, // deeper page tables cost software emulation more
	})
	if err != nil {
		return err
	}
	if err := w.configure(ctx); err != nil {
		return err
	}
	if _, err := w.start(ctx, "containerd", "containerd"); err != nil {
		return err
	}
	if _, err := w.Guest(ctx, "until ctr version >/dev/null 2>&1; do sleep 1; done"); err != nil {
		return err
	}
	if err := w.StartKubelet(ctx); err != nil {
		return err
	}
	_, err = w.cluster.Await(ctx, func(out string) bool { return out == "True" },
		"get", "node", w.Name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
	return err
}

func (w *Worker) configure(ctx context.Context) error {
	files := map[string][]byte{
		"/etc/cni/net.d/10-pods.conflist": fmt.Appendf(nil, network, w.number),
		"/etc/machine-id":                 fmt.Appendf(nil, "%032x\n", w.number),
		"/etc/hostname":                   []byte(w.Name + "\n"),
	}
	for path, name := range map[string]string{
		"/etc/kubernetes/kubeconfig": w.Name + ".kubeconfig", "/etc/kubernetes/pki/kubelet.crt": w.Name + "-server.crt",
		"/etc/kubernetes/pki/kubelet.key": w.Name + "-server.key",
	} {
		body, err := readFile(w.cluster.path(name))
		if err != nil {
			return err
		}
		files[path] = body
	}
	for path, body := range files {
		if err := w.machine.WriteFile(ctx, path, body, 0o600); err != nil {
			return err
		}
	}
	_, err := w.Guest(ctx, fmt.Sprintf("hostname %s; ip route add default via 10.99.%d.2; sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.eth0.proxy_arp=1", w.Name, w.number))
	return err
}

// Guest runs a shell command on the worker, which must succeed, and returns what it prints.
func (w *Worker) Guest(ctx context.Context, command string) (string, error) {
	out, err := w.machine.Output(ctx, "sh", "-ec", command)
	return strings.TrimSpace(out), err
}

// start starts a program on the worker that goes on running, with its log on this machine.
func (w *Worker) start(ctx context.Context, name string, args ...string) (*agent.Process, error) {
	log, err := os.OpenFile(filepath.Join(w.cluster.options.Logs, w.Name+"-"+name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", name, err)
	}
	w.logs = append(w.logs, log)
	return w.machine.Start(context.WithoutCancel(ctx), agent.Command{Args: args}, agent.Streams{Stdout: log, Stderr: log})
}

// StartKubelet starts the kubelet, unless it runs.
func (w *Worker) StartKubelet(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.kubelet != nil {
		return nil
	}
	var err error
	w.kubelet, err = w.start(ctx, "kubelet", "kubelet", "--config=/etc/kubernetes/kubelet.yaml", "--kubeconfig=/etc/kubernetes/kubeconfig",
		"--hostname-override="+w.Name, "--node-ip="+workerAddress(w.number),
		"--housekeeping-interval=1m", "--v=1") // statistics are a large part of what an idle kubelet does
	return err
}

// KillKubelet ends the kubelet as SIGKILL does; pods go on.
func (w *Worker) KillKubelet(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.kubelet == nil {
		return nil
	}
	if err := w.kubelet.Signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill the kubelet of %s: %w", w.Name, err)
	}
	select {
	case <-w.kubelet.Done():
	case <-ctx.Done():
		return fmt.Errorf("the kubelet of %s is not gone after SIGKILL: %w", w.Name, context.Cause(ctx))
	}
	w.kubelet = nil
	return nil
}

// close ends the machine, and keeps what its console and kernel have said.
func (w *Worker) close() error {
	if w.machine == nil {
		return nil
	}
	defer func() { w.machine = nil }()
	_ = os.WriteFile(filepath.Join(w.cluster.options.Logs, w.Name+"-console.log"), []byte(w.machine.Console()), 0o644) // the test has its result
	err := w.machine.Close()
	for _, log := range w.logs {
		_ = log.Close()
	}
	return err
}
