package sim

import (
	"slices"

	"github.com/google/uuid"
)

func raidMethods() map[string]method {
	return map[string]method{
		"bdev_raid_create":           runtime((*call).raidCreate),
		"bdev_raid_delete":           runtime((*call).raidDelete),
		"bdev_raid_get_bdevs":        runtime((*call).raidGetBdevs),
		"bdev_raid_add_base_bdev":    runtime((*call).raidAddBaseBdev),
		"bdev_raid_remove_base_bdev": runtime((*call).raidRemoveBaseBdev),
		"bdev_raid_set_options":      anyTime((*call).raidSetOptions),
	}
}

// info is what bdev_raid_get_bdevs shows of a raid but for its name.
func (r *raid) info() object {
	o := obj("uuid", r.uuid.String(), "strip_size_kb", 0, "state", string(r.state), "raid_level", "raid1",
		"superblock", false, "num_base_bdevs", len(r.legs), "num_base_bdevs_discovered", r.discovered,
		"num_base_bdevs_operational", r.operational)
	if rb := r.rebuild; rb != nil && r.bdev != nil {
		blocks := rb.offset / int64(r.io.blockSize)
		o = o.with("process", obj("type", "rebuild", "target", rb.target.name, "progress",
			obj("blocks", blocks, "percent", uint32(float64(blocks)*100/float64(r.bdev.numBlocks.Load())))))
	}
	legs := []object{}
	for _, l := range r.legs {
		var name any
		if l.name != "" {
			name = l.name
		}
		legs = append(legs, obj("name", name, "uuid", l.uuid.String(), "is_configured", l.configured,
			"data_offset", 0, "data_size", l.dataSize))
	}
	return o.with("base_bdevs_list", legs)
}

func (c *call) raidGetBdevs() {
	var req struct {
		Category string `json:"category" rpc:"required" enum:"online,configuring,offline,all"`
	}
	if !c.decode(&req, badParamsParse) {
		return
	}
	list := []object{}
	for _, r := range c.p.raids {
		if req.Category == "all" || raidState(req.Category) == r.state {
			list = append(list, append(obj("name", r.name), r.info()...))
		}
	}
	c.ok(list)
}

func (c *call) raidCreate() {
	var req struct {
		Name       string    `json:"name" rpc:"required"`
		StripKB    uint32    `json:"strip_size_kb"`
		Level      string    `json:"raid_level" rpc:"required" enum:"raid0,0,raid1,1,raid5f,5f,concat"`
		BaseBdevs  []string  `json:"base_bdevs" rpc:"required"`
		UUID       uuid.UUID `json:"uuid"`
		Superblock bool      `json:"superblock"`
	}
	if !c.decode(&req, badParamsParse) {
		return
	}
	refuse := func(rc errno) {
		c.fail(int(rc), "Failed to create RAID bdev "+req.Name+": "+rc.strerror())
	}
	switch {
	case slices.Contains(req.BaseBdevs, ""):
		c.fail(int(errINVAL), "The base bdev name cannot be empty: "+errINVAL.strerror())
		return
	case req.Superblock:
		c.fail(int(errNOTSUP), "The simulator has no raid superblocks: create the raid with superblock false")
		return
	case req.Level != "raid1" && req.Level != "1":
		c.fail(int(errNOTSUP), "The simulator knows raid1 only, not "+req.Level)
		return
	case req.StripKB != 0:
		refuse(errINVAL)
		return
	}
	r, rc := c.p.newRaid(req.Name, req.UUID, req.BaseBdevs)
	if rc != 0 {
		refuse(rc)
		return
	}
	r.configureAll(func(rc errno) {
		if rc != 0 {
			refuse(rc)
			return
		}
		c.ok(true)
	})
}

func (c *call) raidDelete() {
	var req struct {
		Name    string `json:"name" rpc:"required"`
		ClearSB bool   `json:"clear_sb"`
	}
	if !c.decode(&req, badParamsParse) {
		return
	}
	r := c.p.raidByName(req.Name)
	if r == nil {
		c.fail(int(errNODEV), "raid bdev "+req.Name+" not found")
		return
	}
	r.delete(func(rc errno) { c.done(rc, codeInternalError) })
}

func (c *call) raidAddBaseBdev() {
	var req struct {
		Raid string `json:"raid_bdev" rpc:"required"`
		Base string `json:"base_bdev" rpc:"required"`
	}
	if !c.decode(&req, badParamsInternal) {
		return
	}
	r := c.p.raidByName(req.Raid)
	if r == nil {
		c.fail(int(errNODEV), "raid bdev "+req.Raid+" is not found in config")
		return
	}
	rc := r.add(req.Base, func(rc errno) {
		if rc != 0 {
			c.fail(int(rc), "Failed to add base bdev to RAID bdev: "+rc.strerror())
			return
		}
		c.ok(true)
	})
	if rc != 0 {
		c.fail(int(rc), "Failed to add base bdev "+req.Base+" to RAID bdev "+req.Raid+": "+rc.strerror())
	}
}

func (c *call) raidRemoveBaseBdev() {
	var req struct {
		Name string `json:"name" rpc:"required"`
	}
	if !c.decode(&req, badParamsParse) {
		return
	}
	answer := func(rc errno) {
		if rc != 0 {
			c.fail(int(rc), "Failed to remove base bdev from raid bdev")
			return
		}
		c.ok(true)
	}
	b := c.p.bdevs.byName(req.Name)
	if b == nil || b.removing {
		answer(errNODEV)
		return
	}
	l := c.p.legByBdev(b)
	if l == nil {
		answer(errNODEV)
		return
	}
	if rc := l.remove(answer); rc != 0 {
		answer(rc)
	}
}

func (c *call) raidSetOptions() {
	req := c.p.raidOpts
	if !c.decodeIfAny(&req, badParamsParse) {
		return
	}
	if req.WindowKB == 0 {
		c.failErrno(errINVAL)
		return
	}
	c.p.raidOpts = req
	c.ok(true)
}
