package sim

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
)

// nvmeModule is SPDK's bdev_nvme: controllers attached over NVMe/TCP and the bdevs
// of their namespaces. The set of controllers and bdevs is guarded by process.mu;
// their state by mu, which is taken after it and held for moments only.
type nvmeModule struct {
	p      *process
	opts   nvmeOptions
	groups []*nvmeGroup
	hostID uuid.UUID

	mu     sync.Mutex
	frozen int // synchronous commands that hold the reactor up
	hung   bool
}

// nvmeGroup is a named controller: one path, or several to the same subsystem
// (struct nvme_bdev_ctrlr).
type nvmeGroup struct {
	name  string
	paths []*nvmeCtrlr
	bdevs map[uint32]*nvmeBdev
}

// trid is a transport id: an address and the subsystem behind it.
type trid struct {
	trtype, adrfam, traddr, trsvcid, subnqn string
}

func (t trid) json() object {
	o := obj("trtype", t.trtype)
	if t.adrfam != "" {
		o = o.with("adrfam", t.adrfam)
	}
	o = o.with("traddr", t.traddr)
	if t.trsvcid != "" {
		o = o.with("trsvcid", t.trsvcid)
	}
	if t.subnqn != "" {
		o = o.with("subnqn", t.subnqn)
	}
	return o
}

// nvmeCtrlr is one path: an association that is made again when it breaks
// (struct nvme_ctrlr). Fields below mu's line are guarded by nvmeModule.mu.
type nvmeCtrlr struct {
	m       *nvmeModule
	g       *nvmeGroup
	trid    trid
	hostnqn string
	params  nvmeAttachParams
	ctx     context.Context // ends when the controller is destructed
	cancel  context.CancelFunc

	// Guarded by nvmeModule.mu.
	conn       *nvmeConn // nil while there is none
	keys       keyPair
	cntlid     uint16
	ana        map[uint32]nvmetcp.ANAState // by group; nil without ANA
	namespaces map[uint32]nvmetcp.NamespaceInfo
	fastFailed bool // fast_io_fail_timedout
	destruct   bool
	resetting  bool
	delayed    bool // reconnect_is_delayed
	disabled   bool
	dontRetry  bool // I/O in flight fails for good when this reset aborts it
	failover   bool // the reset under way came from a broken connection
	pendingFO  bool // pending_failover
	resetStart time.Time
	pending    []chan bool // resets of bdevs waiting for the one under way
	onReset    func(rc errno)
	stopDelay  func()
}

// nvmeConn is one association.
type nvmeConn struct {
	*nvmetcp.Controller
	dnr bool // its I/O isn't retried; set under nvmeModule.mu before it is closed
}

// nvmeBdev is the bdev of a namespace, reached over every path of its group.
type nvmeBdev struct {
	m    *nvmeModule
	g    *nvmeGroup
	nsid uint32
	b    *bdev
}

func (m *nvmeModule) init(p *process) {
	m.p = p
	m.opts = defaultNVMeOptions()
	m.hostID = uuid.New()
}

