package sim

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

func nvmfSubsystemMethods() map[string]method {
	return map[string]method{
		"nvmf_create_subsystem":           runtime((*call).nvmfCreateSubsystem),
		"nvmf_delete_subsystem":           runtime((*call).nvmfDeleteSubsystem),
		"nvmf_get_subsystems":             runtime((*call).nvmfGetSubsystems),
		"nvmf_subsystem_set_ns_ana_group": runtime((*call).nvmfSetNSANAGroup),
		"nvmf_subsystem_add_ns":           runtime((*call).nvmfAddNS),
		"nvmf_subsystem_remove_ns":        runtime((*call).nvmfRemoveNS),
		"nvmf_subsystem_add_host":         runtime((*call).nvmfAddHost),
		"nvmf_subsystem_set_keys":         runtime((*call).nvmfSetKeys),
		"nvmf_subsystem_remove_host":      runtime((*call).nvmfRemoveHost),
		"nvmf_subsystem_allow_any_host":   runtime((*call).nvmfAllowAnyHost),
		"nvmf_subsystem_get_controllers":  runtime((*call).nvmfGetControllers),
		"nvmf_subsystem_get_qpairs":       runtime((*call).nvmfGetQpairs),
	}
}

// createSubsystemParams are the parameters of nvmf_create_subsystem.
type createSubsystemParams struct {
	NQN           string  `json:"nqn" rpc:"required"`
	TgtName       *string `json:"tgt_name"`
	Serial        string  `json:"serial_number"`
	Model         string  `json:"model_number"`
	AdminLabel    string  `json:"admin_label"`
	MaxNamespaces uint32  `json:"max_namespaces"`
	AllowAnyHost  bool    `json:"allow_any_host"`
	ANA           bool    `json:"ana_reporting"`
	MinCNTLID     uint16  `json:"min_cntlid"`
	MaxCNTLID     uint16  `json:"max_cntlid"`
	DMRSL         uint32  `json:"dmrsl"`
	WZSL          uint8   `json:"wzsl"`
	Passthrough   bool    `json:"passthrough"`
	EnableNSSR    bool    `json:"enable_nssr"`
}

// Bounds of controller ids (NVMF_MIN_CNTLID, NVMF_MAX_CNTLID).
const (
	minCNTLID = 1
	maxCNTLID = 0xffef
)

func (c *call) nvmfCreateSubsystem() {
	req := createSubsystemParams{Serial: strings.Repeat("0", 20), Model: "SPDK bdev Controller", MinCNTLID: minCNTLID,
		MaxCNTLID: maxCNTLID, DMRSL: 2 << 20, WZSL: 12}
	if !c.decode(&req, badParamsInvalid) {
		return
	}
	if req.TgtName != nil && *req.TgtName != "nvmf_tgt" {
		c.fail(codeInternalError, "Unable to find target "+*req.TgtName)
		return
	}
	n := &c.p.nvmf
	switch {
	case len(req.Serial) > 20 || len(req.Model) > 40 || !printable(req.Serial) || !printable(req.Model):
		c.fail(codeInvalidParams, "Invalid parameters")
		return
	case n.find(req.NQN) != nil || !validNQN(req.NQN) || req.NQN == discoveryNQN:
		c.fail(codeInternalError, "Unable to create subsystem "+req.NQN)
		return
	case req.MinCNTLID > req.MaxCNTLID || req.MinCNTLID < minCNTLID || req.MaxCNTLID > maxCNTLID:
		c.fail(codeInvalidParams, fmt.Sprintf("Invalid cntlid range [%d-%d]", req.MinCNTLID, req.MaxCNTLID))
		return
	}
	if req.MaxNamespaces == 0 {
		req.MaxNamespaces = 32
	}
	s := &subsystem{n: n, nqn: req.NQN, params: req, anyHost: req.AllowAnyHost, nss: map[uint32]*nvmfNamespace{}}
	n.subs = append(n.subs, s)
	slices.SortFunc(n.subs, func(a, b *subsystem) int { return cmp.Compare(a.nqn, b.nqn) })
	s.open()
	c.ok(true)
}

