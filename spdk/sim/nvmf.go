package sim

import (
	"context"
	"encoding/hex"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
)

// nvmfTarget is the process's NVMe-oF target. Its fields are guarded by
// process.mu; the wire side is package nvmetcp's.
type nvmfTarget struct {
	p         *process
	transport *nvmfTransport // nil before nvmf_create_transport
	subs      []*subsystem   // sorted by NQN
	tgt       *nvmetcp.Target
	mask      string // cores of the poll groups, "" for all
	auth      nvmetcp.AuthAlgorithms
}

const discoveryNQN = "nqn.2014-08.org.nvmexpress.discovery"

// subsystem is one NVMe-oF subsystem. What changes it is queued, so that changes
// follow one another while each waits for I/O as SPDK's pause does.
type subsystem struct {
	n       *nvmfTarget
	nqn     string
	params  createSubsystemParams
	anyHost bool
	hosts   []allowedHost // newest first
	nss     map[uint32]*nvmfNamespace
	lists   []*nvmfListener // newest first
	wire    *nvmetcp.Subsystem

	deleting bool
	queue    []func()
	running  bool
}

// allowedHost is a host that may connect, and with what keys it has to authenticate.
type allowedHost struct {
	nqn  string
	keys keyPair
}

// host finds a host that is allowed by name.
func (s *subsystem) host(nqn string) *allowedHost {
	i := slices.IndexFunc(s.hosts, func(h allowedHost) bool { return h.nqn == nqn })
	if i < 0 {
		return nil
	}
	return &s.hosts[i]
}

type nvmfNamespace struct {
	nsid  uint32
	desc  *desc
	nguid [16]byte
	eui64 string
	uuid  uuid.UUID
	group uint32
}

type nvmfListener struct {
	trid   trid
	state  nvmetcp.ANAState
	groups map[uint32]nvmetcp.ANAState
}

func (n *nvmfTarget) init(p *process) { n.p = p }

// end cuts every host off.
func (n *nvmfTarget) end(killed bool) {
	n.p.mu.Lock()
	t := n.tgt
	n.p.mu.Unlock()
	switch {
	case t == nil:
	case killed:
		t.Kill()
	default:
		_ = t.Close()
	}
}

func (n *nvmfTarget) find(nqn string) *subsystem {
	for _, s := range n.subs {
		if s.nqn == nqn {
			return s
		}
	}
	return nil
}

// start makes the wire side of the target when its transport is created.
func (n *nvmfTarget) start(t *nvmfTransport) {
	n.transport = t
	n.tgt = nvmetcp.NewTarget(nvmetcp.TargetConfig{Listen: n.p.node.listen, Gate: n.p.gate, KeepAliveUnits: int(t.KAS),
		MinKATO: time.Duration(t.MinKATO) * time.Millisecond, MaxQueueDepth: int(t.MaxQueueDepth),
		MaxIOQueues: int(t.MaxIOQpairs), MaxIOSize: int(t.MaxIOSize), InCapsuleDataSize: int(t.InCapsule),
		Logger: n.p.node.log})
	n.tgt.SetAuthAlgorithms(n.auth)
	for _, s := range n.subs {
		s.open()
	}
}

// open makes the wire side of a subsystem.
func (s *subsystem) open() {
	if s.n.tgt == nil {
		return
	}
	w, err := s.n.tgt.AddSubsystem(nvmetcp.SubsystemConfig{NQN: s.nqn, Serial: s.params.Serial, Model: s.params.Model,
		MinCNTLID: s.params.MinCNTLID, MaxCNTLID: s.params.MaxCNTLID, ANAReporting: s.params.ANA,
		AllowAnyHost: s.anyHost, MaxNamespaces: s.params.MaxNamespaces})
	if err != nil {
		s.n.p.node.log.Error(err, "Creating a subsystem on the wire failed", "nqn", s.nqn)
		return
	}
	s.wire = w
	for _, h := range s.hosts {
		w.SetHostKeys(h.nqn, h.keys.wire())
		w.AllowHost(h.nqn)
	}
	for _, ns := range s.nss {
		_ = s.export(ns)
	}
}

