package contract

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk"
)

func TestLvolIsMadeOnceAndReadBackAsSpecified(t *testing.T) {
	tg := targets(t, 1)[0]
	odd := tg.lvs.ClusterBytes + 1
	spec := spdk.LvolSpec{LvStore: tg.lvs.Name, Name: unique(), SizeBytes: odd, Thin: true}
	atEnd(t, "delete lvol", func(ctx context.Context) error { return tg.DeleteLvol(ctx, spec.LvStore, spec.Name) })
	made, err := tg.CreateLvol(t.Context(), spec)
	ok(t, err)
	if made.SizeBytes != 2*tg.lvs.ClusterBytes || !made.Thin || made.AllocatedBytes != 0 || made.Name != spec.Name ||
		made.LvStore != spec.LvStore || made.UUID == "" || made.BlockSize != tg.lvs.BlockSize || made.InUse || made.Snapshot {
		t.Errorf("made %+v", made)
	}
	again, err := tg.CreateLvol(t.Context(), spec)
	if err != nil || again != made {
		t.Errorf("again: %+v, %v", again, err)
	}
	read, err := tg.Lvol(t.Context(), spec.LvStore, spec.Name)
	if err != nil || read != made {
		t.Errorf("read back %+v, %v", read, err)
	}
	for _, other := range []spdk.LvolSpec{
		{LvStore: spec.LvStore, Name: spec.Name, SizeBytes: 8 * tg.lvs.ClusterBytes, Thin: true},
		{LvStore: spec.LvStore, Name: spec.Name, SizeBytes: odd},
	} {
		if _, err := tg.CreateLvol(t.Context(), other); !errors.Is(err, spdk.ErrConflict) {
			t.Errorf("%+v: %v, want a conflict", other, err)
		}
	}
}

func TestThickLvolTakesItsSpaceAtOnceAndGivesItBack(t *testing.T) {
	tg := targets(t, 1)[0]
	free := func() int64 {
		stores, err := tg.LvStores(t.Context())
		ok(t, err)
		return stores[0].FreeBytes
	}
	before := free()
	spec := spdk.LvolSpec{LvStore: tg.lvs.Name, Name: unique(), SizeBytes: 4 * tg.lvs.ClusterBytes}
	atEnd(t, "delete lvol", func(ctx context.Context) error { return tg.DeleteLvol(ctx, spec.LvStore, spec.Name) })
	made, err := tg.CreateLvol(t.Context(), spec)
	ok(t, err)
	if taken := before - free(); taken != spec.SizeBytes || made.AllocatedBytes != spec.SizeBytes || made.Thin {
		t.Errorf("%d bytes were taken for %+v", taken, made)
	}
	ok(t, tg.DeleteLvol(t.Context(), spec.LvStore, spec.Name))
	if now := free(); now != before {
		t.Errorf("%d bytes are free, %d were", now, before)
	}
}

func TestLvolThatDoesNotFitIsNoSpace(t *testing.T) {
	tg := targets(t, 1)[0]
	spec := spdk.LvolSpec{LvStore: tg.lvs.Name, Name: unique(), SizeBytes: tg.lvs.TotalBytes + tg.lvs.ClusterBytes}
	if _, err := tg.CreateLvol(t.Context(), spec); !errors.Is(err, spdk.ErrNoSpace) {
		t.Errorf("create: %v, want no space", err)
	}
	spec.SizeBytes = tg.lvs.ClusterBytes
	_, err := tg.CreateLvol(t.Context(), spec)
	ok(t, err)
	atEnd(t, "delete lvol", func(ctx context.Context) error { return tg.DeleteLvol(ctx, spec.LvStore, spec.Name) })
	if err := tg.ResizeLvol(t.Context(), spec.LvStore, spec.Name, tg.lvs.TotalBytes+tg.lvs.ClusterBytes); !errors.Is(err, spdk.ErrNoSpace) {
		t.Errorf("resize: %v, want no space", err)
	}
}

