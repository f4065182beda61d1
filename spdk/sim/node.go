package sim

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"sync"

	"github.com/go-logr/logr"
)

// Node is a machine: its disks, their lvol stores, and, while it runs, the SPDK
// process. Methods may be called from any goroutine.
type Node struct {
	cfg       Config
	log       logr.Logger
	rpcFaults *rpcFaults

	mu     sync.Mutex // held while a process is started or ended
	proc   *process   // nil while no process runs
	closed bool

	disksMu sync.Mutex
	disks   map[string]*disk // by file name

	listeners map[string]*netListener // by address; guarded by disksMu

	callsMu sync.Mutex
	calls   map[string]int

	ops sync.WaitGroup // what starts and ends processes from within one
}

var (
	errRunning = errors.New("the process runs already; Kill it first")
	errClosed  = errors.New("the node was closed; make another")
)

// New makes a node with empty disks. Nothing runs before Start.
func New(cfg Config) (*Node, error) {
	cfg.setDefaults()
	if cfg.Name == "" {
		return nil, errors.New("a simulated node needs a Name")
	}
	n := &Node{cfg: cfg, log: cfg.Logger.WithValues("node", cfg.Name), disks: map[string]*disk{},
		listeners: map[string]*netListener{}, calls: map[string]int{}, rpcFaults: newRPCFaults()}
	for _, pool := range cfg.Pools {
		if err := n.addPool(pool); err != nil {
			n.closeDisks()
			return nil, fmt.Errorf("pool %s of node %s: %w", pool.Name, cfg.Name, err)
		}
	}
	if err := cfg.Network.join(n); err != nil {
		n.closeDisks()
		return nil, err
	}
	return n, nil
}

func (n *Node) addPool(pool PoolConfig) error {
	d, err := n.newDisk(n.poolFile(pool.Name), pool.SizeBytes)
	if err != nil {
		return err
	}
	if pool.NoStore {
		return nil
	}
	store, rc := newBlobstore(pool.SizeBytes, pool.BlockSize, pool.ClusterSize, defaultMDPagesPerCluster)
	if rc != 0 {
		return fmt.Errorf("%d bytes hold no lvol store with clusters of %d: %w", pool.SizeBytes, pool.ClusterSize, rc)
	}
	d.lvs.store = newLvolStore(pool.Name, store)
	return nil
}

// poolFile is the file name that the pool's aio bdev shows.
func (n *Node) poolFile(pool string) string { return filepath.Join(n.cfg.Dir, pool+".img") }

// newDisk makes a disk of the node; its file exists only with Dir.
func (n *Node) newDisk(file string, size int64) (*disk, error) {
	st, err := newStore(n.cfg.Dir != "", file, size)
	if err != nil {
		return nil, err
	}
	d := newDisk(file, size, st, n.cfg.Clock)
	n.disksMu.Lock()
	defer n.disksMu.Unlock()
	if n.disks[file] != nil {
		_ = st.Close()
		return nil, fmt.Errorf("disk %s exists twice", file)
	}
	n.disks[file] = d
	return d, nil
}

func (n *Node) disk(file string) *disk {
	n.disksMu.Lock()
	defer n.disksMu.Unlock()
	return n.disks[file]
}

func (n *Node) closeDisks() {
	n.disksMu.Lock()
	defer n.disksMu.Unlock()
	for _, d := range n.disks {
		d.close()
	}
}

// Name is the node's name.
func (n *Node) Name() string { return n.cfg.Name }

// Socket is the path of the JSON-RPC socket.
func (n *Node) Socket() string { return n.cfg.Socket }

// Start runs the process: disks and lvol stores come up, everything else is
// empty but for what Config sets.
func (n *Node) Start() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.startLocked()
}

func (n *Node) startLocked() error {
	if n.closed {
		return fmt.Errorf("start node %s: %w", n.cfg.Name, errClosed)
	}
	if n.proc != nil {
		return fmt.Errorf("start node %s: %w", n.cfg.Name, errRunning)
	}
	p, err := startProcess(n)
	if err != nil {
		return fmt.Errorf("start node %s: %w", n.cfg.Name, err)
	}
	n.proc = p
	return nil
}

// Kill ends the process as SIGKILL does: its RPC socket answers nobody and its
// connections are gone at once, without a word to NVMe peers but the kernel's
// TCP reset. The disks keep what was written. No process is no error.
func (n *Node) Kill() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.endLocked(true)
}

// Restart kills the process, if one runs, and starts another: the same disks and
// lvol stores, no raid, no NVMe controller, no export.
func (n *Node) Restart() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.endLocked(true)
	return n.startLocked()
}

// Close ends the process in good order and gives up the disks. The node cannot
// be started again.
func (n *Node) Close() {
	n.mu.Lock()
	n.endLocked(false)
	n.closed = true
	n.mu.Unlock()
	n.ops.Wait()
	n.cfg.Network.leave(n)
	n.closeDisks()
}

// crash ends a process from within it, as a segmentation fault does. What calls it
// must not go on.
func (n *Node) crash(p *process, why string) {
	n.log.Info("The process crashes", "why", why)
	n.ops.Go(func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.proc == p {
			n.endLocked(true)
		}
	})
}

func (n *Node) endLocked(killed bool) {
	if n.proc == nil {
		return
	}
	n.proc.end(killed)
	n.proc = nil
}

// Hang stops the process as SIGSTOP does, or lets it go on as SIGCONT does: the
// kernel goes on accepting connections and acknowledging TCP, nothing else moves.
func (n *Node) Hang(hung bool) {
	if p := n.process(); p != nil {
		p.nvme.hang(hung)
	}
}

// Running says whether a process runs, stopped or not.
func (n *Node) Running() bool { return n.process() != nil }

func (n *Node) process() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc
}

// Calls is how often each method was called since the node was made, unknown
// methods included.
func (n *Node) Calls() map[string]int {
	n.callsMu.Lock()
	defer n.callsMu.Unlock()
	return maps.Clone(n.calls)
}

func (n *Node) countCall(method string) {
	n.callsMu.Lock()
	defer n.callsMu.Unlock()
	n.calls[method]++
}
