package nvmetcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/go-logr/logr"
)

// ErrNoPath says that a Head has no path left that could come back: its block
// device is gone, as the kernel's is when the last path's namespace goes.
var ErrNoPath = errors.New("no available path")

// HeadConfig describes a multipath block device: one namespace of one subsystem,
// seen by one host.
type HeadConfig struct {
	SubNQN, HostNQN string
	HostID          [16]byte
	// UUID identifies the namespace on every path.
	UUID [16]byte
	// IOTimeout is how long a command may be unanswered before its path is reset
	// (nvme_core.io_timeout). The command itself does not fail. 0 is 30 s.
	IOTimeout time.Duration
	// Dial opens TCP connections; nil is a net.Dialer.
	Dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	Gate   *Gate
	Logger logr.Logger
}

// PathConfig describes one path of a Head, as the options that nvme-cli writes to
// /dev/nvme-fabrics.
type PathConfig struct {
	// Addr is the target's address, host:port.
	Addr string
	// IOQueues and QueueDepth are nr_io_queues and queue_size; 0 is 1 and 128.
	IOQueues, QueueDepth int
	// KATO is keep_alive_tmo; 0 is 5 s.
	KATO time.Duration
	// ReconnectDelay is the pause before each attempt to reconnect; 0 is 10 s.
	ReconnectDelay time.Duration
	// CtrlLossTimeout is how long a lost path is tried again before it is removed;
	// 0 is 600 s, negative is for ever.
	CtrlLossTimeout time.Duration
	// FastIOFail is how long a lost path keeps I/O waiting; 0 is as long as the path exists.
	FastIOFail time.Duration
	// ConnectTimeout bounds each step of connecting, and the shutdown at removal;
	// 0 is 10 s.
	ConnectTimeout           time.Duration
	HeaderDigest, DataDigest bool
	// Auth is how the host authenticates whenever it connects (dhchap_secret, dhchap_ctrl_secret); nil is not at all.
	Auth *HostAuth
}

func (c PathConfig) withDefaults() PathConfig {
	if c.KATO == 0 {
		c.KATO = 5 * time.Second
	}
	if c.ReconnectDelay == 0 {
		c.ReconnectDelay = 10 * time.Second
	}
	if c.CtrlLossTimeout == 0 {
		c.CtrlLossTimeout = 600 * time.Second
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 10 * time.Second
	}
	return c
}

// PathState is a controller's state as the kernel shows it in sysfs.
type PathState string

// States of a path's controller.
const (
	PathLive       PathState = "live"
	PathResetting  PathState = "resetting"
	PathConnecting PathState = "connecting"
	PathDeleting   PathState = "deleting"
)

// PathInfo is a path's present state.
type PathInfo struct {
	Addr   string
	State  PathState
	CNTLID uint16
	// NSID is the namespace's id on this path; 0 while it is not there.
	NSID     uint32
	ANAState ANAState
	// Current says that I/O goes this way now.
	Current bool
}

// Head is a block device over one or more paths to the same namespace. It behaves
// as the native multipath of the Linux kernel (drivers/nvme/host/multipath.c,
// core.c, fabrics.c, tcp.c):
//
//   - I/O takes an optimized path before a non-optimized one.
//   - I/O that a path could not serve is sent again on another; it waits while no
//     path is usable but one may come back, and fails with ErrNoPath when none can.
//   - A path that is lost reconnects until its ctrl_loss_tmo has passed.
//   - A status that is not about the path is retried five times unless it says
//     Do Not Retry.
//   - When the namespace is on no path any more the device is gone for good.
//   - The device has the size that a path announced last, and a path that has announced
//     another is not used until it announces again.
//
// Head is a Device.
type Head struct {
	cfg    HeadConfig
	log    logr.Logger
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	paths   []*headPath
	current *headPath
	changed chan struct{} // closed and renewed whenever a path changes
	hadNS   bool
	gone    bool
	size    int64
	bs      int
}

