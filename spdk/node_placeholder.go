package spdk

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"
)

// A placeholder fills an empty slot while a raid is made. What a raid supports is fixed
// when it comes online, and is what each of its bdevs supports then (lib/bdev/bdev.c,
// bdev_register; module/bdev/raid/bdev_raid.c, _raid_bdev_io_type_supported): a raid made
// with a bdev that can't unmap never announces that it can, and no host discards on it.
//
// So placeholders are thin lvols. They lie in an lvstore of their own, on a malloc bdev
// that is just large enough for its metadata: they need no disk, which may hang, be full,
// have another block size or not be there, and they end with the process. Deleting the
// malloc bdev deletes them all. Null bdevs, which can't unmap, fill the slots where that
// is refused.
//
// Between malloc bdev and lvstore is an error bdev, which is told to inject none: it hides
// the memory domains of the malloc bdev. Listing a raid whose bdevs have more than 16
// together ends the process (module/bdev/raid/bdev_raid.c, raid_bdev_get_memory_domain_types),
// and a malloc bdev has all that there are.

// placeholderStore names the malloc bdev of a raid's placeholders, and the lvstore on it.
func placeholderStore(raid string) string { return raid + storeSuffix }

// placeholderBase names the bdev that the lvstore is made on (module/bdev/error/vbdev_error.c).
func placeholderBase(store string) string { return "EE_" + store }

// placeholder names the thin lvol for a slot.
func placeholder(raid string, slot int) string {
	return placeholderStore(raid) + "/" + strconv.Itoa(slot)
}

// nullPlaceholder names the null bdev for a slot.
func nullPlaceholder(raid string, slot int) string {
	return raid + nullInfix + strconv.Itoa(slot)
}

const (
	storeSuffix = "-slots"
	nullInfix   = "-null"
)

// isPlaceholder reports whether the bdev fills a slot of that raid for want of a leg.
func isPlaceholder(raid, bdev string) bool {
	slot, ok := strings.CutPrefix(bdev, placeholderStore(raid)+"/")
	if !ok {
		slot, ok = strings.CutPrefix(bdev, raid+nullInfix)
	}
	_, err := strconv.ParseUint(slot, 10, 8)
	return ok && err == nil
}

// forPlaceholders reports whether an lvstore was made for placeholders: it is named as
// its bdev is, and has no cluster that could hold data.
func (i LvolStoreInfo) forPlaceholders() bool {
	return placeholderBase(i.Name) == i.BaseBdev && i.TotalDataClusters == 0 && strings.HasSuffix(i.Name, storeSuffix)
}

// Size of a placeholders' lvstore.
const (
	// minPlaceholderCluster is in bytes, as much as metadata need with room to spare.
	minPlaceholderCluster = mib
	// maxPlaceholderClusters bounds how long a process is busy with making a placeholder:
	// 16 Mi clusters took 1.6 s, 1 Mi 0.04 s.
	maxPlaceholderClusters = 1 << 18
	// placeholderMDRatio is num_md_pages_per_cluster_ratio in per cent: 64 metadata pages,
	// of which each lvol takes one.
	placeholderMDRatio = 6400
)

// placeholderCluster returns the cluster size, and the size of the whole lvstore, for
// placeholders of that size. All are in bytes.
func placeholderCluster(size int64) int64 {
	cluster := int64(minPlaceholderCluster)
	for size > cluster*maxPlaceholderClusters {
		cluster *= 2
	}
	return cluster
}

// makePlaceholders makes a bdev for each slot without a leg, at least as large as the
// raid, and returns their names.
func (n *Node) makePlaceholders(ctx context.Context, spec RaidSpec, blockSize int, blocks int64) ([]string, error) {
	if len(spec.Legs) == spec.Slots {
		return nil, nil
	}
	names, err := n.makeThinPlaceholders(ctx, spec, blockSize, blocks)
	if err == nil || !answered(err) {
		return names, err
	}
	klog.FromContext(ctx).Info("Raid is made with null bdevs: hosts can't discard on it", "node", n.name, "raid", spec.Name, "err", err)
	if err := n.deletePlaceholders(ctx, spec.Name, spec.Slots); err != nil {
		return nil, err
	}
	return n.makeNullPlaceholders(ctx, spec, blockSize, blocks)
}

