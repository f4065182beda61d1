package sim

import (
	"encoding/hex"
	"maps"
	"slices"
	"strings"
)

func frameworkMethods() map[string]method {
	return map[string]method{
		"rpc_get_methods":          anyTime((*call).rpcGetMethods),
		"spdk_get_version":         anyTime((*call).spdkGetVersion),
		"framework_get_config":     runtime((*call).frameworkGetConfig),
		"framework_get_subsystems": runtime((*call).frameworkGetSubsystems),
		"framework_get_reactors":   runtime((*call).frameworkGetReactors),
		"framework_start_init":     startup((*call).frameworkStartInit),
		"framework_wait_init":      anyTime((*call).frameworkWaitInit),
		"thread_get_stats":         runtime((*call).threadGetStats),
	}
}

func (c *call) rpcGetMethods() {
	var req struct {
		Current bool `json:"current"`
		Aliases bool `json:"include_aliases"`
	}
	if !c.decodeIfAny(&req, badParamsInvalid) {
		return
	}
	if req.Current {
		c.ok(methodNames(c.p.state))
		return
	}
	c.ok(methodNames(0))
}

// noParams answers where a method that takes no parameters was given some.
func (c *call) noParams() bool {
	if c.params == nil {
		return true
	}
	c.fail(codeInvalidParams, c.name+" method requires no parameters")
	return false
}

func (c *call) spdkGetVersion() {
	if !c.noParams() {
		return
	}
	c.ok(obj("version", "SPDK v26.09-pre git sha1 3230130e6a", "fields",
		obj("major", 26, "minor", 9, "patch", 0, "suffix", "-pre", "commit", "3230130e6a")))
}

func (c *call) frameworkStartInit() {
	if c.params != nil {
		c.fail(codeInvalidParams, "framework_start_init requires no parameters")
		return
	}
	// The application thread is the caller's; the configuration takes it itself.
	c.p.state = stateRuntime
	p := c.p
	p.mu.Unlock()
	err := p.initFramework()
	p.mu.Lock()
	if err != nil {
		c.fail(codeInternalError, err.Error())
		return
	}
	for _, fn := range p.initWaiter {
		fn()
	}
	p.initWaiter = nil
	c.ok(true)
}

func (c *call) frameworkWaitInit() {
	answer := func() { c.ok(true) }
	if c.p.state == stateRuntime {
		answer()
		return
	}
	c.p.initWaiter = append(c.p.initWaiter, answer)
}

func (c *call) frameworkGetSubsystems() {
	list := []object{}
	for _, s := range []struct {
		name string
		deps []string
	}{
		{"keyring", []string{}}, {"iobuf", []string{}}, {"sock", []string{}}, {"accel", []string{"iobuf"}},
		{"bdev", []string{"accel", "keyring", "sock", "iobuf"}}, {"nbd", []string{"bdev"}}, {"scheduler", []string{}},
		{"nvmf", []string{"bdev", "keyring", "sock", "accel", "iobuf"}},
	} {
		list = append(list, obj("subsystem", s.name, "depends_on", s.deps))
	}
	c.ok(list)
}

func (c *call) frameworkGetConfig() {
	var req struct {
		Name    string `json:"name" rpc:"required"`
		Batches bool   `json:"with_batches"`
	}
	if !c.decode(&req, badParamsInvalid) {
		return
	}
	switch req.Name {
	case "bdev":
		c.ok(c.p.bdevConfig())
	case "nvmf":
		c.ok(c.p.nvmfConfig())
	default:
		c.fail(codeInvalidParams, "Subsystem '"+req.Name+"' not found")
	}
}

func configMethod(name string, params any) object {
	if params == nil {
		return obj("method", name)
	}
	return obj("method", name, "params", params)
}

// bdevConfig is what would bring the bdev subsystem to its present state.
func (p *process) bdevConfig() []object {
	list := []object{
		configMethod("bdev_set_options", obj("bdev_io_pool_size", 65535, "bdev_io_cache_size", 256, "bdev_auto_examine", true,
			"iobuf_small_cache_size", 128, "iobuf_large_cache_size", 16)),
		configMethod("bdev_raid_set_options", p.raidOpts),
		configMethod("bdev_nvme_set_options", p.nvme.opts),
	}
	for _, g := range p.nvme.groups {
		for _, c := range g.paths {
			list = append(list, configMethod("bdev_nvme_attach_controller", append(append(obj("name", g.name), c.trid.json()...),
				obj("prchk_reftag", false, "prchk_guard", false, "ctrlr_loss_timeout_sec", c.params.CtrlrLoss,
					"reconnect_delay_sec", c.params.ReconnectDelay, "fast_io_fail_timeout_sec", c.params.FastIOFail,
					"hostnqn", c.hostnqn, "hdgst", c.params.HDGST, "ddgst", c.params.DDGST, "multipath", c.params.Multipath,
					"fabrics_connect_timeout_us", c.params.ConnectUS, "num_io_queues", c.params.IOQueues,
					"disable_sq_flow_control", c.params.NoSQFlow, "multipath_opts", c.params.MultipathOpts)...)))
		}
	}
	list = append(list, configMethod("bdev_nvme_set_hotplug", obj("period_us", 100000, "enable", false)))
	for _, b := range p.bdevs.list {
		switch d := b.dev.(type) {
		case *aioBdev:
			list = append(list, configMethod("bdev_aio_create", obj("name", b.name, "block_size", b.blockSize,
				"filename", d.params.Filename, "readonly", d.params.Readonly, "fallocate", d.params.Fallocate,
				"uuid", b.uuid.String(), "nowait", d.params.Nowait)))
		case *raidIO:
			list = append(list, configMethod("bdev_raid_create", obj("name", b.name, "uuid", b.uuid.String(),
				"raid_level", "raid1", "base_bdevs", d.r.configNames())))
		}
	}
	return append(list, configMethod("bdev_wait_for_examine", nil))
}

