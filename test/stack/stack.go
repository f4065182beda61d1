// Package stack runs the whole driver for tests: SPDK targets, simulated or real, that can be killed, hung, cut off and slowed; the
// controller, gateways and the node service over them; and a host that uses the volumes. StartVM has the driver's processes and a
// Linux kernel in a virtual machine as host, StartLocal everything in this process with a host in Go.
package stack

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/driver"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/vm"
	"github.com/holdfast-csi/holdfast/test/vm/load"
)

// NodeName is the CSI node, which is on the machine of none of the SPDK nodes.
const NodeName = "worker-1"

// Patience bounds what is to succeed: software emulation on a busy machine is slow.
const Patience = 2 * time.Minute

// Options say what stack to start. The zero value is right for tests that inject no faults.
type Options struct {
	// Nodes is how many SPDK nodes are simulated, default 3; with real ones it says nothing.
	Nodes int
	// ReplicaStall is the stall budget that simulated nodes are started for; default is timeouts.DefaultBudgets.
	ReplicaStall time.Duration
	// PoolBytes is the size of each simulated disk, default 8 GiB; only what is written takes up memory.
	PoolBytes int64
	// Kernel is that of the virtual machine, if there is one.
	Kernel vm.Kernel
	// Logs is a directory for the log of each of the driver's processes; "" leaves them on standard error.
	Logs string
}

func (o Options) withDefaults() Options {
	o.Nodes = cmp.Or(o.Nodes, 3)
	o.ReplicaStall = cmp.Or(o.ReplicaStall, timeouts.DefaultBudgets().ReplicaStall)
	o.PoolBytes = cmp.Or(o.PoolBytes, 8<<30)
	return o
}

// Stack is a driver that runs.
type Stack struct {
	// Dir is a directory of its own, with a path short enough for sockets.
	Dir     string
	Targets []*Target
	// Controller, Groups and Node are the CO's connections; their calls wait until the service is there.
	Controller csi.ControllerClient
	Groups     csi.GroupControllerClient
	Node       csi.NodeClient
	// Store is where the records are.
	Store volume.Store
	// Host uses the volumes.
	Host Host

	ip       string // of the targets and of what the driver listens on
	options  Options
	gateways []*gateway
	nodes    []driver.NodeConfig // as this machine reaches them, past gateways and faults
	before   string
	guards   sync.WaitGroup // over the targets

	mu      sync.Mutex
	closers []func()
}

// Host is the machine that uses volumes, as far as tests do something there themselves.
type Host interface {
	// Path returns a path for mounts.
	Path(name string) string
	// MakeDir makes a directory as the CO does.
	MakeDir(ctx context.Context, path string) error
	// OpenLoad opens a load on so many blocks of a file below a published path, or of a raw block volume.
	OpenLoad(ctx context.Context, path string, blocks int) (Load, error)
	// Describe says what host it is.
	Describe(ctx context.Context) (string, error)
}

// Load is a load on the host; see package load.
type Load interface {
	Fill(ctx context.Context) (load.Report, error)
	Run(ctx context.Context, m load.Mix) error
	Pause(ctx context.Context) (load.Report, error)
	Report(ctx context.Context) (load.Report, error)
	Verify(ctx context.Context) (load.Report, error)
	Close() error
}

// newStack starts the targets.
func newStack(ctx context.Context, ip string, o Options) (*Stack, error) {
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		return nil, fmt.Errorf("make the stack's directory: %w", err)
	}
	s := &Stack{Dir: dir, ip: ip, options: o.withDefaults()}
	s.onClose(func() { _ = os.RemoveAll(dir) })
	if err := s.startTargets(ctx); err != nil {
		return s, err
	}
	s.before, err = s.Inventory(ctx)
	return s, err
}

func (s *Stack) onClose(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closers = append(s.closers, f)
}

// Close ends everything in the reverse order.
func (s *Stack) Close() {
	s.mu.Lock()
	closers := s.closers
	s.closers = nil
	s.mu.Unlock()
	for i := len(closers) - 1; i >= 0; i-- {
		closers[i]()
	}
}

// abandon closes a stack that could not be started.
func (s *Stack) abandon(err error) error {
	if s != nil {
		s.Close()
	}
	return fmt.Errorf("start the driver and what it runs on: %w", err)
}

func (s *Stack) path(name string) string { return filepath.Join(s.Dir, name) }

// log opens the log of a process.
func (s *Stack) log(process string) (io.Writer, error) {
	if s.options.Logs == "" {
		return os.Stderr, nil
	}
	if err := os.MkdirAll(s.options.Logs, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory for logs: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(s.options.Logs, process+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", process, err)
	}
	s.onClose(func() { _ = f.Close() })
	return f, nil
}

// Target returns the SPDK node of that name.
func (s *Stack) Target(name string) (*Target, error) {
	for _, t := range s.Targets {
		if t.Name == name {
			return t, nil
		}
	}
	return nil, fmt.Errorf("no SPDK node is called %q", name)
}

// Heal ends every fault of every target and starts those that do not run.
func (s *Stack) Heal(ctx context.Context) error {
	var errs []error
	for _, t := range s.Targets {
		errs = append(errs, t.Heal(ctx))
	}
	return errors.Join(errs...)
}

// unique returns a name that nothing else has.
func unique(prefix string) string { return prefix + "-" + rand.Text()[:8] }
