package sim

import (
	"context"
	"net"
	"slices"
	"strings"

	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
)

// nvmeAttachParams are the parameters of bdev_nvme_attach_controller.
type nvmeAttachParams struct {
	Name           string        `json:"name" rpc:"required"`
	Trtype         string        `json:"trtype" rpc:"required"`
	Traddr         string        `json:"traddr" rpc:"required"`
	Adrfam         string        `json:"adrfam"`
	Trsvcid        string        `json:"trsvcid"`
	Priority       string        `json:"priority"`
	SubNQN         string        `json:"subnqn"`
	HostNQN        string        `json:"hostnqn"`
	HostAddr       string        `json:"hostaddr"`
	HostSvcid      string        `json:"hostsvcid"`
	PrchkReftag    bool          `json:"prchk_reftag"`
	PrchkGuard     bool          `json:"prchk_guard"`
	HDGST          bool          `json:"hdgst"`
	DDGST          bool          `json:"ddgst"`
	ConnectUS      uint64        `json:"fabrics_connect_timeout_us"`
	Multipath      string        `json:"multipath" enum:"failover,multipath,disable"`
	IOQueues       uint32        `json:"num_io_queues"`
	CtrlrLoss      int32         `json:"ctrlr_loss_timeout_sec"`
	ReconnectDelay uint32        `json:"reconnect_delay_sec"`
	FastIOFail     uint32        `json:"fast_io_fail_timeout_sec"`
	PSK            string        `json:"psk"`
	MaxBdevs       uint32        `json:"max_bdevs"`
	DHCHAPKey      string        `json:"dhchap_key"`
	DHCHAPCtrlrKey string        `json:"dhchap_ctrlr_key"`
	AnyCSI         bool          `json:"allow_unrecognized_csi"`
	MultipathOpts  multipathOpts `json:"multipath_opts"`
	NoSQFlow       bool          `json:"disable_sq_flow_control"`
}

// Limits of include/spdk/nvme.h and nvmf_spec.h, without the final zero.
const (
	maxTraddr         = 256
	maxTrsvcid        = 32
	maxNQN            = 223
	maxControllerName = 127
)

func (m *nvmeModule) attachDefaults() nvmeAttachParams {
	return nvmeAttachParams{Multipath: "multipath", MaxBdevs: 128, ConnectUS: 500000, IOQueues: 127,
		CtrlrLoss: m.opts.CtrlrLossSec, ReconnectDelay: m.opts.ReconnectDelaySec, FastIOFail: m.opts.FastIOFailSec,
		MultipathOpts: m.opts.Multipath, HostNQN: "nqn.2014-08.org.nvmexpress:uuid:" + m.hostID.String()}
}

func (c *call) nvmeAttachController() {
	m := &c.p.nvme
	req := m.attachDefaults()
	if !c.decode(&req, badParamsInternal) {
		return
	}
	if !c.checkAttach(&req) {
		return
	}
	t := trid{trtype: strings.ToUpper(req.Trtype), adrfam: adrfamName(req.Adrfam), traddr: req.Traddr, trsvcid: req.Trsvcid, subnqn: req.SubNQN}
	if g := m.group(req.Name); g != nil && !c.checkSecondPath(g, t, &req) {
		return
	}
	if rc := m.checkCreate(t, &req); rc != 0 {
		c.failErrno(rc)
		return
	}
	keys, found := c.p.findKeys(req.DHCHAPKey, req.DHCHAPCtrlrKey)
	if !found {
		c.failErrno(errNOKEY)
		return
	}
	ctrlr := &nvmeCtrlr{m: m, trid: t, hostnqn: req.HostNQN, params: req, keys: keys}
	ctrlr.ctx, ctrlr.cancel = context.WithCancel(c.p.ctx)
	c.p.spawn(func(ctx context.Context) {
		conn, err := ctrlr.connect(ctx, connectLimit)
		var ana map[uint32]nvmetcp.ANAState
		var nss []nvmetcp.NamespaceInfo
		if err == nil {
			if ana, nss, err = ctrlr.look(ctx, conn.Controller); err != nil {
				_ = conn.Close()
			}
		}
		if err != nil {
			ctrlr.cancel()
			c.p.node.log.Info("Attaching failed", "controller", req.Name, "address", joinAddr(t), "nqn", t.subnqn, "reason", err.Error())
			c.failErrno(errIO)
			return
		}
		c.p.locked(func() { c.attached(ctrlr, conn, ana, nss) })
	})
}

