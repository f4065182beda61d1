package spdk

import "context"

// LvolStoreInfo is one lvstore as bdev_lvol_get_lvstores describes it.
type LvolStoreInfo struct {
	UUID     string `json:"uuid"`
	Name     string `json:"name"`
	BaseBdev string `json:"base_bdev"`
	// TotalDataClusters and FreeClusters are counted in clusters of ClusterSize bytes.
	TotalDataClusters int64 `json:"total_data_clusters"`
	FreeClusters      int64 `json:"free_clusters"`
	// BlockSize and ClusterSize are in bytes.
	BlockSize   int   `json:"block_size"`
	ClusterSize int64 `json:"cluster_size"`
}

var bdevLvolGetLvstores = register[NoParams, []LvolStoreInfo]("bdev_lvol_get_lvstores")

// BdevLvolGetLvstores lists the lvstores. SPDK refuses an empty params object here, so
// none is sent.
func BdevLvolGetLvstores(ctx context.Context, c Caller) ([]LvolStoreInfo, error) {
	return bdevLvolGetLvstores.call(ctx, c, NoParams{})
}

// BdevLvolCreateLvstoreParams describes a new lvstore.
type BdevLvolCreateLvstoreParams struct {
	BdevName string `json:"bdev_name"`
	// LvsName has at most 63 characters.
	LvsName string `json:"lvs_name"`
	// ClusterSize is in bytes.
	ClusterSize int `json:"cluster_sz"`
	// ClearMethod says what is done to the bdev at first: none, unmap or write_zeroes.
	ClearMethod string `json:"clear_method"`
	// MDPagesPerClusterRatio is how many pages of metadata there are for 100 clusters.
	MDPagesPerClusterRatio int `json:"num_md_pages_per_cluster_ratio"`
}

var bdevLvolCreateLvstore = register[BdevLvolCreateLvstoreParams, string]("bdev_lvol_create_lvstore")

// BdevLvolCreateLvstore makes an lvstore, over whatever is on the bdev, and returns its UUID.
func BdevLvolCreateLvstore(ctx context.Context, c Caller, p BdevLvolCreateLvstoreParams) (string, error) {
	return bdevLvolCreateLvstore.call(ctx, c, p)
}

// BdevLvolGrowLvstoreParams names an lvstore.
type BdevLvolGrowLvstoreParams struct {
	LvsName string `json:"lvs_name"`
}

var bdevLvolGrowLvstore = register[BdevLvolGrowLvstoreParams, bool]("bdev_lvol_grow_lvstore")

// BdevLvolGrowLvstore reads an lvstore's super block from its disk, and has the lvstore take what room there is more on the disk since it was
// made. Mostly there is none, and nothing is written (lib/blob/blobstore.c, spdk_bs_grow_live).
func BdevLvolGrowLvstore(ctx context.Context, c Caller, p BdevLvolGrowLvstoreParams) error {
	return bdevLvolGrowLvstore.do(ctx, c, p)
}

// BdevLvolCreateParams describes a new lvol.
type BdevLvolCreateParams struct {
	// LvolName has at most 63 characters and is unique in its lvstore.
	LvolName string `json:"lvol_name"`
	LvsName  string `json:"lvs_name"`
	// SizeInMiB is rounded up to whole clusters by SPDK.
	SizeInMiB     int64 `json:"size_in_mib"`
	ThinProvision bool  `json:"thin_provision"`
	// ClearMethod is none, unmap or write_zeroes; empty is SPDK's default, unmap.
	ClearMethod string `json:"clear_method,omitempty"`
}

var bdevLvolCreate = register[BdevLvolCreateParams, string]("bdev_lvol_create")

// BdevLvolCreate makes an lvol and returns its UUID.
func BdevLvolCreate(ctx context.Context, c Caller, p BdevLvolCreateParams) (string, error) {
	return bdevLvolCreate.call(ctx, c, p)
}

// BdevLvolDeleteParams names an lvol by UUID or as "lvstore/lvol".
type BdevLvolDeleteParams struct {
	Name string `json:"name"`
}

var bdevLvolDelete = register[BdevLvolDeleteParams, bool]("bdev_lvol_delete")

// BdevLvolDelete deletes an lvol, even one that is exported.
func BdevLvolDelete(ctx context.Context, c Caller, p BdevLvolDeleteParams) error {
	return bdevLvolDelete.do(ctx, c, p)
}

// BdevLvolResizeParams gives an lvol a new size.
type BdevLvolResizeParams struct {
	Name string `json:"name"`
	// SizeInMiB is rounded up to whole clusters by SPDK. It shrinks as well as grows.
	SizeInMiB int64 `json:"size_in_mib"`
}

var bdevLvolResize = register[BdevLvolResizeParams, bool]("bdev_lvol_resize")

// BdevLvolResize resizes an lvol.
func BdevLvolResize(ctx context.Context, c Caller, p BdevLvolResizeParams) error {
	return bdevLvolResize.do(ctx, c, p)
}

// BdevLvolSnapshotParams names an lvol and the snapshot to take of it.
type BdevLvolSnapshotParams struct {
	LvolName     string `json:"lvol_name"`
	SnapshotName string `json:"snapshot_name"`
}

var bdevLvolSnapshot = register[BdevLvolSnapshotParams, string]("bdev_lvol_snapshot")

// BdevLvolSnapshot takes a snapshot and returns its UUID. The lvol may be in use.
func BdevLvolSnapshot(ctx context.Context, c Caller, p BdevLvolSnapshotParams) (string, error) {
	return bdevLvolSnapshot.call(ctx, c, p)
}

// BdevLvolCloneParams names a snapshot and the lvol to make of it.
type BdevLvolCloneParams struct {
	SnapshotName string `json:"snapshot_name"`
	// CloneName has at most 63 characters and is unique in the snapshot's lvstore.
	CloneName string `json:"clone_name"`
}

var bdevLvolClone = register[BdevLvolCloneParams, string]("bdev_lvol_clone")

// BdevLvolClone makes a thin lvol that begins with a snapshot's content and returns its UUID.
func BdevLvolClone(ctx context.Context, c Caller, p BdevLvolCloneParams) (string, error) {
	return bdevLvolClone.call(ctx, c, p)
}

// BdevLvolSetParentParams names a thin lvol and the snapshot that it is to lie on, of the same lvstore and size.
type BdevLvolSetParentParams struct {
	LvolName   string `json:"lvol_name"`
	ParentName string `json:"parent_name"`
}

var bdevLvolSetParent = register[BdevLvolSetParentParams, bool]("bdev_lvol_set_parent")

// BdevLvolSetParent makes an lvol a clone of a snapshot. One that no lvol lies on since SPDK was started is refused: it is no snapshot then
// (lib/blob/blobstore.c, bs_set_parent_snapshot_open_cpl).
func BdevLvolSetParent(ctx context.Context, c Caller, p BdevLvolSetParentParams) error {
	return bdevLvolSetParent.do(ctx, c, p)
}
