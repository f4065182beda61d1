package sim

import (
	"strconv"
	"strings"
)

// nvmfTransport is the TCP transport and its options, in the order in which
// nvmf_get_transports shows them.
type nvmfTransport struct {
	Trtype        string `json:"trtype"`
	MaxQueueDepth uint16 `json:"max_queue_depth"`
	MaxIOQpairs   uint16 `json:"max_io_qpairs_per_ctrlr"`
	InCapsule     uint32 `json:"in_capsule_data_size"`
	MaxIOSize     uint32 `json:"max_io_size"`
	MaxAQDepth    uint32 `json:"max_aq_depth"`
	SmallCache    uint32 `json:"iobuf_small_cache_size"`
	LargeCache    uint32 `json:"iobuf_large_cache_size"`
	DIF           bool   `json:"dif_insert_or_strip"`
	Zcopy         bool   `json:"zcopy"`
	C2HSuccess    bool   `json:"c2h_success"`
	SockPriority  uint32 `json:"sock_priority"`
	AbortTimeout  uint32 `json:"abort_timeout_sec"`
	AckTimeout    uint32 `json:"ack_timeout"`
	DataWRPool    uint32 `json:"data_wr_pool_size"`
	NoCmdPassthru bool   `json:"disable_command_passthru"`
	KAS           uint16 `json:"kas"`
	MinKATO       uint32 `json:"min_kato"`
}

// createTransportParams are the parameters of nvmf_create_transport, the options
// among them.
type createTransportParams struct {
	Trtype           string   `json:"trtype" rpc:"required"`
	TgtName          *string  `json:"tgt_name"`
	MaxQueueDepth    uint16   `json:"max_queue_depth"`
	MaxIOQpairs      uint16   `json:"max_io_qpairs_per_ctrlr"`
	InCapsule        uint32   `json:"in_capsule_data_size"`
	MaxIOSize        uint32   `json:"max_io_size"`
	IOUnitSize       uint32   `json:"io_unit_size"`
	MaxAQDepth       uint32   `json:"max_aq_depth"`
	SharedBuffers    uint32   `json:"num_shared_buffers"`
	BufCacheSize     uint32   `json:"buf_cache_size"`
	SmallCache       uint32   `json:"iobuf_small_cache_size"`
	LargeCache       uint32   `json:"iobuf_large_cache_size"`
	Zcopy            bool     `json:"zcopy"`
	NumCQE           int32    `json:"num_cqe"`
	MaxSRQDepth      uint32   `json:"max_srq_depth"`
	NoSRQ            bool     `json:"no_srq"`
	C2HSuccess       bool     `json:"c2h_success"`
	DIF              bool     `json:"dif_insert_or_strip"`
	SockPriority     uint32   `json:"sock_priority"`
	AcceptorBacklog  int32    `json:"acceptor_backlog"`
	AbortTimeout     uint32   `json:"abort_timeout_sec"`
	NoWRBatching     bool     `json:"no_wr_batching"`
	ControlMsgNum    uint16   `json:"control_msg_num"`
	NoMappableBar0   bool     `json:"disable_mappable_bar0"`
	NoAdaptiveIRQ    bool     `json:"disable_adaptive_irq"`
	NoShadowDoorbell bool     `json:"disable_shadow_doorbells"`
	AcceptorPollRate uint32   `json:"acceptor_poll_rate"`
	AckTimeout       uint32   `json:"ack_timeout"`
	DataWRPool       uint32   `json:"data_wr_pool_size"`
	NoCmdPassthru    bool     `json:"disable_command_passthru"`
	KAS              uint16   `json:"kas"`
	MinKATO          uint32   `json:"min_kato"`
	MaskedONCS       []string `json:"masked_oncs" enum:"nvmcmps,nvmdsmsv,nvmwzsv,reservs,nvmcpys"`
	MaskedFuses      []string `json:"masked_fuses" enum:"fcws"`
}

// defaultTransport holds lib/nvmf/tcp.c's and transport.c's defaults.
func defaultTransport(trtype string) createTransportParams {
	return createTransportParams{Trtype: trtype, MaxQueueDepth: 128, MaxIOQpairs: 127, InCapsule: 4096, MaxIOSize: 128 << 10,
		MaxAQDepth: 128, SmallCache: ^uint32(0), LargeCache: ^uint32(0), C2HSuccess: true, AbortTimeout: 1, KAS: 100, MinKATO: 10000}
}

func nvmfMethods() map[string]method {
	return map[string]method{
		"nvmf_create_transport":   runtime((*call).nvmfCreateTransport),
		"nvmf_get_transports":     runtime((*call).nvmfGetTransports),
		"nvmf_get_stats":          runtime((*call).nvmfGetStats),
		"nvmf_get_targets":        runtime((*call).nvmfGetTargets),
		"nvmf_set_config":         startup((*call).nvmfSetConfig),
		"nvmf_set_max_subsystems": startup((*call).nvmfSetMaxSubsystems),
	}
}

// targetNamed refuses a target other than the only one.
func (c *call) targetNamed(name *string) bool {
	if name != nil && *name != "nvmf_tgt" {
		c.fail(codeInternalError, "Unable to find a target.")
		return false
	}
	return true
}

