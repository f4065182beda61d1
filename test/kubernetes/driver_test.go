package kubernetes_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/utils/clock"
	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/driver"
	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// machine is the CSI node of the tests, which is on the machine of no SPDK node.
const machine = "worker-1"

// patience bounds what is to succeed on a busy machine.
const patience = 2 * time.Minute

// installation is the driver at work: its binary as controller and for an operator's commands, its node service in this process with a machine
// in Go, all of them over simulated SPDK nodes.
type installation struct {
	t    *testing.T
	spdk *cluster.Cluster
	dir  string
	// kubeconfigs of the controller, the node service and the operator.
	asController, asNode, asOperator string

	controller csi.ControllerClient
	node       csi.NodeClient
}

// binary is the driver's.
func (i *installation) binary() string { return filepath.Join(i.dir, "holdfast") }

// source writes a configuration file, and returns the flags with which a process finds it, the records and the SPDK nodes.
func (i *installation) source(nodes string) driver.Source {
	i.t.Helper()
	config := driver.Config{ThinOvercommit: 1}
	if nodes == driver.NodesFromFile {
		config = *i.spdk.Config
	}
	body, err := yaml.Marshal(config)
	must(i.t, err)
	path := filepath.Join(i.dir, nodes+".yaml")
	must(i.t, os.WriteFile(path, body, 0o600))
	return driver.Source{Config: path, Store: driver.StoreKube, SPDKNodes: nodes}
}

func flags(s driver.Source, kubeconfig string) []string {
	return []string{"--config", s.Config, "--store", s.Store, "--spdk-nodes", s.SPDKNodes, "--kubeconfig", kubeconfig}
}

// startController starts a controller, which ends in good order when stop is called, or the test ends.
func (i *installation) startController(name, nodes string) (socket string, stop func()) {
	i.t.Helper()
	socket = filepath.Join(i.dir, name+".sock")
	cmd := exec.Command(i.binary(), append([]string{"controller", "--endpoint", "unix://" + socket, "--leader-election-namespace", namespace}, flags(i.source(nodes), i.asController)...)...)
	log, err := os.Create(filepath.Join(i.dir, name+".log"))
	must(i.t, err)
	cmd.Stdout, cmd.Stderr = log, log
	must(i.t, cmd.Start())
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(os.Interrupt) // it may have ended by itself
		if err := cmd.Wait(); err != nil {
			i.t.Errorf("%s: %v", name, err)
		}
		if body, err := os.ReadFile(log.Name()); err == nil && i.t.Failed() {
			i.t.Logf("%s: ...%s", name, body[max(0, len(body)-4000):])
		}
		_ = log.Close()
	})
	i.t.Cleanup(stop)
	return socket, stop
}

// connect connects to a service and waits until it answers.
func (i *installation) connect(socket string) *grpc.ClientConn {
	i.t.Helper()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	must(i.t, err)
	i.t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(i.t.Context(), patience)
	defer cancel()
	_, err = csi.NewIdentityClient(conn).Probe(ctx, &csi.ProbeRequest{})
	must(i.t, err)
	return conn
}

// startNode starts the node service as cmd/holdfast does, until the test ends.
func (i *installation) startNode() {
	i.t.Helper()
	source := i.source(driver.NodesFromKube)
	source.Kubeconfig, source.Owner = i.asNode, machine
	opened, err := source.Open(i.t.Context())
	must(i.t, err)
	i.t.Cleanup(opened.Close)
	for _, id := range []string{"first", "second"} { // a machine that was replaced
		must(i.t, volume.RegisterHost(i.t.Context(), opened.Store, volume.Host{Name: machine, MachineID: id}))
	}
	m, err := userspace.New(userspace.Options{Dir: filepath.Join(i.dir, "dev")})
	must(i.t, err)
	i.t.Cleanup(m.Close)
	server, err := node.New(node.Options{
		Name: machine, Store: opened.Store, Cluster: opened.Cluster, Fabrics: m, FileSystems: m, Encryption: m, Mounts: m, StateDir: filepath.Join(i.dir, "state"), Clock: clock.RealClock{},
	})
	must(i.t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(i.t.Context()))
	var wg sync.WaitGroup
	i.t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	socket := filepath.Join(i.dir, "node.sock")
	for _, part := range []func() error{
		func() error { return server.Watch(ctx) },
		func() error { return opened.WatchNodes(ctx, clock.RealClock{}) },
		func() error {
			return driver.Serve(ctx, "unix://"+socket, driver.Services{Identity: driver.Identity{WithController: true}, Node: server})
		},
	} {
		wg.Go(func() {
			if err := part(); err != nil {
				i.t.Errorf("the node service: %v", err)
			}
		})
	}
	i.node = csi.NewNodeClient(i.connect(socket))
}

// command runs a command of an operator.
func (i *installation) command(nodes string, words ...string) error {
	i.t.Helper()
	ctx, cancel := context.WithTimeout(i.t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, i.binary(), append(words, flags(i.source(nodes), i.asOperator)...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("holdfast %v: %w\n%s", words, err, out)
	}
	return nil
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		ok, err := holds()
		if ok && err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: that doesn't come about (%v)", what, err)
		case <-again.C:
		}
	}
}