func printable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e }) < 0
}

// subsystemRef are the parameters by which a subsystem is named.
type subsystemRef struct {
	NQN     string  `json:"nqn" rpc:"required"`
	TgtName *string `json:"tgt_name"`
}

// subsystem finds a subsystem; it answers where there is none.
func (c *call) subsystem(nqn string, tgt *string) *subsystem {
	if tgt != nil && *tgt != "nvmf_tgt" {
		c.fail(codeInvalidParams, "NVMf target '"+*tgt+"' not found")
		return nil
	}
	s := c.p.nvmf.find(nqn)
	if s == nil {
		c.fail(codeInvalidParams, "Subsystem with NQN '"+nqn+"' not found")
	}
	return s
}

func (c *call) nvmfDeleteSubsystem() {
	var req subsystemRef
	if !c.decode(&req, badParamsInvalid) {
		return
	}
	s := c.subsystem(req.NQN, req.TgtName)
	if s == nil {
		return
	}
	if s.deleting {
		c.fail(codeInternalError, "Subsystem is already being destroyed.")
		return
	}
	s.deleting = true
	s.change(func() {
		s.delete()
		c.ok(true)
	})
}

func (s *subsystem) describe() object {
	addrs := []object{}
	for _, l := range s.lists {
		addrs = append(addrs, l.trid.json())
	}
	hosts := []object{}
	for _, h := range s.hosts {
		hosts = append(hosts, h.keys.describe(obj("nqn", h.nqn)))
	}
	nss := []object{}
	for nsid := uint32(1); nsid <= s.params.MaxNamespaces; nsid++ {
		ns := s.nss[nsid]
		if ns == nil {
			continue
		}
		o := obj("nsid", nsid, "bdev_name", ns.desc.b.name, "name", ns.desc.b.name)
		if ns.nguid != [16]byte{} {
			o = o.with("nguid", strings.ToUpper(hex.EncodeToString(ns.nguid[:])))
		}
		if ns.eui64 != "" {
			o = o.with("eui64", ns.eui64)
		}
		if ns.uuid != uuid.Nil {
			o = o.with("uuid", ns.uuid.String())
		}
		if s.params.ANA {
			o = o.with("anagrpid", ns.group)
		}
		nss = append(nss, o)
	}
	return obj("nqn", s.nqn, "subtype", "NVMe", "listen_addresses", addrs, "allow_any_host", s.anyHost, "hosts", hosts,
		"serial_number", s.params.Serial, "model_number", s.params.Model, "max_namespaces", s.params.MaxNamespaces,
		"passthrough", s.params.Passthrough, "min_cntlid", s.params.MinCNTLID, "max_cntlid", s.params.MaxCNTLID,
		"dmrsl", s.params.DMRSL, "wzsl", s.params.WZSL, "namespaces", nss)
}

func (c *call) nvmfGetSubsystems() {
	var req struct {
		NQN     *string `json:"nqn"`
		TgtName *string `json:"tgt_name"`
	}
	if !c.decodeIfAny(&req, badParamsInvalid) {
		return
	}
	discovery := obj("nqn", discoveryNQN, "subtype", "Discovery", "listen_addresses", []object{}, "allow_any_host", true, "hosts", []object{})
	list := []object{}
	switch {
	case req.NQN == nil:
		list = append(list, discovery)
		for _, s := range c.p.nvmf.subs {
			list = append(list, s.describe())
		}
	case *req.NQN == discoveryNQN:
		list = append(list, discovery)
	default:
		s := c.subsystem(*req.NQN, req.TgtName)
		if s == nil {
			return
		}
		list = append(list, s.describe())
	}
	c.ok(list)
}

