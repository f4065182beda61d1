package contract

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/google/uuid"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk"
)

// exportRaid exports a raid and connects a host to it.
func exportRaid(t *testing.T, on *target, r spdk.RaidState) *host {
	t.Helper()
	e := volumeExport(t, r, spdk.ANAOptimized, userNQN)
	export(t, on, e)
	return mustConnect(t, e, userNQN)
}

// fill writes the whole volume.
func (h *host) fill() {
	h.t.Helper()
	for off := int64(0); off < volumeSize; off += mib {
		ok(h.t, h.Write(h.t.Context(), 1, pattern(uint64(off/mib), mib), off))
	}
}

// wantAllocated checks how much of its lvstore each replica holds.
func wantAllocated(t *testing.T, want int64, replicas ...*replica) {
	t.Helper()
	for i, r := range replicas {
		l, err := r.on.Lvol(t.Context(), r.lvol.LvStore, r.lvol.Name)
		if err != nil || l.AllocatedBytes != want {
			t.Errorf("replica %d holds %d bytes, want %d; %v", i, l.AllocatedBytes, want, err)
		}
	}
}

// unmaps reports whether a raid says that it can unmap, and a host is told so.
func unmaps(t *testing.T, on *target, raid string, h *host) bool {
	t.Helper()
	found, err := spdk.BdevGetBdevs(t.Context(), on.rpc, spdk.BdevGetBdevsParams{Name: raid})
	ok(t, err)
	if announced := h.CanDeallocate(); announced != found[0].SupportedIOTypes.Unmap {
		t.Errorf("the raid supports %+v, the host is told %t", found[0].SupportedIOTypes, announced)
	}
	return found[0].SupportedIOTypes.Unmap
}

// longName returns the name of a raid to which no lvstore's name can be made: SPDK refuses its thin placeholders.
func longName() string { return unique() + "-" + strings.Repeat("x", 40) }

func TestRaidMadeWithAnEmptySlotAnnouncesAndPassesOnUnmap(t *testing.T) {
	all := targets(t, 2)
	v := newVolume(t, 4, all...)
	h := exportRaid(t, all[0], v.raid)
	if !unmaps(t, all[0], v.raid.Name, h) {
		t.Error("it doesn't announce unmap")
	}
	h.fill()
	wantAllocated(t, volumeSize, v.replicas...)
	kept := int64(4 * mib)
	ok(t, h.Deallocate(t.Context(), 1, kept, volumeSize-kept))
	wantAllocated(t, kept, v.replicas...)
	for off := int64(0); off < kept; off += mib {
		p := make([]byte, mib)
		ok(t, h.Read(t.Context(), 1, p, off))
		if !slices.Equal(p, pattern(uint64(off/mib), mib)) {
			t.Errorf("what was not deallocated at %d has changed", off)
		}
	}
	h.Close()
}

// A process ends that lists a raid whose bdevs have more than 16 memory domains.
func TestRaidOfManySlotsIsMadeFromOneLeg(t *testing.T) {
	tg := targets(t, 1)[0]
	leg := attach(t, tg, newReplica(t, tg, volumeSize, tg))
	raid := assemble(t, tg, 16, leg)
	if !slices.Equal(bdevs(raid), append([]string{leg.Bdev}, make([]string, 15)...)) {
		t.Errorf("%+v", raid)
	}
	h := exportRaid(t, tg, raid)
	if !unmaps(t, tg, raid.Name, h) {
		t.Error("it doesn't announce unmap")
	}
	h.Close()
}

// A rebuild fills its target; unmap reaches that as well.
func TestUnmapReachesALegThatWasRebuilt(t *testing.T) {
	all := targets(t, 2)
	first, second := newReplica(t, all[0], volumeSize, all[0]), newReplica(t, all[1], volumeSize, all[0])
	raid := assemble(t, all[0], 2, attach(t, all[0], first))
	leg := attach(t, all[0], second)
	ok(t, all[0].AddRaidLeg(t.Context(), raid.Name, leg.Bdev))
	rebuilt(t, all[0], raid.Name, leg.Bdev)
	wantAllocated(t, volumeSize, second)
	h := exportRaid(t, all[0], raid)
	if !unmaps(t, all[0], raid.Name, h) {
		t.Error("it doesn't announce unmap")
	}
	ok(t, h.Deallocate(t.Context(), 1, 0, volumeSize))
	wantAllocated(t, 0, first, second)
	h.Close()
}

