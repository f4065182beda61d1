package spdk

import (
	"context"
	"encoding/json"
	"slices"
)

// Bdev is one block device as bdev_get_bdevs describes it.
type Bdev struct {
	// Name is the canonical name; an lvol's is its UUID.
	Name string `json:"name"`
	// Aliases are further names; an lvol's is "lvstore/lvol".
	Aliases []string `json:"aliases"`
	// ProductName tells the module, for example "Logical Volume".
	ProductName string `json:"product_name"`
	// BlockSize is in bytes.
	BlockSize int `json:"block_size"`
	// NumBlocks is the size in blocks.
	NumBlocks int64  `json:"num_blocks"`
	UUID      string `json:"uuid"`
	// Claimed is true while a raid, a lvstore or an NVMe-oF namespace holds the bdev.
	Claimed bool `json:"claimed"`
	// SupportedIOTypes is fixed when the bdev is registered.
	SupportedIOTypes BdevIOTypes `json:"supported_io_types"`
	// AssignedRateLimits are the limits in force (bdev_set_qos_limit).
	AssignedRateLimits RateLimits `json:"assigned_rate_limits"`
	// DriverSpecific is what the bdev's module adds.
	DriverSpecific BdevDriverSpecific `json:"driver_specific"`
}

// BdevIOTypes holds the parts of supported_io_types that the driver reads.
type BdevIOTypes struct {
	Unmap bool `json:"unmap"`
}

// BdevDriverSpecific holds the parts of driver_specific that the driver reads.
type BdevDriverSpecific struct {
	Lvol *BdevLvol `json:"lvol"`
	// Raid is without its name, which is the bdev's.
	Raid *RaidInfo `json:"raid"`
}

// BdevLvol describes the lvol behind a bdev.
type BdevLvol struct {
	LvolStoreUUID        string `json:"lvol_store_uuid"`
	BaseBdev             string `json:"base_bdev"`
	ThinProvision        bool   `json:"thin_provision"`
	NumAllocatedClusters int64  `json:"num_allocated_clusters"`
	Snapshot             bool   `json:"snapshot"`
	Clone                bool   `json:"clone"`
	// BaseSnapshot is the name of the snapshot that a clone was made of, without its lvstore.
	BaseSnapshot string `json:"base_snapshot"`
	// Clones are the names of the lvols that lie on a snapshot, without their lvstore.
	Clones []string `json:"clones"`
}

// SizeBytes returns the size of the bdev.
func (b Bdev) SizeBytes() int64 { return b.NumBlocks * int64(b.BlockSize) }

// Is reports whether name is the bdev's name or one of its aliases.
func (b Bdev) Is(name string) bool {
	return b.Name == name || slices.Contains(b.Aliases, name)
}

// BdevGetBdevsParams chooses the bdevs to list; the zero value lists all.
type BdevGetBdevsParams struct {
	// Name is a name or an alias. SPDK answers -ENODEV when there is no such bdev.
	Name string `json:"name,omitempty"`
}

var bdevGetBdevs = register[BdevGetBdevsParams, []Bdev]("bdev_get_bdevs")

// BdevGetBdevs lists bdevs.
func BdevGetBdevs(ctx context.Context, c Caller, p BdevGetBdevsParams) ([]Bdev, error) {
	return bdevGetBdevs.call(ctx, c, p)
}

// BdevNullCreateParams describes a bdev that holds nothing: writes vanish.
type BdevNullCreateParams struct {
	Name string `json:"name"`
	// BlockSize is in bytes.
	BlockSize int `json:"block_size"`
	// NumBlocks is the size in blocks.
	NumBlocks int64 `json:"num_blocks"`
}

var bdevNullCreate = register[BdevNullCreateParams, string]("bdev_null_create")

// BdevNullCreate makes a null bdev and returns its name.
func BdevNullCreate(ctx context.Context, c Caller, p BdevNullCreateParams) (string, error) {
	return bdevNullCreate.call(ctx, c, p)
}

// BdevNullDeleteParams names a null bdev.
type BdevNullDeleteParams struct {
	Name string `json:"name"`
}

var bdevNullDelete = register[BdevNullDeleteParams, bool]("bdev_null_delete")

// BdevNullDelete deletes a null bdev.
func BdevNullDelete(ctx context.Context, c Caller, p BdevNullDeleteParams) error {
	return bdevNullDelete.do(ctx, c, p)
}

// BdevMallocCreateParams describes a bdev in the memory of the process.
type BdevMallocCreateParams struct {
	Name string `json:"name"`
	// BlockSize is in bytes.
	BlockSize int `json:"block_size"`
	// NumBlocks is the size in blocks.
	NumBlocks int64 `json:"num_blocks"`
}

var bdevMallocCreate = register[BdevMallocCreateParams, string]("bdev_malloc_create")

// BdevMallocCreate makes a malloc bdev and returns its name.
func BdevMallocCreate(ctx context.Context, c Caller, p BdevMallocCreateParams) (string, error) {
	return bdevMallocCreate.call(ctx, c, p)
}

// BdevMallocDeleteParams names a malloc bdev.
type BdevMallocDeleteParams struct {
	Name string `json:"name"`
}

var bdevMallocDelete = register[BdevMallocDeleteParams, bool]("bdev_malloc_delete")

// BdevMallocDelete deletes a malloc bdev, and what is made on it: of an lvstore the bdevs of its lvols.
func BdevMallocDelete(ctx context.Context, c Caller, p BdevMallocDeleteParams) error {
	return bdevMallocDelete.do(ctx, c, p)
}

// BdevErrorCreateParams names the bdev that errors may be injected into.
type BdevErrorCreateParams struct {
	BaseName string `json:"base_name"`
}

var bdevErrorCreate = register[BdevErrorCreateParams, bool]("bdev_error_create")

// BdevErrorCreate makes a bdev, named EE_ and the name of its base, that passes all I/O on. It goes when its base does.
func BdevErrorCreate(ctx context.Context, c Caller, p BdevErrorCreateParams) error {
	return bdevErrorCreate.do(ctx, c, p)
}

// BdevGetIostatParams names the bdevs to ask for.
type BdevGetIostatParams struct {
	Names []string `json:"names"`
}

var bdevGetIostat = register[BdevGetIostatParams, json.RawMessage]("bdev_get_iostat")

// BdevGetIostat gathers the I/O statistics of bdevs. They are not returned: it is called
// because it passes through every thread that uses the bdev.
func BdevGetIostat(ctx context.Context, c Caller, p BdevGetIostatParams) error {
	return bdevGetIostat.do(ctx, c, p)
}