// namespaceParams are the parameters of nvmf_subsystem_add_ns's "namespace".
type namespaceParams struct {
	NSID         uint32    `json:"nsid"`
	BdevName     string    `json:"bdev_name" rpc:"required"`
	NGUID        string    `json:"nguid"`
	EUI64        string    `json:"eui64"`
	UUID         uuid.UUID `json:"uuid"`
	PTPL         string    `json:"ptpl_file"`
	ANAGroup     uint32    `json:"anagrpid"`
	NoAuto       bool      `json:"no_auto_visible"`
	HideMetadata bool      `json:"hide_metadata"`
}

func (c *call) nvmfAddNS() {
	var req struct {
		NQN       string          `json:"nqn" rpc:"required"`
		Namespace namespaceParams `json:"namespace" rpc:"required"`
		TgtName   *string         `json:"tgt_name"`
	}
	if !c.decodeRelaxed(&req, badParamsInvalid) {
		return
	}
	s := c.subsystem(req.NQN, req.TgtName)
	if s == nil {
		return
	}
	ns := &req.Namespace
	switch {
	case ns.NGUID != "" && !isHex(ns.NGUID, 16):
		c.fail(codeInvalidParams, "Invalid nguid")
		return
	case ns.EUI64 != "" && !isHex(ns.EUI64, 8):
		c.fail(codeInvalidParams, "Invalid eui64")
		return
	}
	s.change(func() {
		if nsid := s.addNamespace(ns); nsid != 0 {
			c.ok(nsid)
			return
		}
		c.fail(codeInvalidParams, "Invalid parameters")
	})
}

func isHex(s string, n int) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == n
}

func (c *call) nvmfRemoveNS() {
	var req struct {
		NQN     string  `json:"nqn" rpc:"required"`
		NSID    uint32  `json:"nsid" rpc:"required"`
		TgtName *string `json:"tgt_name"`
	}
	if !c.decode(&req, badParamsInvalid) {
		return
	}
	s := c.subsystem(req.NQN, req.TgtName)
	if s == nil {
		return
	}
	s.change(func() {
		if s.removeNamespace(req.NSID) != 0 {
			c.fail(codeInvalidParams, "Invalid parameters")
			return
		}
		c.ok(true)
	})
}

func (c *call) nvmfAddHost() {
	var req struct {
		NQN            string  `json:"nqn" rpc:"required"`
		Host           string  `json:"host" rpc:"required"`
		TgtName        *string `json:"tgt_name"`
		PSK            *string `json:"psk"`
		DHCHAPKey      string  `json:"dhchap_key"`
		DHCHAPCtrlrKey string  `json:"dhchap_ctrlr_key"`
	}
	if !c.decodeRelaxed(&req, badParamsInvalid) {
		return
	}
	s := c.subsystem(req.NQN, req.TgtName)
	if s == nil {
		return
	}
	keys, found := c.p.findKeys(req.DHCHAPKey, req.DHCHAPCtrlrKey)
	switch {
	case !found:
		c.fail(codeInvalidParams, "Invalid parameters")
	case !validNQN(req.Host) || s.host(req.Host) != nil || keys.host == nil && keys.controller != nil || req.PSK != nil:
		c.fail(codeInternalError, "Internal error")
	default:
		s.hosts = append([]allowedHost{{req.Host, keys}}, s.hosts...)
		if s.wire != nil {
			s.wire.SetHostKeys(req.Host, keys.wire())
			s.wire.AllowHost(req.Host)
		}
		c.ok(true)
	}
}