// NewHead makes a head without paths.
func NewHead(cfg HeadConfig) *Head {
	if cfg.IOTimeout == 0 {
		cfg.IOTimeout = 30 * time.Second
	}
	if cfg.Logger.GetSink() == nil {
		cfg.Logger = logr.Discard()
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Head{cfg: cfg, log: cfg.Logger, ctx: ctx, cancel: cancel, changed: make(chan struct{})}
}

// AddPath connects a path. As in the kernel the first connection must succeed;
// from then on the path reconnects by itself. The namespace need not be there
// yet: see PathInfo.NSID.
func (h *Head) AddPath(ctx context.Context, cfg PathConfig) error {
	cfg = cfg.withDefaults()
	p := newHeadPath(h, cfg)
	h.mu.Lock()
	for _, other := range h.paths {
		if other.cfg.Addr == cfg.Addr {
			h.mu.Unlock()
			return fmt.Errorf("add path %s: it exists", cfg.Addr)
		}
	}
	h.paths = append(h.paths, p) // connecting, without a namespace: no I/O counts on it
	h.mu.Unlock()

	err := p.connect(ctx)
	h.mu.Lock()
	if err == nil && p.ctx.Err() != nil {
		err = errors.New("the path was removed meanwhile")
	}
	if err == nil {
		h.wg.Go(p.run)
		h.mu.Unlock()
		return nil
	}
	h.forget(p)
	c := p.ctrl
	h.mu.Unlock()
	if c != nil {
		err = errors.Join(err, c.Close())
	}
	close(p.done)
	return fmt.Errorf("add path %s to %s: %w", cfg.Addr, h.cfg.SubNQN, err)
}

// RemovePath deletes a path as delete_controller in sysfs does: no new I/O takes
// it, what is in flight ends or moves over when the path is lost, the controller
// is shut down. It returns when the path is gone; ctx cuts the waiting short.
func (h *Head) RemovePath(ctx context.Context, addr string) error {
	h.mu.Lock()
	var p *headPath
	for _, have := range h.paths {
		if have.cfg.Addr == addr {
			p = have
		}
	}
	if p == nil {
		h.mu.Unlock()
		return fmt.Errorf("remove path %s: there is none", addr)
	}
	p.leave()
	h.mu.Unlock()
	select {
	case <-p.done:
	case <-ctx.Done():
		p.abort()
		<-p.done
	}
	return nil
}

// Paths are the paths in the order they were added.
func (h *Head) Paths() []PathInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]PathInfo, 0, len(h.paths))
	for _, p := range h.paths {
		all = append(all, PathInfo{
			Addr: p.cfg.Addr, State: p.state, CNTLID: p.cntlid, NSID: p.nsid, ANAState: p.ana, Current: p == h.current,
		})
	}
	return all
}

// Gone says whether the block device is gone for good: no path has its namespace any more, though one had.
func (h *Head) Gone() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.gone
}

// Changed returns a channel that is closed at the next change of a path. Ask for
// it before Paths.
func (h *Head) Changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

// BlockSize is the size of a block in bytes, 0 before the first path has the
// namespace.
func (h *Head) BlockSize() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bs
}

// SizeBytes is the capacity that a path announced last.
func (h *Head) SizeBytes() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.size
}

// resize takes over what a path has announced (nvme_update_ns_info, nvme_mpath_revalidate_paths). The
// caller holds h.mu.
func (h *Head) resize(p *headPath, ns NamespaceInfo) {
	h.size, h.bs = ns.SizeBytes, ns.BlockSize
	p.size, p.ready = ns.SizeBytes, true
	for _, other := range h.paths {
		if other.size != h.size {
			other.ready = false
		}
	}
}

// Close removes every path without shutting controllers down, fails I/O that
// waits and returns when nothing runs any more.
func (h *Head) Close() error {
	h.mu.Lock()
	h.cancel()
	for _, p := range h.paths {
		p.leave()
		p.abort()
	}
	h.mu.Unlock()
	h.wg.Wait()
	return nil
}

// notify wakes whoever waits for a change. The caller holds h.mu.
func (h *Head) notify() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// forget drops a path from the list. The caller holds h.mu.
func (h *Head) forget(p *headPath) {
	for i, have := range h.paths {
		if have == p {
			h.paths = append(h.paths[:i:i], h.paths[i+1:]...)
			break
		}
	}
	p.nsid = 0
	h.settle()
}

// settle draws the conclusions of a path's change. The caller holds h.mu.
func (h *Head) settle() {
	has := false
	for _, p := range h.paths {
		has = has || p.nsid != 0
	}
	if has {
		h.hadNS = true
	}
	if h.hadNS && !has && !h.gone {
		h.gone = true
		h.log.Info("The block device is gone: no path has its namespace any more", "nqn", h.cfg.SubNQN)
	}
	if h.current != nil && !h.current.usable() {
		h.current = nil
	}
	h.notify()
}
