package sim

import (
	"context"
	"strings"
	"time"
)

func nvmeMethods() map[string]method {
	return map[string]method{
		"bdev_nvme_set_options":        anyTime((*call).nvmeSetOptions),
		"bdev_nvme_attach_controller":  runtime((*call).nvmeAttachController),
		"bdev_nvme_detach_controller":  runtime((*call).nvmeDetachController),
		"bdev_nvme_get_controllers":    runtime((*call).nvmeGetControllers),
		"bdev_nvme_set_keys":           runtime((*call).nvmeSetKeys),
		"bdev_nvme_reset_controller":   runtime((*call).nvmeResetController),
		"bdev_nvme_enable_controller":  runtime((*call).nvmeEnableController),
		"bdev_nvme_disable_controller": runtime((*call).nvmeDisableController),
	}
}

// describe is one element of "ctrlrs" in bdev_nvme_get_controllers.
func (c *nvmeCtrlr) describe() object {
	c.m.mu.Lock()
	state, cntlid := c.state(), c.cntlid
	c.m.mu.Unlock()
	return obj("state", state, "trid", c.trid.json(), "cntlid", cntlid, "host",
		obj("nqn", c.hostnqn, "addr", c.params.HostAddr, "svcid", c.params.HostSvcid, "no_shn_notification", false))
}

func (c *call) nvmeGetControllers() {
	var req struct {
		Name *string `json:"name"`
	}
	if !c.decodeIfAny(&req, badParamsInternal) {
		return
	}
	groups := c.p.nvme.groups
	if req.Name != nil {
		g := c.p.nvme.group(*req.Name)
		if g == nil {
			c.fail(int(errINVAL), "Controller "+*req.Name+" does not exist")
			return
		}
		groups = []*nvmeGroup{g}
	}
	list := []object{}
	for _, g := range groups {
		ctrlrs := []object{}
		for _, path := range g.paths {
			ctrlrs = append(ctrlrs, path.describe())
		}
		list = append(list, obj("name", g.name, "ctrlrs", ctrlrs))
	}
	c.ok(list)
}

// detachLimit is how long bdev_nvme_detach_controller waits for the path to go.
const detachLimit = 10 * time.Second

func (c *call) nvmeDetachController() {
	var req struct {
		Name      string `json:"name" rpc:"required"`
		Trtype    string `json:"trtype"`
		Traddr    string `json:"traddr"`
		Adrfam    string `json:"adrfam"`
		Trsvcid   string `json:"trsvcid"`
		SubNQN    string `json:"subnqn"`
		HostAddr  string `json:"hostaddr"`
		HostSvcid string `json:"hostsvcid"`
	}
	if !c.decode(&req, badParamsInternal) {
		return
	}
	g := c.p.nvme.group(req.Name)
	if g == nil {
		c.failErrno(errNODEV)
		return
	}
	match := func(want, have string) bool { return want == "" || strings.EqualFold(want, have) }
	var gone []*nvmeCtrlr
	for _, path := range append([]*nvmeCtrlr(nil), g.paths...) {
		t := path.trid
		if match(req.Trtype, t.trtype) && match(req.Traddr, t.traddr) && match(req.Adrfam, t.adrfam) &&
			match(req.Trsvcid, t.trsvcid) && match(req.SubNQN, t.subnqn) &&
			match(req.HostAddr, path.params.HostAddr) && match(req.HostSvcid, path.params.HostSvcid) {
			path.startDestruct()
			gone = append(gone, path)
		}
	}
	if len(gone) == 0 {
		c.failErrno(errNXIO)
		return
	}
	c.p.spawn(func(ctx context.Context) {
		limit := c.p.node.cfg.Clock.NewTimer(detachLimit)
		defer limit.Stop()
		for _, path := range gone {
			select {
			case <-path.ctx.Done():
			case <-limit.C():
				c.failErrno(errTIMEDOUT)
				return
			}
		}
		if ctx.Err() == nil {
			c.ok(true)
		}
	})
}

