package sim

// nvmeOptions are those of bdev_nvme_set_options, in the order in which
// framework_get_config shows them.
type nvmeOptions struct {
	ActionOnTimeout     string        `json:"action_on_timeout" enum:"none,reset,abort"`
	TimeoutUS           uint64        `json:"timeout_us"`
	TimeoutAdminUS      uint64        `json:"timeout_admin_us"`
	KeepAliveMS         uint32        `json:"keep_alive_timeout_ms"`
	ArbitrationBurst    uint32        `json:"arbitration_burst"`
	LowPriority         uint32        `json:"low_priority_weight"`
	MediumPriority      uint32        `json:"medium_priority_weight"`
	HighPriority        uint32        `json:"high_priority_weight"`
	AdminPollUS         uint64        `json:"nvme_adminq_poll_period_us"`
	IOPollUS            uint64        `json:"nvme_ioq_poll_period_us"`
	IOQueueRequests     uint32        `json:"io_queue_requests"`
	DelayCmdSubmit      bool          `json:"delay_cmd_submit"`
	TransportRetryCount uint32        `json:"transport_retry_count"`
	BdevRetryCount      int32         `json:"bdev_retry_count"`
	TransportAckTimeout uint8         `json:"transport_ack_timeout"`
	CtrlrLossSec        int32         `json:"ctrlr_loss_timeout_sec"`
	ReconnectDelaySec   uint32        `json:"reconnect_delay_sec"`
	FastIOFailSec       uint32        `json:"fast_io_fail_timeout_sec"`
	DisableFailback     bool          `json:"disable_auto_failback"`
	GenerateUUIDs       bool          `json:"generate_uuids"`
	TransportTOS        uint8         `json:"transport_tos"`
	ErrorStat           bool          `json:"nvme_error_stat"`
	SRQSize             uint32        `json:"rdma_srq_size"`
	IOPathStat          bool          `json:"io_path_stat"`
	AccelSequence       bool          `json:"allow_accel_sequence"`
	MaxCQSize           uint32        `json:"rdma_max_cq_size"`
	CMEventMS           uint16        `json:"rdma_cm_event_timeout_ms"`
	DHCHAPDigests       []string      `json:"dhchap_digests" enum:"sha256,sha384,sha512"`
	DHCHAPGroups        []string      `json:"dhchap_dhgroups" enum:"null,ffdhe2048,ffdhe3072,ffdhe4096,ffdhe6144,ffdhe8192"`
	UMRPerIO            bool          `json:"rdma_umr_per_io"`
	TCPConnectMS        uint32        `json:"tcp_connect_timeout_ms"`
	EnableFlush         bool          `json:"enable_flush"`
	Multipath           multipathOpts `json:"multipath_opts"`
}

type multipathOpts struct {
	Policy   string `json:"policy" enum:"active_passive,active_active"`
	Selector string `json:"selector,omitempty" enum:"round_robin,queue_depth"`
	MinIO    uint32 `json:"min_io,omitempty"`
}

func defaultNVMeOptions() nvmeOptions {
	return nvmeOptions{ActionOnTimeout: "none", KeepAliveMS: 10000, AdminPollUS: 10000, DelayCmdSubmit: true,
		TransportRetryCount: 4, BdevRetryCount: 3, DHCHAPDigests: []string{"sha256", "sha384", "sha512"},
		DHCHAPGroups: []string{"null", "ffdhe2048", "ffdhe3072", "ffdhe4096", "ffdhe6144", "ffdhe8192"},
		Multipath:    multipathOpts{Policy: "active_passive"}}
}

// validate is bdev_nvme_validate_opts. A keep-alive above timeout_us or
// timeout_admin_us is only warned of.
func (o *nvmeOptions) validate() errno {
	if o.TimeoutUS == 0 && o.TimeoutAdminUS != 0 || o.BdevRetryCount < -1 {
		return errINVAL
	}
	return checkLoss(o.CtrlrLossSec, o.ReconnectDelaySec, o.FastIOFailSec)
}

// checkLoss is bdev_nvme_check_io_error_resiliency_params: reconnect <= fast fail
// <= loss, each unless it is 0, and nothing without a loss timeout.
func checkLoss(loss int32, delay, fast uint32) errno {
	switch {
	case loss < -1:
		return errINVAL
	case loss == 0:
		if delay != 0 || fast != 0 {
			return errINVAL
		}
	case delay == 0 || fast != 0 && fast < delay:
		return errINVAL
	case loss > 0 && (delay > uint32(loss) || fast > uint32(loss)):
		return errINVAL
	}
	return 0
}

func (c *call) nvmeSetOptions() {
	req := c.p.nvme.opts
	if !c.decodeIfAny(&req, badParamsInternal) {
		return
	}
	if rc := req.validate(); rc != 0 {
		c.failErrno(rc)
		return
	}
	if len(c.p.nvme.groups) > 0 {
		c.fail(int(errPERM), "RPC not permitted with nvme controllers already attached")
		return
	}
	c.p.nvme.opts = req
	c.ok(true)
}
