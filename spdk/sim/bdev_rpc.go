package sim

import (
	"time"
)

func bdevMethods() map[string]method {
	return map[string]method{
		"bdev_get_bdevs":            runtime((*call).bdevGetBdevs),
		"bdev_get_iostat":           runtime((*call).bdevGetIostat),
		"bdev_reset_iostat":         runtime((*call).bdevResetIostat),
		"bdev_set_qos_limit":        runtime((*call).bdevSetQosLimit),
		"bdev_wait_for_examine":     runtime((*call).bdevWaitForExamine),
		"bdev_set_options":          startup((*call).bdevSetOptions),
		"bdev_aio_create":           runtime((*call).bdevAIOCreate),
		"bdev_aio_rescan":           runtime((*call).bdevAIORescan),
		"bdev_aio_delete":           runtime((*call).bdevAIODelete),
		"bdev_malloc_create":        runtime((*call).bdevMallocCreate),
		"bdev_malloc_delete":        runtime((*call).bdevMallocDelete),
		"bdev_null_create":          runtime((*call).bdevNullCreate),
		"bdev_null_delete":          runtime((*call).bdevNullDelete),
		"bdev_null_resize":          runtime((*call).bdevNullResize),
		"bdev_error_create":         runtime((*call).bdevErrorCreate),
		"bdev_error_delete":         runtime((*call).bdevErrorDelete),
		"bdev_error_inject_error":   runtime((*call).bdevErrorInjectError),
		"bdev_error_resume_pending": runtime((*call).bdevErrorResumePending),
	}
}

// describe is one element of bdev_get_bdevs.
func (b *bdev) describe() object {
	units := b.info.ioUnits
	o := obj("name", b.name, "aliases", append([]string{}, b.aliases...), "product_name", b.product,
		"block_size", b.blockSize, "num_blocks", b.numBlocks.Load(),
		"preferred_write_alignment", units[0], "preferred_write_granularity", units[1],
		"optimal_write_size", units[2], "preferred_unmap_alignment", units[3],
		"preferred_unmap_granularity", units[4], "uuid", b.uuid.String())
	if b.info.numa {
		o = o.with("numa_id", -1)
	}
	limits := object{}
	for i, l := range b.qos.get() {
		limits = limits.with(qosNames[i], l)
	}
	o = o.with("assigned_rate_limits", limits).with("claimed", b.claim != "")
	if b.claim != "" {
		o = o.with("claim_type", claimType(b.claim))
	}
	types := object{}
	for t, name := range ioTypeNames {
		types = types.with(name, b.supports(ioType(t)))
	}
	o = o.with("zoned", false).with("supported_io_types", types)
	domains := []object{}
	for _, d := range b.memoryDomains() {
		domains = append(domains, obj("dma_device_type", d))
	}
	if len(domains) > 0 {
		o = o.with("memory_domains", domains)
	}
	return o.with("driver_specific", b.dev.driverSpecific())
}

// claimType is the kind of claim that a module takes.
func claimType(module string) string {
	if module == "lvol" {
		return "read_many_write_one"
	}
	return "exclusive_write"
}

// memoryDomains are the bdev's own or, of a raid, those of its legs.
func (b *bdev) memoryDomains() []string {
	rio, ok := b.dev.(*raidIO)
	if !ok {
		return b.info.memDomains
	}
	var all []string
	for _, l := range rio.r.legs {
		if l.desc != nil {
			all = append(all, l.desc.b.memoryDomains()...)
		}
	}
	return all
}

// maxRaidDomains is how many memory domains of its bdevs a raid lists.
const maxRaidDomains = 16

// diesOfListing ends the process where SPDK follows a null pointer: at a raid whose bdevs have more memory domains than it has room for
// (module/bdev/raid/bdev_raid.c, raid_bdev_get_memory_domain_types).
func (c *call) diesOfListing(b *bdev) bool {
	if _, ok := b.dev.(*raidIO); !ok || len(b.memoryDomains()) <= maxRaidDomains {
		return false
	}
	c.p.node.crash(c.p, "bdev_get_bdevs on raid "+b.name+", whose bdevs have more than 16 memory domains")
	return true
}

func (c *call) bdevGetBdevs() {
	var req struct {
		Name    *string `json:"name"`
		Timeout uint64  `json:"timeout"`
	}
	if !c.decodeIfAny(&req, badParamsInternal) {
		return
	}
	r := &c.p.bdevs
	if req.Name == nil {
		list := []object{}
		for _, b := range r.list {
			if b.removing {
				continue
			}
			if c.diesOfListing(b) {
				return
			}
			list = append(list, b.describe())
		}
		c.ok(list)
		return
	}
	answer := func() bool {
		b := r.byName(*req.Name)
		if b == nil || b.removing {
			return false
		}
		if !c.diesOfListing(b) {
			c.ok([]object{b.describe()})
		}
		return true
	}
	switch {
	case answer():
	case req.Timeout == 0:
		c.failErrno(errNODEV)
	default:
		c.waitForBdev(*req.Name, time.Duration(req.Timeout)*time.Millisecond, answer)
	}
}

// waitForBdev calls answer when a bdev of that name comes up; when time is over
// without one the call fails with errTIMEDOUT.
func (c *call) waitForBdev(name string, timeout time.Duration, answer func() bool) {
	r := &c.p.bdevs
	w := &nameWaiter{name: name}
	stop := c.p.after(timeout, func() {
		c.p.locked(func() {
			if w.fn == nil {
				return
			}
			w.fn = func() {}
			c.failErrno(errTIMEDOUT)
		})
	})
	w.fn = func() {
		stop()
		w.fn = nil
		answer()
	}
	r.wait = append(r.wait, w)
}