// nvmfConfig is what would bring the nvmf subsystem to its present state.
func (p *process) nvmfConfig() []object {
	defaults := defaultNVMeOptions()
	config := obj("discovery_filters", []string{}, "admin_cmd_passthru", adminPassthru{},
		"dhchap_digests", defaults.DHCHAPDigests, "dhchap_dhgroups", defaults.DHCHAPGroups, "dup_host_policy", "allow")
	if p.nvmf.mask != "" {
		config = config.with("poll_groups_mask", p.nvmf.mask)
	}
	list := []object{
		configMethod("nvmf_set_config", config),
		configMethod("nvmf_set_max_subsystems", obj("max_subsystems", 1024)),
		configMethod("nvmf_set_crdt", obj("crdt1", 0, "crdt2", 0, "crdt3", 0)),
	}
	if t := p.nvmf.transport; t != nil {
		list = append(list, configMethod("nvmf_create_transport", t))
	}
	for _, s := range p.nvmf.subs {
		q := s.params
		list = append(list, configMethod("nvmf_create_subsystem", obj("nqn", s.nqn, "allow_any_host", s.anyHost, "serial_number", q.Serial,
			"model_number", q.Model, "max_namespaces", q.MaxNamespaces, "min_cntlid", q.MinCNTLID, "max_cntlid", q.MaxCNTLID,
			"ana_reporting", q.ANA, "dmrsl", q.DMRSL, "wzsl", q.WZSL, "passthrough", q.Passthrough, "enable_nssr", q.EnableNSSR)))
	}
	for _, s := range p.nvmf.subs {
		for _, h := range s.hosts {
			list = append(list, configMethod("nvmf_subsystem_add_host", h.keys.describe(obj("nqn", s.nqn, "host", h.nqn))))
		}
		for _, nsid := range slices.Sorted(maps.Keys(s.nss)) {
			list = append(list, configMethod("nvmf_subsystem_add_ns", obj("nqn", s.nqn, "namespace", s.nss[nsid].config())))
		}
		for _, l := range s.lists {
			list = append(list, configMethod("nvmf_subsystem_add_listener", obj("nqn", s.nqn, "listen_address", l.trid.json(), "secure_channel", false)))
		}
	}
	return list
}

// config is the namespace as nvmf_subsystem_add_ns would be told of it.
func (ns *nvmfNamespace) config() object {
	o := obj("nsid", ns.nsid, "bdev_name", ns.desc.b.name)
	if ns.nguid != [16]byte{} {
		o = o.with("nguid", strings.ToUpper(hex.EncodeToString(ns.nguid[:])))
	}
	if ns.eui64 != "" {
		o = o.with("eui64", ns.eui64)
	}
	return o.with("uuid", ns.uuid.String()).with("anagrpid", ns.group).with("no_auto_visible", false)
}

// configNames are the raid's legs as its configuration names them.
func (r *raid) configNames() []string {
	names := []string{}
	for i, l := range r.legs {
		if l.name != "" {
			names = append(names, l.name)
		} else {
			names = append(names, "removed_base_bdev_"+string(rune('0'+i%10)))
		}
	}
	return names
}

func (c *call) frameworkGetReactors() {
	now := c.p.ticks()
	thread := func(name string, id int) object { return obj("name", name, "id", id, "cpumask", "1", "elapsed", now) }
	c.ok(obj("tick_rate", tickRate, "pid", 1, "reactors", []object{obj("lcore", 0, "numa_id", 0, "tid", 1, "busy", 0, "idle", now,
		"in_interrupt", false, "irq", 0, "sys", 0, "usr", 0,
		"lw_threads", []object{thread("app_thread", 1), thread("nvmf_tgt_poll_group_000", 2)})}))
}

func (c *call) threadGetStats() {
	if c.params != nil {
		c.fail(codeInvalidParams, "'thread_get_stats' requires no arguments")
		return
	}
	c.ok(obj("tick_rate", tickRate, "threads", []object{obj("name", "app_thread", "id", 1, "cpumask", "1", "busy", 0,
		"idle", c.p.ticks(), "active_pollers_count", 0, "timed_pollers_count", 0, "paused_pollers_count", 0)}))
}
