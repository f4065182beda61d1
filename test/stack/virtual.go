package stack

import (
	"context"
	"fmt"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// VM is a stack whose hosts are Linux kernels in virtual machines, each with a node service as a process there. Controller and
// gateways are processes on this machine; between all of them is mutual TLS. The controller's process serves the store.
type VM struct {
	*Stack
	*Worker           // NodeName, which is there from the beginning
	ControllerProcess *Process

	storePort int
}

// StartVM starts it. The tests must run in a network namespace that has Address; see Main.
func StartVM(ctx context.Context, o Options) (*VM, error) {
	s, err := StartGateways(ctx, o)
	if err != nil {
		return nil, err
	}
	v := &VM{Stack: s}
	for _, step := range []func(context.Context) error{v.startController, v.startFirst} {
		if err := step(ctx); err != nil {
			return nil, s.abandon(err)
		}
	}
	return v, nil
}

func (v *VM) startController(ctx context.Context) error {
	config, body, err := v.config(v.Dir)
	if err != nil {
		return err
	}
	if err := os.WriteFile(v.path("config.yaml"), body, 0o600); err != nil {
		return err
	}
	if v.storePort, err = freePort(v.ip); err != nil {
		return err
	}
	v.ControllerProcess = v.NewProcess("controller", v.Binary(), "controller", "--config", v.path("config.yaml"), "--endpoint", "unix://"+v.path("c.sock"),
		"--store", "bolt://"+v.path("volumes.db"), "--serve-store", v.storeAddress(), "-v", "2")
	if err := v.ControllerProcess.Start(); err != nil {
		return err
	}
	store, closeStore, err := config.OpenStore(v.storeAddress())
	if err != nil {
		return err
	}
	v.Store = store
	v.onClose(closeStore)
	conn, err := v.connect(ctx, "unix://"+v.path("c.sock"))
	v.Controller, v.Groups = csi.NewControllerClient(conn), csi.NewGroupControllerClient(conn)
	return err
}

func (v *VM) storeAddress() string { return fmt.Sprintf("tls://%s:%d", v.ip, v.storePort) }

// connect connects to a service and waits until it is ready.
func (s *Stack) connect(ctx context.Context, target string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	conn, err := grpc.NewClient(target, options...)
	if err != nil {
		return nil, err
	}
	s.onClose(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	if _, err := csi.NewIdentityClient(conn).Probe(ctx, &csi.ProbeRequest{}); err != nil {
		return conn, fmt.Errorf("wait for the service at %s: %w", target, err)
	}
	return conn, nil
}

func (v *VM) startFirst(ctx context.Context) error {
	var err error
	if v.Worker, err = v.StartWorker(ctx, NodeName); err == nil {
		v.Node, v.Host = v.Service, guest{v.Machine}
	}
	return err
}

// ControllerEndpoint is where the controller serves CSI.
func (v *VM) ControllerEndpoint() string { return v.path("c.sock") }
