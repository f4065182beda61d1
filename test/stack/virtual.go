package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/holdfast-csi/holdfast/test/vm"
	"github.com/holdfast-csi/holdfast/test/vm/agent"
)

const (
	nodeSocket  = "/run/holdfast/node.sock"
	guestBinary = "/usr/local/bin/holdfast"
	guestConfig = "/etc/holdfast"
)

// NodeState is the directory in the guest where the node service keeps what it has attached.
const NodeState = "/var/lib/holdfast/node"

// VM is a stack whose host is a Linux kernel in a virtual machine, with the node service as a process there. Controller and
// gateways are processes on this machine; between all of them is mutual TLS. The controller's process serves the store.
type VM struct {
	*Stack
	Machine           *vm.VM
	ControllerProcess *Process

	storePort int
	mu        sync.Mutex
	service   *agent.Process // the node service; nil while it does not run
}

// StartVM starts it. The tests must run in a network namespace that has Address; see Main.
func StartVM(ctx context.Context, o Options) (*VM, error) {
	s, err := StartGateways(ctx, o)
	if err != nil {
		return nil, err
	}
	v := &VM{Stack: s}
	for _, step := range []func(context.Context) error{v.startController, v.boot, v.startNode} {
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
	v.Controller = csi.NewControllerClient(conn)
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

func (v *VM) boot(ctx context.Context) error {
	machine, err := vm.Start(ctx, vm.Config{Kernel: v.options.Kernel, MemoryMiB: 768, Files: map[string]string{guestBinary: v.Binary()}})
	if err != nil {
		return err
	}
	v.Machine, v.Host = machine, guest{machine}
	v.onClose(func() { _ = machine.Close() })
	_, body, err := v.config(guestConfig)
	if err != nil {
		return err
	}
	files := map[string][]byte{guestConfig + "/config.yaml": body, "/etc/machine-id": []byte("e2e\n")}
	for _, name := range []string{"tls.crt", "tls.key", "ca.crt", "secret"} {
		if files[guestConfig+"/"+name], err = os.ReadFile(v.path(name)); err != nil {
			return err
		}
	}
	for path, body := range files {
		if err := machine.WriteFile(ctx, path, body, 0o600); err != nil {
			return err
		}
	}
	_, err = v.Guest(ctx, "mkdir -p /run/holdfast /mnt && ip route add default via "+vm.HostAddress)
	return err
}

func (v *VM) startNode(ctx context.Context) error {
	if err := v.StartNode(ctx); err != nil {
		return err
	}
	conn, err := v.connect(ctx, "passthrough:///guest", v.NodeDialer())
	v.Node = csi.NewNodeClient(conn)
	return err
}

// SecretFile is the guest's file with what keys derive from, which the node service reads when it starts.
const SecretFile = guestConfig + "/secret"

// NodeDialer dials the node service inside the guest.
func (v *VM) NodeDialer() grpc.DialOption {
	return grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return v.Machine.DialContext(ctx, "unix", nodeSocket)
	})
}

// ControllerEndpoint is where the controller serves CSI.
func (v *VM) ControllerEndpoint() string { return v.path("c.sock") }

// StartNode starts the node service, unless it runs.
func (v *VM) StartNode(ctx context.Context) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.service != nil {
		return nil
	}
	log, err := v.log("node")
	if err != nil {
		return err
	}
	v.service, err = v.Machine.Start(context.WithoutCancel(ctx), agent.Command{Args: []string{
		guestBinary, "node", "--node-id", NodeName, "--endpoint", "unix://" + nodeSocket, "--store", v.storeAddress(), "-v", "2",
		"--key-slot-memory", "1", // what takes half a second takes minutes in software emulation
	}}, agent.Streams{Stdout: log, Stderr: log})
	return err
}

// KillNode ends the node service as SIGKILL does, and returns when it is gone. One that waits in the kernel for I/O goes no sooner.
func (v *VM) KillNode(ctx context.Context) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.service == nil {
		return nil
	}
	if err := v.service.Signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill the node service: %w", err)
	}
	select {
	case <-v.service.Done():
	case <-ctx.Done():
		return fmt.Errorf("the node service is not gone after SIGKILL: %w", context.Cause(ctx))
	}
	v.service = nil
	return nil
}

// Guest runs a shell command in the guest, which must succeed, and returns what it prints.
func (v *VM) Guest(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	out, err := v.Machine.Output(ctx, "sh", "-ec", command)
	return strings.TrimSpace(out), err
}

// LeftInGuest says what of volumes is left in the guest.
func (v *VM) LeftInGuest(ctx context.Context) error {
	var errs []error
	for what, command := range map[string]string{
		"controllers": "ls /sys/class/nvme 2>/dev/null || true", "mounts": "grep /mnt/ /proc/self/mountinfo || true",
		"mappings": "cat /sys/class/block/dm-*/dm/name 2>/dev/null || true", "state": "ls " + NodeState,
	} {
		left, err := v.Guest(ctx, command)
		if err == nil && left != "" {
			err = fmt.Errorf("%s are left in the guest: %s", what, left)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// guest is the virtual machine as a Host.
type guest struct{ machine *vm.VM }

func (g guest) Path(name string) string { return "/mnt/" + name }

func (g guest) MakeDir(ctx context.Context, path string) error {
	_, err := g.machine.Output(ctx, "mkdir", "-p", path)
	return err
}

func (g guest) OpenLoad(ctx context.Context, path string, blocks int) (Load, error) {
	return g.machine.OpenLoad(ctx, agent.LoadSpec{Path: path, Blocks: blocks})
}

func (g guest) Describe(ctx context.Context) (string, error) {
	release, err := g.machine.Output(ctx, "uname", "-r")
	return "Linux " + strings.TrimSpace(release) + " in a virtual machine", err
}
