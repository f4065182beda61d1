// Package cluster runs a Kubernetes cluster of Kubernetes' own programs for tests, with the driver in it as the chart installs it: etcd, API
// server, controller manager, scheduler and snapshot controller are processes on this machine, each worker is a virtual machine with Debian's
// containerd and a kubelet, and the SPDK nodes are simulated on this machine, behind their gateways.
//
// There is neither registry nor network. Images are made by hand and are on the workers' disk from the beginning. All addresses are in a
// network namespace of the tests' own, so that a guest, which reaches the machine by QEMU's user network, finds the API server at the address
// of its Service, and the API server finds kubelets at theirs.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/stack"
	"github.com/holdfast-csi/holdfast/test/vm"
)

const (
	// serviceIP is the API server's as pods are told it: the first of the range of Services. The API server listens there itself.
	serviceIP    = "10.96.0.1"
	serviceRange = "10.96.0.0/24"
	serverURL    = "https://" + serviceIP + ":443"
	// Namespace is where the driver is.
	Namespace = "holdfast"
	// Registry is what the images' names begin with.
	Registry = "cluster.test"
	// upLimit is for each part of the cluster to be ready, in software emulation on a busy machine.
	upLimit = 30 * time.Minute
	// look is how often something is looked at that is waited for.
	look = time.Second
)

// workerAddress is the address of a worker, from 1. Every worker is in a network of its own.
func workerAddress(number int) string { return fmt.Sprintf("10.99.%d.11", number) }

// workerName is a worker's name as a Node.
func workerName(number int) string { return fmt.Sprintf("worker-%d", number) }

// mostWorkers is how many workers the namespace has addresses for.
const mostWorkers = 3

// Main runs a program's tests in a network namespace of their own, and returns the exit status. The machine's end of a connection to a worker
// is 127.0.0.1, which QEMU turns into an address of the guest's network: with the worker's own address the guest would answer itself.
func Main(m *testing.M) int {
	setup := []string{"ip address add " + serviceIP + "/32 dev lo"}
	for number := 1; number <= mostWorkers; number++ {
		setup = append(setup, "ip route replace local "+workerAddress(number)+" dev lo table local src 127.0.0.1")
	}
	return stack.Main(m, setup...)
}

// Options say what cluster to start.
type Options struct {
	// Workers is how many machines there are for pods. With none the driver is installed by InstallBeside.
	Workers int
	// Logs is the directory for the logs of all processes, pods and guests.
	Logs string
}

// Cluster is a cluster that runs, with the driver in it.
type Cluster struct {
	// SPDK are the SPDK nodes.
	SPDK    *stack.Stack
	Workers []*Worker

	options   Options
	binaries  string // directory of Kubernetes' programs
	source    string // directory of the module
	authority *authority

	apiserver *stack.Process
	others    []*stack.Process
}

// Start starts a cluster and returns when all workers are Ready. Close ends it, also when Start has failed.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	c := &Cluster{options: o}
	type step struct {
		name string
		run  func(context.Context) error
	}
	steps := []step{{"look for programs", c.find}, {"start the SPDK nodes", c.startSPDK}, {"start the control plane", c.startControlPlane}}
	if o.Workers > 0 {
		steps = append(steps, step{"make the workers' disk", c.makeDisk}, step{"start the workers", c.startWorkers})
	}
	for _, step := range steps {
		begin := time.Now()
		if err := step.run(ctx); err != nil {
			return c, fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Fprintf(os.Stderr, "cluster: %s: %.0f s\n", step.name, time.Since(begin).Seconds())
	}
	return c, nil
}

// find looks for what must have been built.
func (c *Cluster) find(context.Context) error {
	var err error
	if c.source, err = vm.ModuleRoot(); err != nil {
		return err
	}
	c.binaries = filepath.Join(c.source, ".cache/kubernetes")
	needed := slices.Concat(programs, []string{"csi-provisioner", "crds"})
	if c.options.Workers > 0 {
		needed = slices.Concat(needed, forPods, sidecars)
	}
	for _, program := range needed {
		if _, err := os.Stat(filepath.Join(c.binaries, program)); err != nil {
			return fmt.Errorf("%w: test/kubernetes/binaries/build makes it", err)
		}
	}
	return nil
}

// programs are what test/kubernetes/binaries/build makes for every cluster, forPods what a cluster with workers has besides; and its sidecars.
var (
	programs = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kubectl"}
	forPods  = []string{"kube-scheduler", "kubelet", "snapshot-controller"}
)

func (c *Cluster) startSPDK(ctx context.Context) error {
	var err error
	if c.SPDK, err = stack.StartGateways(ctx, stack.Options{Logs: c.options.Logs}); err != nil {
		return err
	}
	return os.Mkdir(c.path(""), 0o700)
}

// Close ends the cluster. Processes that would wait for others to end are killed first.
func (c *Cluster) Close() error {
	var errs []error
	for _, w := range c.Workers {
		errs = append(errs, w.close())
	}
	for i := len(c.others) - 1; i >= 0; i-- {
		c.others[i].Kill()
	}
	if c.SPDK != nil {
		c.SPDK.Close()
	}
	return errors.Join(errs...)
}

// path is of a file that ends with the cluster.
func (c *Cluster) path(name string) string { return filepath.Join(c.SPDK.Dir, "cluster", name) }

// Kubectl runs kubectl as the cluster's administrator and returns what it prints; input is its standard input.
func (c *Cluster) Kubectl(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.binaries, "kubectl"), append([]string{"--kubeconfig", c.path("admin.kubeconfig")}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	var out, messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &messages
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, messages.String())
	}
	return out.String(), nil
}

// Await runs kubectl again and again until done says that what it prints is right, and returns that.
func (c *Cluster) Await(ctx context.Context, done func(output string) bool, args ...string) (string, error) {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		out, err := c.Kubectl(ctx, "", args...)
		if err == nil && done(out) {
			return out, nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return out, errors.Join(fmt.Errorf("wait for kubectl %s: %w; it last printed %q", strings.Join(args, " "), context.Cause(ctx), out), err)
		}
	}
}

// each runs f for every worker at once.
func (c *Cluster) each(f func(w *Worker) error) error {
	errs := make([]error, len(c.Workers))
	var wg sync.WaitGroup
	for i, w := range c.Workers {
		wg.Go(func() { errs[i] = f(w) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