// nvmfSetKeys changes with what keys a host has to authenticate from now on; a key that isn't named is none any more.
func (c *call) nvmfSetKeys() {
	var req struct {
		NQN            string  `json:"nqn" rpc:"required"`
		Host           string  `json:"host" rpc:"required"`
		TgtName        *string `json:"tgt_name"`
		DHCHAPKey      string  `json:"dhchap_key"`
		DHCHAPCtrlrKey string  `json:"dhchap_ctrlr_key"`
	}
	if !c.decode(&req, badParamsInvalid) {
		return
	}
	s := c.subsystem(req.NQN, req.TgtName)
	if s == nil {
		return
	}
	keys, found := c.p.findKeys(req.DHCHAPKey, req.DHCHAPCtrlrKey)
	host := s.host(req.Host)
	switch {
	case !found:
		c.fail(codeInvalidParams, "Invalid parameters")
	case host == nil || keys.host == nil && keys.controller != nil:
		c.failErrno(errINVAL)
	default:
		host.keys = keys
		if s.wire != nil {
			s.wire.SetHostKeys(req.Host, keys.wire())
		}
		c.ok(true)
	}
}

func (c *call) nvmfRemoveHost() {
	var req struct {
		NQN       string  `json:"nqn" rpc:"required"`
		Host      string  `json:"host" rpc:"required"`
		TgtName   *string `json:"tgt_name"`
		TimeoutMS uint64  `json:"timeout_ms"`
	}
	if !c.decode(&req, badParamsInvalid) {
		return
	}
	s := c.subsystem(req.NQN, req.TgtName)
	if s == nil {
		return
	}
	if s.host(req.Host) == nil {
		c.fail(codeInternalError, "Internal error")
		return
	}
	s.hosts = slices.DeleteFunc(s.hosts, func(h allowedHost) bool { return h.nqn == req.Host })
	if s.wire == nil {
		c.ok(true)
		return
	}
	gone := s.wire.RemoveHost(req.Host)
	c.p.spawn(func(ctx context.Context) {
		var limit <-chan time.Time
		if req.TimeoutMS > 0 {
			t := c.p.node.cfg.Clock.NewTimer(time.Duration(req.TimeoutMS) * time.Millisecond)
			defer t.Stop()
			limit = t.C()
		}
		select {
		case <-gone:
			c.ok(true)
		case <-limit:
			c.fail(codeInternalError, "Timeout reached during host removal")
		case <-ctx.Done():
		}
	})
}

func (c *call) nvmfAllowAnyHost() {
	var req struct {
		NQN          string  `json:"nqn" rpc:"required"`
		AllowAnyHost bool    `json:"allow_any_host" rpc:"required"`
		TgtName      *string `json:"tgt_name"`
	}
	if !c.decode(&req, badParamsInvalid) {
		return
	}
	s := c.subsystem(req.NQN, req.TgtName)
	if s == nil {
		return
	}
	s.anyHost = req.AllowAnyHost
	if s.wire != nil {
		s.wire.SetAllowAnyHost(req.AllowAnyHost)
	}
	c.ok(true)
}

func (c *call) nvmfGetControllers() {
	var req subsystemRef
	if !c.decode(&req, badParamsInvalid) {
		return
	}
	s := c.subsystem(req.NQN, req.TgtName)
	if s == nil {
		return
	}
	list := []object{}
	if s.wire != nil {
		for _, info := range s.wire.Controllers() {
			list = append(list, obj("cntlid", info.CNTLID, "cntrltype", "io", "hostnqn", info.HostNQN,
				"hostid", uuid.UUID(info.HostID).String(), "num_io_qpairs", info.Queues))
		}
	}
	c.ok(list)
}

func (c *call) nvmfGetQpairs() {
	var req subsystemRef
	if !c.decode(&req, badParamsInvalid) {
		return
	}
	s := c.subsystem(req.NQN, req.TgtName)
	if s == nil {
		return
	}
	list := []object{}
	if s.wire != nil {
		for _, info := range s.wire.Controllers() {
			for qid := range info.Queues + 1 {
				list = append(list, obj("cntlid", info.CNTLID, "qid", qid, "state", "enabled", "thread", "nvmf_tgt_poll_group_000",
					"hostnqn", info.HostNQN, "listen_address", addrTrid(info.ListenAddr).json(), "peer_address", addrTrid(info.PeerAddr).json()))
			}
		}
	}
	c.ok(list)
}
