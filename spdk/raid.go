package spdk

import "context"

// RaidInfo is one raid as bdev_raid_get_bdevs describes it.
type RaidInfo struct {
	Name string `json:"name"`
	UUID string `json:"uuid"`
	// State is online, configuring or offline.
	State      string `json:"state"`
	RaidLevel  string `json:"raid_level"`
	Superblock bool   `json:"superblock"`
	// NumBaseBdevs is the number of slots, fixed when the raid was made.
	NumBaseBdevs            int            `json:"num_base_bdevs"`
	NumBaseBdevsDiscovered  int            `json:"num_base_bdevs_discovered"`
	NumBaseBdevsOperational int            `json:"num_base_bdevs_operational"`
	Process                 *RaidProcess   `json:"process"`
	BaseBdevsList           []RaidSlotInfo `json:"base_bdevs_list"`
}

// RaidProcess is a background process of a raid.
type RaidProcess struct {
	// Type is "rebuild".
	Type string `json:"type"`
	// Target is the bdev that is written.
	Target   string `json:"target"`
	Progress struct {
		Blocks  int64 `json:"blocks"`
		Percent int   `json:"percent"`
	} `json:"progress"`
}

// RaidSlotInfo is one slot of a raid.
type RaidSlotInfo struct {
	// Name is nil in an empty slot.
	Name         *string `json:"name"`
	UUID         string  `json:"uuid"`
	IsConfigured bool    `json:"is_configured"`
	// DataOffset and DataSize are in blocks.
	DataOffset int64 `json:"data_offset"`
	DataSize   int64 `json:"data_size"`
}

// BdevRaidGetBdevsParams chooses the raids to list.
type BdevRaidGetBdevsParams struct {
	// Category is all, online, configuring or offline.
	Category string `json:"category"`
}

var bdevRaidGetBdevs = register[BdevRaidGetBdevsParams, []RaidInfo]("bdev_raid_get_bdevs")

// BdevRaidGetBdevs lists raids.
func BdevRaidGetBdevs(ctx context.Context, c Caller, p BdevRaidGetBdevsParams) ([]RaidInfo, error) {
	return bdevRaidGetBdevs.call(ctx, c, p)
}

// BdevRaidCreateParams describes a new raid.
type BdevRaidCreateParams struct {
	Name string `json:"name"`
	// RaidLevel is raid1.
	RaidLevel string `json:"raid_level"`
	// BaseBdevs fill the slots in order. A bdev that does not exist leaves the raid
	// configuring, with an answer that says success.
	BaseBdevs []string `json:"base_bdevs"`
	UUID      string   `json:"uuid"`
	// Superblock is always false: with one, the data on a leg starts at an offset that
	// depends on the kind of bdev.
	Superblock bool `json:"superblock"`
}

var bdevRaidCreate = register[BdevRaidCreateParams, bool]("bdev_raid_create")

// BdevRaidCreate makes a raid. Only the state tells whether it is usable.
func BdevRaidCreate(ctx context.Context, c Caller, p BdevRaidCreateParams) error {
	return bdevRaidCreate.do(ctx, c, p)
}

// BdevRaidDeleteParams names a raid.
type BdevRaidDeleteParams struct {
	Name string `json:"name"`
}

var bdevRaidDelete = register[BdevRaidDeleteParams, bool]("bdev_raid_delete")

// BdevRaidDelete deletes a raid, even one that is exported.
func BdevRaidDelete(ctx context.Context, c Caller, p BdevRaidDeleteParams) error {
	return bdevRaidDelete.do(ctx, c, p)
}

// BdevRaidAddBaseBdevParams adds a bdev to a raid with an empty slot.
type BdevRaidAddBaseBdevParams struct {
	RaidBdev string `json:"raid_bdev"`
	BaseBdev string `json:"base_bdev"`
}

var bdevRaidAddBaseBdev = register[BdevRaidAddBaseBdevParams, bool]("bdev_raid_add_base_bdev")

// BdevRaidAddBaseBdev adds a leg and so starts its rebuild.
func BdevRaidAddBaseBdev(ctx context.Context, c Caller, p BdevRaidAddBaseBdevParams) error {
	return bdevRaidAddBaseBdev.do(ctx, c, p)
}

// BdevRaidRemoveBaseBdevParams names a bdev that is a leg of any raid.
type BdevRaidRemoveBaseBdevParams struct {
	Name string `json:"name"`
}

var bdevRaidRemoveBaseBdev = register[BdevRaidRemoveBaseBdevParams, bool]("bdev_raid_remove_base_bdev")

// BdevRaidRemoveBaseBdev takes a leg out of its raid.
func BdevRaidRemoveBaseBdev(ctx context.Context, c Caller, p BdevRaidRemoveBaseBdevParams) error {
	return bdevRaidRemoveBaseBdev.do(ctx, c, p)
}
