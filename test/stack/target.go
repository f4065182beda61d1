package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-csi/holdfast/driver"
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
)

// Address is this machine's in StartVM, for the guest and the targets alike (TEST-NET-1, RFC 5737): an SPDK node must be the same to
// everyone. It is on the loopback interface of the network namespace that the tests run in; see Main.
const Address = "192.0.2.1"

// socketsVariable names the environment variable with the JSON-RPC sockets of real targets, separated by commas.
const socketsVariable = "SPDK_RPC_SOCK"

// restartDelay is what a supervisor takes to start a process again that has crashed.
const restartDelay = 2 * time.Second

// Target is one SPDK node.
type Target struct {
	Name string
	// Socket is its JSON-RPC socket, NVMf the IP:port of its NVMe/TCP target.
	Socket, NVMf string

	control control
	// crashes counts how often its process ended by itself, and was started again.
	crashes atomic.Int64
	// rpc cuts its JSON-RPC off from the driver, or joins it again; nil before there is a driver.
	rpc func(cut bool) error

	mu      sync.Mutex
	meant   bool // to be down
	present map[Fault]bool
}

// Fault is something that is wrong with a target until it is ended.
type Fault string

// Faults. A killed process keeps its disk; a hung one has a kernel that still answers TCP; a node that is cut off answers nobody, on
// no port; a slow link delays what is sent over it, both ways; a hung disk answers no I/O while the process lives.
const (
	Killed   Fault = "killed"
	Hung     Fault = "hung"
	Cut      Fault = "cut"
	Slow     Fault = "slow"
	DiskHung Fault = "disk-hung"
)

// control does it. A fault that is there, or is not, may be set so again.
type control interface {
	set(ctx context.Context, f Fault, on bool) error
	// alive says whether the process is there, stopped or not.
	alive(ctx context.Context) bool
	describe() string
}

// Set begins or ends a fault.
func (t *Target) Set(ctx context.Context, f Fault, on bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.setLocked(ctx, f, on)
}

func (t *Target) setLocked(ctx context.Context, f Fault, on bool) error {
	if t.present[f] == on {
		return nil
	}
	err := t.control.set(ctx, f, on)
	if f == Cut && t.rpc != nil {
		err = errors.Join(err, t.rpc(on))
	}
	if err != nil {
		return fmt.Errorf("%s of SPDK node %s, to be %t: %w", f, t.Name, on, err)
	}
	if f == Killed {
		t.meant = on
		delete(t.present, Hung) // what is stopped ends with the process
	}
	t.present[f] = on
	return nil
}

// Heal ends every fault.
func (t *Target) Heal(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, f := range []Fault{Cut, Slow, DiskHung, Hung, Killed} {
		errs = append(errs, t.setLocked(ctx, f, false))
	}
	return errors.Join(errs...)
}

// Simulated says whether the targets are.
func (s *Stack) Simulated() bool { return os.Getenv(socketsVariable) == "" }

// Crashes counts how often processes of targets have ended by themselves since it was last asked.
func (s *Stack) Crashes() (n int64) {
	for _, t := range s.Targets {
		n += t.crashes.Swap(0)
	}
	return n
}

// Describe says what target it is.
func (t *Target) Describe() string { return t.control.describe() }

// Call makes one JSON-RPC call, past gateways and the driver.
func (t *Target) Call(ctx context.Context, method string, params, result any) error {
	client, err := spdk.Dial("unix://"+t.Socket, spdk.Options{CallTimeout: timeouts.RPC})
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Call(ctx, method, params, result)
}

// Do makes operations on the node, past gateways and the driver.
func (t *Target) Do(f func(node *spdk.Node) error) error {
	client, err := spdk.Dial("unix://"+t.Socket, spdk.Options{CallTimeout: timeouts.RPC})
	if err != nil {
		return err
	}
	defer client.Close()
	return f(spdk.NewNode(t.Name, client))
}

// startTargets makes simulated SPDK nodes, or takes the real ones that SPDK_RPC_SOCK names, and sees to it that a process that
// crashes is started again.
func (s *Stack) startTargets(ctx context.Context) error {
	var err error
	if real := os.Getenv(socketsVariable); real != "" {
		err = s.takeReal(strings.Split(real, ","))
	} else {
		err = s.simulate()
	}
	if err != nil {
		return err
	}
	guarding, stop := context.WithCancel(context.WithoutCancel(ctx))
	for _, t := range s.Targets {
		s.nodes = append(s.nodes, driver.NodeConfig{Name: t.Name, RPC: "unix://" + t.Socket, NVMf: t.NVMf})
		s.guards.Go(func() { t.guard(guarding) })
	}
	s.onClose(func() {
		stop()
		s.guards.Wait()
	})
	return nil
}

// guard starts the process again whenever it ends without being meant to.
func (t *Target) guard(ctx context.Context) {
	ticker := time.NewTicker(restartDelay)
	defer ticker.Stop()
	for gone := false; ; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		t.mu.Lock()
		crashed := !t.meant && !t.control.alive(ctx)
		if crashed && gone {
			t.crashes.Add(1)
			if err := t.control.set(ctx, Killed, false); err != nil {
				fmt.Fprintf(os.Stderr, "SPDK node %s has crashed and can't be started again: %v\n", t.Name, err)
			}
		}
		gone = crashed
		t.mu.Unlock()
	}
}

func freePort(ip string) (int, error) {
	l, err := net.Listen("tcp", ip+":0")
	if err != nil {
		return 0, fmt.Errorf("find a free port (see Main for the address): %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// freeAddress returns an IP:port where nothing listens.
func freeAddress(ip string) (string, error) {
	port, err := freePort(ip)
	return fmt.Sprintf("%s:%d", ip, port), err
}