// end closes every association; the process's context has ended.
func (m *nvmeModule) end() {
	m.p.mu.Lock()
	var conns []*nvmeConn
	m.mu.Lock()
	for _, g := range m.groups {
		for _, c := range g.paths {
			if c.conn != nil {
				conns = append(conns, c.conn)
			}
		}
	}
	m.mu.Unlock()
	m.p.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

func (m *nvmeModule) group(name string) *nvmeGroup {
	for _, g := range m.groups {
		if g.name == name {
			return g
		}
	}
	return nil
}

// state is what bdev_nvme_get_controllers shows. The caller holds nvmeModule.mu.
func (c *nvmeCtrlr) state() string {
	switch {
	case c.destruct:
		return "deleting"
	case c.resetting:
		return "resetting"
	case c.delayed:
		return "reconnect_is_delayed"
	case c.disabled:
		return "disabled"
	case c.conn == nil:
		return "failed"
	default:
		return "enabled"
	}
}

// available says whether I/O can be sent. The caller holds nvmeModule.mu.
func (c *nvmeCtrlr) available() bool {
	return c.conn != nil && !c.destruct && !c.resetting && !c.delayed && !c.disabled
}

// failed says that waiting is no use (nvme_ctrlr_is_failed). The caller holds
// nvmeModule.mu.
func (c *nvmeCtrlr) failed() bool {
	switch {
	case c.destruct, c.fastFailed:
		return true
	case c.resetting:
		return c.params.ReconnectDelay == 0
	case c.delayed:
		return false
	default:
		return c.disabled || c.conn == nil
	}
}

// anaState is the path's state for a namespace. The caller holds nvmeModule.mu.
func (c *nvmeCtrlr) anaState(nsid uint32) nvmetcp.ANAState {
	ns, ok := c.namespaces[nsid]
	if !ok || c.ana == nil {
		return nvmetcp.ANAOptimized
	}
	if s, ok := c.ana[ns.ANAGroup]; ok {
		return s
	}
	return nvmetcp.ANAOptimized
}

// hold stops the whole process while a synchronous command is unanswered, as
// SPDK's single reactor is; release lets it go on.
func (m *nvmeModule) hold() (release func()) {
	m.mu.Lock()
	m.frozen++
	m.shutGate()
	m.mu.Unlock()
	return func() {
		m.mu.Lock()
		m.frozen--
		m.shutGate()
		m.mu.Unlock()
	}
}

// hang is SIGSTOP and SIGCONT.
func (m *nvmeModule) hang(hung bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hung = hung
	m.shutGate()
}

func (m *nvmeModule) shutGate() { m.p.gate.SetHung(m.hung || m.frozen > 0) }

// watch follows an association: it sends keep-alives, looks at events and starts
// the failover when it breaks.
func (c *nvmeCtrlr) watch(conn *nvmeConn) {
	m := c.m
	m.p.spawn(func(ctx context.Context) { c.keepAlive(ctx, conn) })
	m.p.spawn(func(ctx context.Context) {
		for {
			select {
			case <-conn.Done():
				if m.p.gate.Wait(ctx) == nil {
					m.p.locked(func() { c.broken(conn) })
				}
				return
			case ev := <-conn.Events():
				if m.p.gate.Wait(ctx) != nil {
					return
				}
				c.event(ctx, conn, ev)
			case <-ctx.Done():
				return
			}
		}
	})
}

// ownEventFreeze is how long a process waits for the answer of its own target,
// which shares its thread.
const ownEventFreeze = 30 * time.Second

// event follows an asynchronous event. One that comes while the controller is
// being reset is lost, and the bdev keeps its old size.
func (c *nvmeCtrlr) event(ctx context.Context, conn *nvmeConn, ev nvmetcp.Event) {
	if ev.Type == nvmetcp.EventNamespaceChanged && c.m.p.nvmf.sharesThread() && c.m.p.nvmf.listensOn(c.trid) {
		release := c.m.hold()
		_ = c.m.p.sleep(c.m.p.ctx, ownEventFreeze)
		release()
		return
	}
	ana, nss, err := c.look(ctx, conn.Controller)
	if err != nil {
		return
	}
	c.m.p.locked(func() {
		c.m.mu.Lock()
		current := c.conn == conn && c.available()
		if current {
			c.ana = ana
		}
		c.m.mu.Unlock()
		if current && ev.Type == nvmetcp.EventNamespaceChanged {
			c.populate(nss)
		}
	})
}

// look reads the ANA log and the namespaces.
func (c *nvmeCtrlr) look(ctx context.Context, conn *nvmetcp.Controller) (map[uint32]nvmetcp.ANAState, []nvmetcp.NamespaceInfo, error) {
	nss, err := conn.Namespaces(ctx)
	if err != nil {
		return nil, nil, err
	}
	if !conn.HasANA() {
		return nil, nss, nil
	}
	ana, err := conn.ANAStates(ctx)
	return ana, nss, err
}

// populate makes the bdevs follow the namespaces: new ones, other sizes, removed
// ones. The caller holds process.mu.
func (c *nvmeCtrlr) populate(nss []nvmetcp.NamespaceInfo) []string {
	names := []string{}
	c.m.mu.Lock()
	old := c.namespaces
	c.namespaces = map[uint32]nvmetcp.NamespaceInfo{}
	for _, ns := range nss {
		c.namespaces[ns.NSID] = ns
	}
	c.m.mu.Unlock()
	slices.SortFunc(nss, func(a, b nvmetcp.NamespaceInfo) int { return int(a.NSID) - int(b.NSID) })
	for _, ns := range nss {
		nb := c.g.bdevs[ns.NSID]
		if nb == nil {
			nb = c.createBdev(ns)
		} else {
			_ = nb.b.resized(uint64(ns.SizeBytes) / uint64(ns.BlockSize))
		}
		if nb != nil {
			names = append(names, nb.b.name)
		}
	}
	for nsid := range old {
		c.dropNamespace(nsid)
	}
	return names
}

// dropNamespace removes the bdev of a namespace that no path has any more.
func (c *nvmeCtrlr) dropNamespace(nsid uint32) {
	c.m.mu.Lock()
	still := slices.ContainsFunc(c.g.paths, func(o *nvmeCtrlr) bool {
		_, ok := o.namespaces[nsid]
		return ok && !o.destruct
	})
	c.m.mu.Unlock()
	if nb := c.g.bdevs[nsid]; nb != nil && !still {
		delete(c.g.bdevs, nsid)
		nb.b.unregister(nil)
	}
}

// createBdev registers the bdev of a namespace; nil if its name or UUID is taken.
// The UUID is the NGUID where there is one (nbdev_create).
func (c *nvmeCtrlr) createBdev(ns nvmetcp.NamespaceInfo) *nvmeBdev {
	nb := &nvmeBdev{m: c.m, g: c.g, nsid: ns.NSID}
	id := uuid.UUID(ns.NGUID)
	if id == uuid.Nil {
		id = ns.UUID
	}
	nb.b = &bdev{name: nb.bdevName(), uuid: id, product: "NVMe disk", module: "nvme", blockSize: ns.BlockSize, dev: nb,
		info: bdevInfo{numa: true, memDomains: []string{"DMA"}, ioUnits: [5]uint32{1, 1, optimalWriteBlocks(ns.BlockSize), 1, 1}}}
	nb.b.numBlocks.Store(uint64(ns.SizeBytes) / uint64(ns.BlockSize))
	if rc := c.m.p.bdevs.register(nb.b); rc != 0 {
		c.m.p.node.log.Info("Registering an NVMe bdev failed", "bdev", nb.b.name, "uuid", id.String(), "rc", int(rc))
		return nil
	}
	c.g.bdevs[ns.NSID] = nb
	return nb
}

// optimalWriteBlocks is what SPDK's target says: 128 KiB.
func optimalWriteBlocks(blockSize int) uint32 { return uint32(128 << 10 / blockSize) }