// What a raid supports is fixed when it comes online; what it does is not.
func TestRaidOfAnOlderVersionMadeWithNullBdevsIsTakenOverAndUnmapsUnannounced(t *testing.T) {
	tg := targets(t, 1)[0]
	r := newReplica(t, tg, volumeSize, tg)
	leg := attach(t, tg, r)
	spec := spdk.RaidSpec{Name: unique(), UUID: uuid.New(), Slots: 3, Legs: []string{leg.Bdev}}
	atEnd(t, "delete raid", func(ctx context.Context) error { return tg.DeleteRaid(ctx, spec.Name) })
	nulls := []string{spec.Name + "-null1", spec.Name + "-null2"}
	for _, name := range nulls {
		_, err := spdk.BdevNullCreate(t.Context(), tg.rpc, spdk.BdevNullCreateParams{Name: name, BlockSize: leg.BlockSize, NumBlocks: leg.SizeBytes / int64(leg.BlockSize)})
		ok(t, err)
	}
	ok(t, spdk.BdevRaidCreate(t.Context(), tg.rpc, spdk.BdevRaidCreateParams{
		Name: spec.Name, RaidLevel: "raid1", BaseBdevs: append([]string{leg.Bdev}, nulls...), UUID: spec.UUID.String(),
	}))
	ok(t, spdk.BdevRaidRemoveBaseBdev(t.Context(), tg.rpc, spdk.BdevRaidRemoveBaseBdevParams{Name: nulls[0]}))
	raid, err := tg.AssembleRaid(t.Context(), spec)
	if err != nil || !slices.Equal(bdevs(raid), []string{leg.Bdev, "", ""}) {
		t.Fatalf("%+v, %v", raid, err)
	}
	h := exportRaid(t, tg, raid)
	if unmaps(t, tg, spec.Name, h) {
		t.Error("it announces unmap")
	}
	h.fill()
	ok(t, h.Deallocate(t.Context(), 1, 0, volumeSize))
	wantAllocated(t, 0, r)
	h.Close()
}

func TestRaidWhoseThinPlaceholdersAreRefusedIsMadeWithNullBdevs(t *testing.T) {
	tg, ctx := targets(t, 1)[0], klog.NewContext(t.Context(), logr.Discard())
	leg := attach(t, tg, newReplica(t, tg, volumeSize, tg))
	spec := spdk.RaidSpec{Name: longName(), UUID: uuid.New(), Slots: 3, Legs: []string{leg.Bdev}}
	atEnd(t, "delete raid", func(ctx context.Context) error { return tg.DeleteRaid(ctx, spec.Name) })
	raid, err := tg.AssembleRaid(ctx, spec)
	ok(t, err)
	h := exportRaid(t, tg, raid)
	if unmaps(t, tg, spec.Name, h) {
		t.Error("it announces unmap")
	}
	h.Close()
}

func TestAssemblyWithNullBdevsSurvivesAFaultInEveryCall(t *testing.T) {
	tg, ctx := targets(t, 1)[0], klog.NewContext(t.Context(), logr.Discard())
	leg := attach(t, tg, newReplica(t, tg, volumeSize, tg))
	spec := spdk.RaidSpec{Name: longName(), UUID: uuid.New(), Slots: 2, Legs: []string{leg.Bdev}}
	before := tg.inventory(t)
	atEnd(t, "delete raid", func(ctx context.Context) error { return tg.DeleteRaid(ctx, spec.Name) })
	bothWays(t, tg,
		func(n *spdk.Node) error { _, err := n.AssembleRaid(ctx, spec); return err },
		func(n *spdk.Node) error { return n.DeleteRaid(ctx, spec.Name) },
		func() {
			t.Helper()
			if r, err := tg.Raid(ctx, spec.Name); err != nil || r.State != spdk.RaidOnline || !slices.Equal(bdevs(r), []string{leg.Bdev, ""}) {
				t.Errorf("%+v, %v", r, err)
			}
		},
		func() {
			t.Helper()
			if after := tg.inventory(t); !slices.Equal(before, after) {
				t.Errorf("before %q\nafter %q", before, after)
			}
		})
}

func TestPlaceholdersThatACrashLeftAreNobodysDataAndGoWithTheRaid(t *testing.T) {
	tg, ctx := targets(t, 1)[0], t.Context()
	raid := unique()
	store := raid + "-slots"
	stores, err := tg.LvStores(ctx)
	ok(t, err)
	lvols, err := tg.Lvols(ctx)
	ok(t, err)
	atEnd(t, "delete raid", func(ctx context.Context) error { return tg.DeleteRaid(ctx, raid) })
	_, err = spdk.BdevMallocCreate(ctx, tg.rpc, spdk.BdevMallocCreateParams{Name: store, BlockSize: 4096, NumBlocks: mib / 4096})
	ok(t, err)
	ok(t, spdk.BdevErrorCreate(ctx, tg.rpc, spdk.BdevErrorCreateParams{BaseName: store}))
	_, err = spdk.BdevLvolCreateLvstore(ctx, tg.rpc, spdk.BdevLvolCreateLvstoreParams{
		BdevName: "EE_" + store, LvsName: store, ClusterSize: mib, ClearMethod: "none", MDPagesPerClusterRatio: 6400,
	})
	ok(t, err)
	_, err = spdk.BdevLvolCreate(ctx, tg.rpc, spdk.BdevLvolCreateParams{LvolName: "1", LvsName: store, SizeInMiB: volumeSize / mib, ThinProvision: true})
	ok(t, err)
	if now, err := tg.LvStores(ctx); err != nil || !slices.Equal(now, stores) {
		t.Errorf("lvstores %+v, %v; before %+v", now, err, stores)
	}
	if now, err := tg.Lvols(ctx); err != nil || !slices.Equal(now, lvols) {
		t.Errorf("lvols %+v, %v; before %+v", now, err, lvols)
	}
	ok(t, tg.DeleteRaid(ctx, raid))
	if _, err := spdk.BdevGetBdevs(ctx, tg.rpc, spdk.BdevGetBdevsParams{Name: store}); !spdk.IsCode(err, -19) {
		t.Errorf("%s is still there: %v", store, err)
	}
}