func (b *bdev) iostat() object {
	b.stat.mu.Lock()
	defer b.stat.mu.Unlock()
	s := &b.stat
	o := obj("name", b.name,
		"bytes_read", s.read.bytes, "num_read_ops", s.read.ops,
		"bytes_written", s.write.bytes, "num_write_ops", s.write.ops,
		"bytes_unmapped", s.unmap.bytes, "num_unmap_ops", s.unmap.ops,
		"bytes_copied", 0, "num_copy_ops", 0,
		"read_latency_ticks", s.read.ticks, "max_read_latency_ticks", s.read.maxTk, "min_read_latency_ticks", s.read.minTick,
		"write_latency_ticks", s.write.ticks, "max_write_latency_ticks", s.write.maxTk, "min_write_latency_ticks", s.write.minTick,
		"unmap_latency_ticks", s.unmap.ticks, "max_unmap_latency_ticks", s.unmap.maxTk, "min_unmap_latency_ticks", s.unmap.minTick,
		"copy_latency_ticks", 0, "max_copy_latency_ticks", 0, "min_copy_latency_ticks", 0,
		"io_error", ioErrors(s.errors))
	if _, ok := b.dev.(*nvmeBdev); ok {
		o = o.with("driver_specific", object{})
	}
	return o
}

func ioErrors(n uint64) object {
	if n == 0 {
		return object{}
	}
	return obj("failed", n)
}

func (c *call) bdevGetIostat() {
	var req struct {
		Names      *[]string `json:"names"`
		PerChannel bool      `json:"per_channel"`
		ResetMode  string    `json:"reset_mode" enum:"all,maxmin,error,none"`
	}
	if !c.decodeIfAny(&req, badParamsInternal) {
		return
	}
	if req.PerChannel && (req.Names == nil || len(*req.Names) != 1) {
		c.failErrno(errINVAL)
		return
	}
	var bdevs []*bdev
	if req.Names == nil {
		bdevs = c.p.bdevs.list
	} else {
		for _, name := range *req.Names {
			b := c.p.bdevs.byName(name)
			if b == nil {
				c.failErrno(errNODEV)
				return
			}
			bdevs = append(bdevs, b)
		}
	}
	stats := []object{}
	for _, b := range bdevs {
		stats = append(stats, b.iostat())
	}
	head := obj("tick_rate", tickRate, "ticks", c.p.ticks())
	if req.PerChannel {
		channel := append(obj("thread_id", 1), stats[0][1:]...)
		c.ok(head.with("name", bdevs[0].name).with("channels", []object{channel}))
		return
	}
	c.ok(head.with("bdevs", stats))
}

func (c *call) bdevResetIostat() {
	var req struct {
		Name *string `json:"name"`
		Mode string  `json:"mode" enum:"all,maxmin,error,none"`
	}
	if !c.decodeIfAny(&req, badParamsInternal) {
		return
	}
	if req.Name != nil && c.p.bdevs.byName(*req.Name) == nil {
		c.failErrno(errNODEV)
		return
	}
	for _, b := range c.p.bdevs.list {
		if req.Name != nil && c.p.bdevs.byName(*req.Name) != b {
			continue
		}
		b.stat.mu.Lock()
		b.stat.read, b.stat.write, b.stat.unmap, b.stat.errors = opStat{}, opStat{}, opStat{}, 0
		b.stat.mu.Unlock()
	}
	c.ok(true)
}

func (c *call) bdevSetQosLimit() {
	req := struct {
		Name string `json:"name" rpc:"required"`
		IOPS uint64 `json:"rw_ios_per_sec"`
		RW   uint64 `json:"rw_mbytes_per_sec"`
		R    uint64 `json:"r_mbytes_per_sec"`
		W    uint64 `json:"w_mbytes_per_sec"`
	}{IOPS: qosUnset, RW: qosUnset, R: qosUnset, W: qosUnset}
	if !c.decode(&req, badParamsInternal) {
		return
	}
	b := c.p.bdevs.byName(req.Name)
	if b == nil || b.removing {
		c.failErrno(errNODEV)
		return
	}
	limits := [4]uint64{req.IOPS, req.RW, req.R, req.W}
	if limits == [4]uint64{qosUnset, qosUnset, qosUnset, qosUnset} {
		c.fail(int(errINVAL), "No rate limits specified")
		return
	}
	b.qos.set(limits)
	c.ok(true)
}

func (c *call) bdevWaitForExamine() {
	if c.params != nil {
		c.fail(codeInvalidParams, "bdev_wait_for_examine requires no parameters")
		return
	}
	c.ok(true)
}

func (c *call) bdevSetOptions() {
	var req struct {
		PoolSize    uint32 `json:"bdev_io_pool_size"`
		CacheSize   uint32 `json:"bdev_io_cache_size"`
		AutoExamine bool   `json:"bdev_auto_examine"`
		SmallCache  uint32 `json:"iobuf_small_cache_size"`
		LargeCache  uint32 `json:"iobuf_large_cache_size"`
	}
	if !c.decodeIfAny(&req, badParamsInvalid) {
		return
	}
	c.ok(true)
}