// checkAttach refuses what rpc_bdev_nvme_attach_controller itself refuses.
func (c *call) checkAttach(req *nvmeAttachParams) bool {
	switch {
	case req.MaxBdevs == 0:
		c.fail(int(errINVAL), "max_bdevs cannot be zero")
	case len(req.Traddr) > maxTraddr:
		c.fail(int(errINVAL), "traddr too long: "+req.Traddr)
	case req.Adrfam != "" && adrfamName(req.Adrfam) == "":
		c.fail(int(errINVAL), "Failed to parse adrfam: "+req.Adrfam)
	case len(req.Trsvcid) > maxTrsvcid:
		c.fail(int(errINVAL), "trsvcid too long: "+req.Trsvcid)
	case len(req.SubNQN) > maxNQN:
		c.fail(int(errINVAL), "subnqn too long: "+req.SubNQN)
	case len(req.HostNQN) > maxNQN:
		c.fail(int(errINVAL), "hostnqn too long: "+req.HostNQN)
	case req.IOQueues == 0 || req.IOQueues > 65536:
		c.fail(int(errINVAL), "num_io_queues out of bounds, min: 1 max: 65536")
	default:
		return true
	}
	return false
}

// checkSecondPath answers where a controller of that name exists and t can't be
// another path of it.
func (c *call) checkSecondPath(g *nvmeGroup, t trid, req *nvmeAttachParams) bool {
	first := g.paths[0]
	exists := "A controller named " + req.Name + " already exists"
	switch {
	case req.Multipath == "disable":
		c.fail(int(errALREADY), exists+" and multipath is disabled")
	case t.traddr == first.trid.traddr && t.trsvcid == first.trid.trsvcid:
		c.fail(int(errALREADY), exists+" with the specified network path")
	case t.subnqn != first.trid.subnqn:
		c.fail(int(errINVAL), exists+", but uses a different subnqn ("+first.trid.subnqn+")")
	case req.HostNQN != first.hostnqn:
		c.fail(int(errINVAL), exists+", but uses a different hostnqn ("+first.hostnqn+")")
	case req.Multipath != "multipath":
		c.failErrno(errINVAL)
	default:
		return true
	}
	return false
}

// checkCreate refuses what spdk_bdev_nvme_create refuses.
func (m *nvmeModule) checkCreate(t trid, req *nvmeAttachParams) errno {
	for _, g := range m.groups {
		for _, o := range g.paths {
			if o.trid == t && o.hostnqn == req.HostNQN {
				return errEXIST
			}
		}
	}
	switch {
	case req.Name == "" || len(req.Name) > maxControllerName:
		return errINVAL
	case checkLoss(req.CtrlrLoss, req.ReconnectDelay, req.FastIOFail) != 0:
		return errINVAL
	case req.PSK != "":
		return errNOKEY
	case t.trtype != "TCP":
		return errNODEV
	case net.ParseIP(t.traddr) == nil:
		return errIO
	default:
		return 0
	}
}

// attached takes a new controller in and answers with its bdevs. A name or path
// that came up meanwhile is refused.
func (c *call) attached(ctrlr *nvmeCtrlr, conn *nvmeConn, ana map[uint32]nvmetcp.ANAState, nss []nvmetcp.NamespaceInfo) {
	m := &c.p.nvme
	g := m.group(ctrlr.params.Name)
	refuse := m.checkCreate(ctrlr.trid, &ctrlr.params)
	if g != nil && slices.ContainsFunc(g.paths, func(o *nvmeCtrlr) bool { return o.cntlidNow() == conn.CNTLID() }) {
		refuse = errINVAL
	}
	if refuse != 0 {
		ctrlr.cancel()
		c.p.spawn(func(context.Context) { _ = conn.Close() })
		c.failErrno(refuse)
		return
	}
	if g == nil {
		g = &nvmeGroup{name: ctrlr.params.Name, bdevs: map[uint32]*nvmeBdev{}}
		m.groups = append(m.groups, g)
	}
	if m.opts.IOQueueRequests == 0 {
		m.opts.IOQueueRequests = 512
	}
	ctrlr.g = g
	m.mu.Lock()
	g.paths = append(g.paths, ctrlr)
	ctrlr.conn, ctrlr.ana, ctrlr.cntlid = conn, ana, conn.CNTLID()
	m.mu.Unlock()
	names := ctrlr.populate(nss)
	ctrlr.watch(conn)
	c.ok(names)
}

func (c *nvmeCtrlr) cntlidNow() uint16 {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	return c.cntlid
}

func joinAddr(t trid) string { return net.JoinHostPort(t.traddr, t.trsvcid) }

// adrfamName is SPDK's spelling of an address family, "" for one that it doesn't
// know.
func adrfamName(s string) string {
	for _, name := range []string{"IPv4", "IPv6", "IB", "FC"} {
		if strings.EqualFold(s, name) {
			return name
		}
	}
	return ""
}