func (n *Node) makeThinPlaceholders(ctx context.Context, spec RaidSpec, blockSize int, blocks int64) ([]string, error) {
	store, size := placeholderStore(spec.Name), blocks*int64(blockSize)
	cluster := placeholderCluster(size)
	_, err := BdevMallocCreate(ctx, n.rpc, BdevMallocCreateParams{Name: store, BlockSize: blockSize, NumBlocks: cluster / int64(blockSize)})
	if err != nil {
		return nil, n.wrap(err, "assemble raid %s: make bdev %s for placeholders", spec.Name, store)
	}
	base := placeholderBase(store)
	if err := BdevErrorCreate(ctx, n.rpc, BdevErrorCreateParams{BaseName: store}); err != nil {
		return nil, n.wrap(err, "assemble raid %s: make bdev %s for placeholders", spec.Name, base)
	}
	_, err = BdevLvolCreateLvstore(ctx, n.rpc, BdevLvolCreateLvstoreParams{
		BdevName: base, LvsName: store, ClusterSize: int(cluster), ClearMethod: "none", MDPagesPerClusterRatio: placeholderMDRatio,
	})
	if err != nil {
		return nil, n.wrap(err, "assemble raid %s: make lvstore %s for placeholders", spec.Name, store)
	}
	var names []string
	for slot := len(spec.Legs); slot < spec.Slots; slot++ {
		_, err := BdevLvolCreate(ctx, n.rpc, BdevLvolCreateParams{
			LvolName: strconv.Itoa(slot), LvsName: store, SizeInMiB: roundUp(size, mib) / mib, ThinProvision: true,
		})
		if err != nil {
			return nil, n.wrap(err, "assemble raid %s: make placeholder %s", spec.Name, placeholder(spec.Name, slot))
		}
		names = append(names, placeholder(spec.Name, slot))
	}
	return names, nil
}

func (n *Node) makeNullPlaceholders(ctx context.Context, spec RaidSpec, blockSize int, blocks int64) ([]string, error) {
	var names []string
	for slot := len(spec.Legs); slot < spec.Slots; slot++ {
		name := nullPlaceholder(spec.Name, slot)
		if _, err := BdevNullCreate(ctx, n.rpc, BdevNullCreateParams{Name: name, BlockSize: blockSize, NumBlocks: blocks}); err != nil {
			return nil, n.wrap(err, "assemble raid %s: make placeholder %s", spec.Name, name)
		}
		names = append(names, name)
	}
	return names, nil
}

// deletePlaceholders deletes what was made for so many slots of the raid. Each bdev is
// looked up by its name: a list of all bdevs of a node with hundreds of volumes is long.
func (n *Node) deletePlaceholders(ctx context.Context, raid string, slots int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		store := placeholderStore(raid)
		return n.deletePlaceholder(ctx, store, func() error {
			return BdevMallocDelete(ctx, n.rpc, BdevMallocDeleteParams{Name: store})
		})
	})
	for slot := range slots {
		name := nullPlaceholder(raid, slot)
		group.Go(func() error {
			return n.deletePlaceholder(ctx, name, func() error {
				return BdevNullDelete(ctx, n.rpc, BdevNullDeleteParams{Name: name})
			})
		})
	}
	return group.Wait()
}

// deletePlaceholder calls deleteIt unless the bdev is gone.
func (n *Node) deletePlaceholder(ctx context.Context, name string, deleteIt func() error) error {
	if gone, err := n.bdevGone(ctx, name); gone || err != nil {
		return err
	}
	err := deleteIt()
	if err != nil && answered(err) {
		if gone, readErr := n.bdevGone(ctx, name); readErr == nil && gone {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("delete placeholder: %w", n.wrap(err, "delete bdev %s", name))
	}
	return nil
}