// ctrlrNamed finds what reset, enable and disable work on; it answers where there
// is nothing.
func (c *call) ctrlrNamed() []*nvmeCtrlr {
	var req struct {
		Name   string `json:"name" rpc:"required"`
		CNTLID uint16 `json:"cntlid"`
	}
	if !c.decode(&req, badParamsEINVAL) {
		return nil
	}
	g := c.p.nvme.group(req.Name)
	if g == nil {
		c.failErrno(errNODEV)
		return nil
	}
	if req.CNTLID == 0 {
		return append([]*nvmeCtrlr(nil), g.paths...)
	}
	for _, path := range g.paths {
		if path.cntlidNow() == req.CNTLID {
			return []*nvmeCtrlr{path}
		}
	}
	c.failErrno(errNODEV)
	return nil
}

// eachCtrlr runs op on one controller after the other until one fails.
func (c *call) eachCtrlr(ctrlrs []*nvmeCtrlr, op func(*nvmeCtrlr, func(errno)) errno) {
	if len(ctrlrs) == 0 {
		c.ok(true)
		return
	}
	next := func(rc errno) {
		if rc != 0 {
			c.failErrno(rc)
			return
		}
		c.eachCtrlr(ctrlrs[1:], op)
	}
	switch rc := op(ctrlrs[0], next); rc {
	case 0:
	case errALREADY:
		next(0)
	default:
		next(rc)
	}
}

func (c *call) nvmeResetController() {
	if ctrlrs := c.ctrlrNamed(); ctrlrs != nil {
		c.eachCtrlr(ctrlrs, (*nvmeCtrlr).reset)
	}
}

func (c *call) nvmeEnableController() {
	if ctrlrs := c.ctrlrNamed(); ctrlrs != nil {
		c.eachCtrlr(ctrlrs, (*nvmeCtrlr).enable)
	}
}

func (c *call) nvmeDisableController() {
	if ctrlrs := c.ctrlrNamed(); ctrlrs != nil {
		c.eachCtrlr(ctrlrs, (*nvmeCtrlr).disable)
	}
}

// enable connects a disabled controller again.
func (c *nvmeCtrlr) enable(done func(errno)) errno {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	switch {
	case c.destruct:
		return errNXIO
	case c.resetting:
		return errBUSY
	case !c.disabled:
		return errALREADY
	}
	c.disabled, c.resetting = false, true
	c.resetStart = c.m.p.now()
	c.onReset = done
	c.m.p.spawn(func(context.Context) { c.reconnect() })
	return 0
}

// disable disconnects a controller until it is enabled or reset again.
func (c *nvmeCtrlr) disable(done func(errno)) errno {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	switch {
	case c.destruct:
		return errNXIO
	case c.resetting:
		return errBUSY
	case c.disabled:
		return errALREADY
	}
	c.resetting, c.dontRetry = true, true
	c.cancelDelay()
	c.resetStart = c.m.p.now()
	c.m.p.spawn(func(context.Context) {
		c.disconnect()
		c.m.p.locked(func() {
			c.m.mu.Lock()
			c.resetting, c.dontRetry, c.pendingFO, c.disabled = false, false, false, true
			pending := c.pending
			c.pending = nil
			c.m.mu.Unlock()
			for _, ch := range pending {
				ch <- true
			}
			done(0)
		})
	})
	return 0
}

// driverSpecific shows the paths. The host side doesn't keep the subsystem's model
// and serial number: SPDK's defaults stand for them.
func (nb *nvmeBdev) driverSpecific() object {
	nss := []object{}
	for _, path := range nb.g.paths {
		nb.m.mu.Lock()
		_, active := path.namespaces[nb.nsid]
		cntlid, ana, reports := path.cntlid, path.anaState(nb.nsid), path.ana != nil
		nb.m.mu.Unlock()
		if !active {
			continue
		}
		ns := obj("id", nb.nsid)
		if reports {
			ns = ns.with("ana_state", strings.ReplaceAll(ana.String(), "-", "_"))
		}
		nss = append(nss, obj("trid", path.trid.json(), "ctrlr_data",
			obj("cntlid", cntlid, "vendor_id", "0x8086", "model_number", "SPDK bdev Controller", "serial_number", strings.Repeat("0", 20),
				"firmware_revision", "26.09", "subnqn", path.trid.subnqn,
				"oacs", obj("security", 0, "format", 0, "firmware", 0, "ns_manage", 0),
				"multi_ctrlr", true, "ana_reporting", reports),
			"vs", obj("nvme_version", "2.0"), "ns_data", ns.with("can_share", true)))
	}
	return obj("nvme", nss, "mp_policy", "active_passive")
}