func (c *call) nvmfCreateTransport() {
	var head createTransportParams
	if !c.decodeRelaxed(&head, badParamsInvalid) || !c.targetNamed(head.TgtName) {
		return
	}
	if !strings.EqualFold(head.Trtype, "TCP") {
		c.fail(codeInvalidParams, "Invalid transport type '"+head.Trtype+"'")
		return
	}
	req := defaultTransport(head.Trtype)
	if !c.decodeRelaxed(&req, badParamsInvalid) {
		return
	}
	n := &c.p.nvmf
	if n.transport != nil {
		c.fail(codeInternalError, "Transport type '"+head.Trtype+"' already exists")
		return
	}
	if req.BufCacheSize != 0 {
		req.SmallCache = req.BufCacheSize
	}
	if req.KAS == 0 || req.MaxQueueDepth == 0 || req.MaxIOSize == 0 {
		c.fail(codeInternalError, "Failed to create transport.")
		return
	}
	// min_kato is at least one unit of kas.
	n.start(&nvmfTransport{Trtype: "TCP", MaxQueueDepth: req.MaxQueueDepth, MaxIOQpairs: req.MaxIOQpairs, InCapsule: req.InCapsule,
		MaxIOSize: req.MaxIOSize, MaxAQDepth: req.MaxAQDepth, SmallCache: req.SmallCache, LargeCache: req.LargeCache,
		DIF: req.DIF, Zcopy: req.Zcopy, C2HSuccess: req.C2HSuccess, SockPriority: req.SockPriority,
		AbortTimeout: req.AbortTimeout, AckTimeout: req.AckTimeout, DataWRPool: req.DataWRPool,
		NoCmdPassthru: req.NoCmdPassthru, KAS: req.KAS, MinKATO: max(req.MinKATO, uint32(req.KAS)*100)})
	c.ok(true)
}

func (c *call) nvmfGetTransports() {
	var req struct {
		TgtName *string `json:"tgt_name"`
		Trtype  *string `json:"trtype"`
	}
	if !c.decodeIfAny(&req, badParamsInvalid) || !c.targetNamed(req.TgtName) {
		return
	}
	list := []*nvmfTransport{}
	if t := c.p.nvmf.transport; t != nil && (req.Trtype == nil || strings.EqualFold(*req.Trtype, t.Trtype)) {
		list = append(list, t)
	} else if req.Trtype != nil {
		c.failErrno(errNODEV)
		return
	}
	c.ok(list)
}

func (c *call) nvmfGetStats() {
	var req struct {
		TgtName *string `json:"tgt_name"`
	}
	if !c.decodeIfAny(&req, badParamsInvalid) || !c.targetNamed(req.TgtName) {
		return
	}
	admin, io := 0, 0
	for _, s := range c.p.nvmf.subs {
		if s.wire == nil {
			continue
		}
		for _, info := range s.wire.Controllers() {
			admin++
			io += info.Queues
		}
	}
	transports := []object{}
	if c.p.nvmf.transport != nil {
		transports = append(transports, obj("trtype", "TCP"))
	}
	c.ok(obj("tick_rate", tickRate, "poll_groups", []object{obj("name", "nvmf_tgt_poll_group_000",
		"admin_qpairs", admin, "io_qpairs", io, "current_admin_qpairs", admin, "current_io_qpairs", io,
		"current_unassociated_qpairs", 0, "pending_bdev_io", 0, "completed_nvme_io", 0, "transports", transports)}))
}

func (c *call) nvmfGetTargets() { c.ok([]string{"nvmf_tgt"}) }

// adminPassthru are the admin commands that a target hands on to its bdevs.
type adminPassthru struct {
	IdentifyCtrlr    bool `json:"identify_ctrlr"`
	IdentifyUUIDList bool `json:"identify_uuid_list"`
	GetLogPage       bool `json:"get_log_page"`
	GetSetFeatures   bool `json:"get_set_features"`
	Sanitize         bool `json:"sanitize"`
	Security         bool `json:"security_send_recv"`
	FWUpdate         bool `json:"fw_update"`
	NVMeMI           bool `json:"nvme_mi"`
	VendorSpecific   bool `json:"vendor_specific"`
}

// nvmfSetConfig keeps the cores of the poll groups, a hexadecimal mask, and how hosts
// may authenticate; the rest has no effect here.
func (c *call) nvmfSetConfig() {
	var req struct {
		Mask          string        `json:"poll_groups_mask"`
		Passthru      adminPassthru `json:"admin_cmd_passthru"`
		Filter        string        `json:"discovery_filter"`
		Filters       []string      `json:"discovery_filters"`
		Digests       []string      `json:"dhchap_digests" enum:"sha256,sha384,sha512"`
		Groups        []string      `json:"dhchap_dhgroups" enum:"null,ffdhe2048,ffdhe3072,ffdhe4096,ffdhe6144,ffdhe8192"`
		DupHostPolicy string        `json:"dup_host_policy" enum:"allow,deny"`
	}
	if !c.decodeIfAny(&req, badParamsInvalid) {
		return
	}
	mask := strings.TrimPrefix(req.Mask, "0x")
	if _, err := strconv.ParseUint(mask, 16, 64); req.Mask != "" && err != nil {
		c.fail(badParamsInvalid.code, badParamsInvalid.message)
		return
	}
	c.p.nvmf.mask, c.p.nvmf.auth = mask, algorithms(req.Digests, req.Groups)
	c.ok(true)
}

func (c *call) nvmfSetMaxSubsystems() {
	var req struct {
		Max uint32 `json:"max_subsystems" rpc:"required"`
	}
	if !c.decode(&req, badParamsInvalid) {
		return
	}
	c.ok(true)
}