// export shows a namespace to hosts.
func (s *subsystem) export(ns *nvmfNamespace) error {
	if s.wire == nil {
		return nil
	}
	return s.wire.AddNamespace(nvmetcp.NamespaceConfig{NSID: ns.nsid, Device: namespaceDevice{ns.desc.b}, NGUID: ns.nguid,
		UUID: ns.uuid, ANAGroupID: ns.group})
}

// change queues fn, which runs without process.mu after those queued before. The
// caller holds process.mu.
func (s *subsystem) change(fn func()) {
	s.queue = append(s.queue, fn)
	if s.running {
		return
	}
	s.running = true
	s.n.p.spawn(func(ctx context.Context) {
		for ctx.Err() == nil {
			var next func()
			s.n.p.locked(func() {
				if len(s.queue) == 0 {
					s.running = false
					return
				}
				next, s.queue = s.queue[0], s.queue[1:]
			})
			if next == nil {
				return
			}
			next()
		}
	})
}

// removeNamespace takes a namespace away: errNOENT if there is none. It waits for
// I/O and runs from the queue.
func (s *subsystem) removeNamespace(nsid uint32) errno {
	var ns *nvmfNamespace
	s.n.p.locked(func() { ns = s.nss[nsid] })
	if ns == nil {
		return errNOENT
	}
	if s.wire != nil {
		if err := s.wire.RemoveNamespace(nsid); err != nil {
			s.n.p.node.log.V(2).Info("Removing a namespace failed", "nqn", s.nqn, "reason", err.Error())
		}
	}
	s.n.p.locked(func() {
		delete(s.nss, nsid)
		ns.desc.b.release()
		ns.desc.close()
	})
	return 0
}

// addNamespace opens and claims the bdev and exports it; it returns 0 where SPDK
// does. It runs from the queue.
func (s *subsystem) addNamespace(req *namespaceParams) uint32 {
	var ns *nvmfNamespace
	s.n.p.locked(func() { ns = s.prepareNamespace(req) })
	if ns == nil {
		return 0
	}
	if err := s.export(ns); err != nil {
		s.n.p.node.log.Info("Unable to add namespace", "nqn", s.nqn, "reason", err.Error())
		s.n.p.locked(func() {
			delete(s.nss, ns.nsid)
			ns.desc.b.release()
			ns.desc.close()
		})
		return 0
	}
	return ns.nsid
}

// prepareNamespace is the part of addNamespace on the application thread. A
// namespace without an identity of its own gets the bdev's.
func (s *subsystem) prepareNamespace(req *namespaceParams) *nvmfNamespace {
	nsid := req.NSID
	for i := uint32(1); nsid == 0 && i <= s.params.MaxNamespaces; i++ {
		if s.nss[i] == nil {
			nsid = i
		}
	}
	group := req.ANAGroup
	if group == 0 {
		group = nsid
	}
	if nsid == 0 || nsid > s.params.MaxNamespaces || s.nss[nsid] != nil || group > s.params.MaxNamespaces {
		return nil
	}
	ns := &nvmfNamespace{nsid: nsid, group: group, eui64: strings.ToUpper(req.EUI64), uuid: req.UUID}
	d, rc := s.n.p.bdevs.open(req.BdevName, true, func(ev bdevEvent) {
		if ev == bdevRemoved {
			s.change(func() { _ = s.removeNamespace(nsid) })
		} else if s.wire != nil {
			s.change(func() { s.wire.NamespaceResized(nsid) })
		}
	})
	if rc != 0 {
		return nil
	}
	if d.b.claimFor("NVMe-oF Target") != 0 {
		d.close()
		return nil
	}
	ns.desc = d
	if ns.uuid == uuid.Nil {
		ns.uuid = d.b.uuid
	}
	ns.nguid = d.b.uuid
	if req.NGUID != "" {
		_, _ = hex.Decode(ns.nguid[:], []byte(req.NGUID))
	}
	s.nss[nsid] = ns
	return ns
}

