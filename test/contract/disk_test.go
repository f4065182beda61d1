package contract

import (
	"context"
	"errors"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk"
)

// A disk that hangs below an lvstore is found out by reading from it, which changes nothing; the RPC goes on meanwhile.
func TestDiskThatHangsIsFoundOut(t *testing.T) {
	tg := targets(t, 1)[0]
	before, err := tg.LvStores(t.Context())
	ok(t, err)
	ok(t, tg.DiskAnswers(t.Context(), tg.lvs.Name))
	after, err := tg.LvStores(t.Context())
	if err != nil || len(before) != len(after) || before[0] != after[0] {
		t.Errorf("the lvstores were %+v, and are %+v: %v", before, after, err)
	}

	name := unique()
	disk, err := spdk.BdevMallocCreate(t.Context(), tg.rpc, spdk.BdevMallocCreateParams{Name: name, NumBlocks: 16 << 20 / 512, BlockSize: 512})
	ok(t, err)
	atEnd(t, "delete the disk", func(ctx context.Context) error {
		return spdk.BdevMallocDelete(ctx, tg.rpc, spdk.BdevMallocDeleteParams{Name: disk})
	})
	ok(t, spdk.BdevErrorCreate(t.Context(), tg.rpc, spdk.BdevErrorCreateParams{BaseName: disk}))
	faulty := "EE_" + disk
	_, err = spdk.BdevLvolCreateLvstore(t.Context(), tg.rpc, spdk.BdevLvolCreateLvstoreParams{BdevName: faulty, LvsName: name, ClusterSize: 1 << 20, ClearMethod: "none", MDPagesPerClusterRatio: 100})
	ok(t, err)
	ok(t, tg.DiskAnswers(t.Context(), name))
	inject := func(ctx context.Context, kind string, num int) error {
		return tg.rpc.Call(ctx, "bdev_error_inject_error", map[string]any{"name": faulty, "io_type": "read", "error_type": kind, "num": num}, nil)
	}
	ok(t, inject(t.Context(), "pending", 1<<30))
	if err := tg.DiskAnswers(t.Context(), name); !errors.Is(err, spdk.ErrDiskHangs) {
		t.Errorf("a disk that hangs: %v", err)
	}
	_, err = tg.LvStores(t.Context())
	ok(t, err)
	ok(t, inject(t.Context(), "pending", 0))
	ok(t, tg.rpc.Call(t.Context(), "bdev_error_resume_pending", map[string]any{"name": faulty}, nil))
	ok(t, tg.DiskAnswers(t.Context(), name))
}