func TestMissingLvolsAndLvstoresAreNotFound(t *testing.T) {
	tg := targets(t, 1)[0]
	ctx := t.Context()
	_, err := tg.Lvol(ctx, tg.lvs.Name, unique())
	_, err2 := tg.Lvol(ctx, unique(), unique())
	_, err3 := tg.CreateLvol(ctx, spdk.LvolSpec{LvStore: unique(), Name: unique(), SizeBytes: mib})
	err4 := tg.ResizeLvol(ctx, tg.lvs.Name, unique(), mib)
	for i, err := range []error{err, err2, err3, err4} {
		if !errors.Is(err, spdk.ErrNotFound) {
			t.Errorf("%d: %v, want not found", i, err)
		}
	}
	ok(t, tg.DeleteLvol(ctx, tg.lvs.Name, unique()))
	ok(t, tg.DeleteLvol(ctx, unique(), unique()))
}

func TestLvolGrowsAndNeverShrinks(t *testing.T) {
	tg := targets(t, 1)[0]
	l := newLvol(t, tg, 2*tg.lvs.ClusterBytes)
	for _, step := range []struct{ ask, want int64 }{
		{4*tg.lvs.ClusterBytes - 1, 4 * tg.lvs.ClusterBytes},
		{4 * tg.lvs.ClusterBytes, 4 * tg.lvs.ClusterBytes},
		{tg.lvs.ClusterBytes, 4 * tg.lvs.ClusterBytes},
	} {
		ok(t, tg.ResizeLvol(t.Context(), l.LvStore, l.Name, step.ask))
		now, err := tg.Lvol(t.Context(), l.LvStore, l.Name)
		if err != nil || now.SizeBytes != step.want {
			t.Errorf("asked for %d: %d bytes, %v; want %d", step.ask, now.SizeBytes, err, step.want)
		}
	}
}

func TestExportedLvolIsInUseAndNotDeleted(t *testing.T) {
	tg := targets(t, 1)[0]
	r := newReplica(t, tg, volumeSize, tg)
	l, err := tg.Lvol(t.Context(), r.lvol.LvStore, r.lvol.Name)
	if err != nil || !l.InUse {
		t.Errorf("%+v, %v; want it in use", l, err)
	}
	if err := tg.DeleteLvol(t.Context(), l.LvStore, l.Name); !errors.Is(err, spdk.ErrBusy) {
		t.Errorf("%v, want busy", err)
	}
	ok(t, tg.Unexport(t.Context(), r.export.NQN))
	ok(t, tg.DeleteLvol(t.Context(), l.LvStore, l.Name))
}

func TestLvolNamesHaveAtMost63Characters(t *testing.T) {
	tg := targets(t, 1)[0]
	name := unique()
	for len(name) < 63 {
		name += "x"
	}
	spec := spdk.LvolSpec{LvStore: tg.lvs.Name, Name: name, SizeBytes: tg.lvs.ClusterBytes, Thin: true}
	_, err := tg.CreateLvol(t.Context(), spec)
	ok(t, err)
	ok(t, tg.DeleteLvol(t.Context(), spec.LvStore, spec.Name))
	spec.Name += "x"
	if _, err := tg.CreateLvol(t.Context(), spec); err == nil {
		t.Error("a name of 64 characters was accepted")
		ok(t, tg.DeleteLvol(t.Context(), spec.LvStore, spec.Name))
	}
}

// Clusters are given out as they are. On a disk that can't unmap, as an aio bdev without fallocate, only zeroes that are written
// when an lvol is deleted keep its data from the next one's owner.
func TestDeletedLvolLeavesNothingForTheNext(t *testing.T) {
	tg := targets(t, 1)[0]
	if tg.lvs.ClusterBytes < 4*mib {
		t.Skipf("clusters of %d bytes hold one place each", tg.lvs.ClusterBytes)
	}
	use := func(seed uint64) (spdk.Lvol, spdk.Export, *host) {
		l := newLvol(t, tg, tg.lvs.ClusterBytes)
		e := exportLvol(t, l, userNQN)
		export(t, tg, e)
		h := mustConnect(t, e, userNQN)
		h.write(seed)
		return l, e, h
	}
	const first, second = 1, 3 // the seeds' places lie apart in the one cluster
	l, e, h := use(first)
	ok(t, h.Close())
	ok(t, tg.Unexport(t.Context(), e.NQN))
	ok(t, tg.DeleteLvol(t.Context(), l.LvStore, l.Name))
	_, _, h = use(second)
	p := make([]byte, ioSize)
	ok(t, h.Read(t.Context(), 1, p, place(first)))
	if !slices.Equal(p, make([]byte, ioSize)) {
		t.Error("a new lvol reads what a deleted one held")
	}
	ok(t, h.Close())
}