// delete disconnects every host and gives the namespaces' bdevs back. It runs from
// the queue.
func (s *subsystem) delete() {
	p := s.n.p
	if s.wire != nil {
		if err := s.n.tgt.RemoveSubsystem(s.nqn); err != nil {
			p.node.log.V(2).Info("Deleting a subsystem failed", "nqn", s.nqn, "reason", err.Error())
		}
	}
	p.locked(func() {
		for nsid, ns := range s.nss {
			delete(s.nss, nsid)
			ns.desc.b.release()
			ns.desc.close()
		}
		s.n.subs = slices.DeleteFunc(s.n.subs, func(o *subsystem) bool { return o == s })
		for _, l := range s.lists {
			s.n.unlisten(l.trid)
		}
	})
}

// sharesThread says whether what waits for an answer of the target on the
// application thread waits in vain.
func (n *nvmfTarget) sharesThread() (yes bool) {
	n.p.locked(func() { yes = n.p.node.cfg.SharedReactor && n.mask == "" })
	return yes
}

// listensOn says whether the target is what an NVMe controller's address leads to.
func (n *nvmfTarget) listensOn(t trid) (yes bool) {
	n.p.locked(func() {
		for _, s := range n.subs {
			yes = yes || slices.ContainsFunc(s.lists, func(l *nvmfListener) bool { return joinAddr(l.trid) == joinAddr(t) })
		}
	})
	return yes
}

// unlisten closes a listening socket that no subsystem uses any more.
func (n *nvmfTarget) unlisten(t trid) {
	for _, s := range n.subs {
		if s.listener(t) != nil {
			return
		}
	}
	if err := n.tgt.StopListening(joinAddr(t)); err != nil {
		n.p.node.log.V(2).Info("Closing a listener failed", "address", joinAddr(t), "reason", err.Error())
	}
}

func (s *subsystem) listener(t trid) *nvmfListener {
	for _, l := range s.lists {
		if l.trid == t {
			return l
		}
	}
	return nil
}

func (l *nvmfListener) group(g uint32) nvmetcp.ANAState {
	if s, ok := l.groups[g]; ok {
		return s
	}
	return l.state
}

// validNQN is nvmf_nqn_is_valid: the discovery name, a UUID name, or
// nqn.yyyy-mm.reverse.domain:string.
func validNQN(nqn string) bool {
	const uuidPrefix = "nqn.2014-08.org.nvmexpress:uuid:"
	if len(nqn) < 11 || len(nqn) > maxNQN || !utf8.ValidString(nqn) {
		return false
	}
	if nqn == discoveryNQN {
		return true
	}
	if rest, ok := strings.CutPrefix(nqn, uuidPrefix); ok {
		_, err := uuid.Parse(rest)
		return err == nil && len(rest) == 36
	}
	if len(nqn) < 13 || !strings.HasPrefix(nqn, "nqn.") || nqn[8] != '-' || nqn[11] != '.' || !digits(nqn[4:8]) || !digits(nqn[9:11]) {
		return false
	}
	domain, user, ok := strings.Cut(nqn[12:], ":")
	if !ok || user == "" {
		return false
	}
	for label := range strings.SplitSeq(domain, ".") {
		if !validLabel(label) {
			return false
		}
	}
	return true
}

func digits(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < '0' || r > '9' }) < 0
}

// validLabel is a domain label: it starts with a letter, ends with a letter or
// digit, and has at most 63 characters.
func validLabel(s string) bool {
	letter := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
	if s == "" || len(s) > 63 || !letter(s[0]) || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if !letter(s[i]) && s[i] != '-' && (s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return true
}
