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

	"github.com/holdfast-csi/holdfast/test/vm"
	"github.com/holdfast-csi/holdfast/test/vm/agent"
)

const (
	nodeSocket  = "/run/holdfast/node.sock"
	guestBinary = "/usr/local/bin/holdfast"
	guestConfig = "/etc/holdfast"
)

// SecretFile is the guest's file with what keys derive from, which the node service reads when it starts.
const SecretFile = guestConfig + "/secret"

// NodeState is the directory in the guest where the node service keeps what it has attached.
const NodeState = "/var/lib/holdfast/node"

// Worker is a virtual machine with a Linux kernel, and a node service as a process there: a CSI node.
type Worker struct {
	// Name is the CSI node's.
	Name    string
	Machine *vm.VM
	// Service is the CO's connection to the node service; its calls wait until that is there.
	Service csi.NodeClient

	vm      *VM
	mu      sync.Mutex
	process *agent.Process // the node service; nil while it does not run
}

// StartWorker starts a machine of that name. Its network is its own, from where it reaches this machine as any other does. It ends with
// the stack, or before with PowerOff.
func (v *VM) StartWorker(ctx context.Context, name string) (*Worker, error) {
	w := &Worker{Name: name, vm: v}
	if err := w.boot(ctx); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := w.StartNode(ctx); err != nil {
		return nil, fmt.Errorf("start the node service of %s: %w", name, err)
	}
	conn, err := v.connect(ctx, "passthrough:///"+name, w.NodeDialer())
	w.Service = csi.NewNodeClient(conn)
	return w, err
}

func (w *Worker) boot(ctx context.Context) error {
	var err error
	if w.Machine, err = vm.Start(ctx, vm.Config{Kernel: w.vm.options.Kernel, MemoryMiB: 768, Files: map[string]string{guestBinary: w.vm.Binary()}}); err != nil {
		return err
	}
	w.vm.onClose(func() { _ = w.PowerOff() })
	_, body, err := w.vm.config(guestConfig)
	if err != nil {
		return err
	}
	files := map[string][]byte{guestConfig + "/config.yaml": body, "/etc/machine-id": []byte(w.Name + "\n")}
	for _, name := range []string{"tls.crt", "tls.key", "ca.crt", "secret"} {
		if files[guestConfig+"/"+name], err = os.ReadFile(w.vm.path(name)); err != nil {
			return err
		}
	}
	for path, body := range files {
		if err := w.Machine.WriteFile(ctx, path, body, 0o600); err != nil {
			return err
		}
	}
	_, err = w.Guest(ctx, "mkdir -p /run/holdfast /mnt && ip route add default via "+vm.HostAddress)
	return err
}

// PowerOff ends the machine as a power cut does.
func (w *Worker) PowerOff() error { return w.Machine.Close() }

// NodeDialer dials the node service inside the guest.
func (w *Worker) NodeDialer() grpc.DialOption {
	return grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return w.Machine.DialContext(ctx, "unix", nodeSocket)
	})
}

// StartNode starts the node service, unless it runs.
func (w *Worker) StartNode(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.process != nil {
		return nil
	}
	log, err := w.vm.log("node-" + w.Name)
	if err != nil {
		return err
	}
	w.process, err = w.Machine.Start(context.WithoutCancel(ctx), agent.Command{Args: []string{
		guestBinary, "node", "--node-id", w.Name, "--endpoint", "unix://" + nodeSocket, "--store", w.vm.storeAddress(), "-v", "2",
		"--key-slot-memory", "1", // what takes half a second takes minutes in software emulation
	}}, agent.Streams{Stdout: log, Stderr: log})
	return err
}

// KillNode ends the node service as SIGKILL does, and returns when it is gone. One that waits in the kernel for I/O goes no sooner.
func (w *Worker) KillNode(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.process == nil {
		return nil
	}
	if err := w.process.Signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill the node service: %w", err)
	}
	select {
	case <-w.process.Done():
	case <-ctx.Done():
		return fmt.Errorf("the node service is not gone after SIGKILL: %w", context.Cause(ctx))
	}
	w.process = nil
	return nil
}

// Guest runs a shell command in the guest, which must succeed, and returns what it prints.
func (w *Worker) Guest(ctx context.Context, command string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	out, err := w.Machine.Output(ctx, "sh", "-ec", command)
	return strings.TrimSpace(out), err
}

// LeftInGuest says what of volumes is left in the guest.
func (w *Worker) LeftInGuest(ctx context.Context) error {
	var errs []error
	for what, command := range map[string]string{
		"controllers": "ls /sys/class/nvme 2>/dev/null || true", "mounts": "grep /mnt/ /proc/self/mountinfo || true",
		"mappings": "cat /sys/class/block/dm-*/dm/name 2>/dev/null || true", "state": "ls " + NodeState,
	} {
		left, err := w.Guest(ctx, command)
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
