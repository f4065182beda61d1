package contract

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk"
)

// slowRebuilds bounds rebuilds that begin from now on to 4 MiB a second, so that a test
// can see one run, and sets the former bound again at the end.
func slowRebuilds(t *testing.T, tg *target) {
	t.Helper()
	const option = "process_max_bandwidth_mb_sec"
	config, err := spdk.FrameworkGetConfig(t.Context(), tg.rpc, spdk.FrameworkGetConfigParams{Name: "bdev"})
	ok(t, err)
	former := map[string]any{option: 0}
	for _, entry := range config {
		var params map[string]any
		if entry.Method == "bdev_raid_set_options" && json.Unmarshal(entry.Params, &params) == nil {
			former[option] = params[option]
		}
	}
	atEnd(t, "rebuild options", func(ctx context.Context) error { return tg.rpc.Call(ctx, "bdev_raid_set_options", former, nil) })
	ok(t, tg.rpc.Call(t.Context(), "bdev_raid_set_options", map[string]any{option: 4}, nil))
}

// rebuilt waits until a leg is no longer being rebuilt.
func rebuilt(t *testing.T, tg *target, raid, bdev string) spdk.RaidState {
	t.Helper()
	var r spdk.RaidState
	eventually(t, "the rebuild of "+bdev+" is over", func(ctx context.Context) bool {
		var err error
		r, err = tg.Raid(ctx, raid)
		return err == nil && r.Rebuild == nil
	})
	return r
}

// Facts 3 and 4: a rebuild is visible with its progress from the moment that adding the
// leg has returned; a second leg is refused while it runs; afterwards the leg holds every
// byte, and all of its space.
func TestAddedLegIsRebuiltVisiblyAndInflated(t *testing.T) {
	all := targets(t, 2)
	slowRebuilds(t, all[0])
	first := newReplica(t, all[1], volumeSize, all[0])
	second, third := newReplica(t, all[1], volumeSize, all[0]), newReplica(t, all[1], volumeSize, all[0])
	leg, added, another := attach(t, all[0], first), attach(t, all[0], second), attach(t, all[0], third)
	raid := assemble(t, all[0], 3, leg)
	e := volumeExport(t, raid, spdk.ANAOptimized, userNQN)
	export(t, all[0], e)
	h := mustConnect(t, e, userNQN)
	h.write(1)

	ok(t, all[0].AddRaidLeg(t.Context(), raid.Name, added.Bdev))
	r, err := all[0].Raid(t.Context(), raid.Name)
	ok(t, err)
	if r.Rebuild == nil || r.Rebuild.Target != added.Bdev || r.Rebuild.Percent > 99 || r.Holds(added.Bdev) || !r.Holds(leg.Bdev) {
		t.Errorf("right after adding: %+v, rebuild %+v", r, r.Rebuild)
	}
	ok(t, all[0].AddRaidLeg(t.Context(), raid.Name, added.Bdev))
	if err := all[0].AddRaidLeg(t.Context(), raid.Name, another.Bdev); !errors.Is(err, spdk.ErrBusy) {
		t.Errorf("a second rebuild: %v, want busy", err)
	}
	if err := spdk.BdevRaidAddBaseBdev(t.Context(), all[0].rpc, spdk.BdevRaidAddBaseBdevParams{RaidBdev: raid.Name, BaseBdev: another.Bdev}); !spdk.IsCode(err, -1) {
		t.Errorf("a second rebuild, asked of SPDK: %v, want EPERM", err)
	}
	if err := all[0].RemoveRaidLeg(t.Context(), raid.Name, leg.Bdev); !errors.Is(err, spdk.ErrLastLeg) {
		t.Errorf("removing the source of the rebuild: %v, want the last leg", err)
	}
	h.write(2) // while it runs
	r = rebuilt(t, all[0], raid.Name, added.Bdev)
	if !r.Holds(added.Bdev) || !r.Holds(leg.Bdev) {
		t.Errorf("rebuilt: %+v", r)
	}
	h.write(3)
	h.Close()
	checkReplica(t, second, 1, 2, 3)
	l, err := all[1].Lvol(t.Context(), second.lvol.LvStore, second.lvol.Name)
	if err != nil || l.AllocatedBytes != l.SizeBytes {
		t.Errorf("the rebuilt leg holds %d of %d bytes, %v; want all", l.AllocatedBytes, l.SizeBytes, err)
	}
}

func TestRebuildThatLosesItsTargetLeavesTheSlotEmpty(t *testing.T) {
	all := targets(t, 2)
	slowRebuilds(t, all[0])
	leg := attach(t, all[0], newReplica(t, all[1], volumeSize, all[0]))
	target := attach(t, all[0], newReplica(t, all[1], volumeSize, all[0]))
	raid := assemble(t, all[0], 2, leg)
	ok(t, all[0].AddRaidLeg(t.Context(), raid.Name, target.Bdev))
	ok(t, all[0].RemoveRaidLeg(t.Context(), raid.Name, target.Bdev))
	r := rebuilt(t, all[0], raid.Name, target.Bdev)
	if r.State != spdk.RaidOnline || r.Holds(target.Bdev) || !slices.Equal(bdevs(r), []string{leg.Bdev, ""}) {
		t.Errorf("%+v", r)
	}
	ok(t, all[0].AddRaidLeg(t.Context(), raid.Name, target.Bdev))
}

// A rebuild that cannot be finished, here for want of space, ends by emptying the slot; its
// controller is enabled all along, and the source is untouched.
func TestRebuildIntoAFullPoolEmptiesTheSlotAgain(t *testing.T) {
	all := targets(t, 2)
	leg := attach(t, all[0], newReplica(t, all[0], volumeSize, all[0]))
	target := attach(t, all[0], newReplica(t, all[1], volumeSize, all[0]))
	raid := assemble(t, all[0], 2, leg)
	stores, err := all[1].LvStores(t.Context())
	ok(t, err)
	filler := spdk.LvolSpec{LvStore: all[1].lvs.Name, Name: unique(), SizeBytes: stores[0].FreeBytes - volumeSize/2}
	_, err = all[1].CreateLvol(t.Context(), filler)
	ok(t, err)
	atEnd(t, "delete lvol", func(ctx context.Context) error { return all[1].DeleteLvol(ctx, filler.LvStore, filler.Name) })
	ok(t, all[0].AddRaidLeg(t.Context(), raid.Name, target.Bdev))
	eventually(t, "the slot is empty again", func(ctx context.Context) bool {
		r, err := all[0].Raid(ctx, raid.Name)
		return err == nil && r.State == spdk.RaidOnline && r.Rebuild == nil && slices.Equal(bdevs(r), []string{leg.Bdev, ""})
	})
	if now, err := all[0].Leg(t.Context(), target.Controller); err != nil || now.State != spdk.LegEnabled || now.Bdev != target.Bdev {
		t.Errorf("the leg that could not be rebuilt: %+v, %v", now, err)
	}
}

func TestLegIsNotAddedWhereItCannotBe(t *testing.T) {
	all := targets(t, 2)
	v := newVolume(t, 2, all...)
	spare := attach(t, all[0], newReplica(t, all[1], volumeSize, all[0]))
	small := attach(t, all[0], newReplica(t, all[1], volumeSize/2, all[0]))
	if err := all[0].AddRaidLeg(t.Context(), v.raid.Name, spare.Bdev); !errors.Is(err, spdk.ErrConflict) {
		t.Errorf("no empty slot: %v", err)
	}
	if err := all[0].AddRaidLeg(t.Context(), unique(), spare.Bdev); !errors.Is(err, spdk.ErrNotFound) {
		t.Errorf("no raid: %v", err)
	}
	ok(t, all[0].RemoveRaidLeg(t.Context(), v.raid.Name, v.legs[1].Bdev))
	for _, bdev := range []string{small.Bdev, unique()} {
		if err := all[0].AddRaidLeg(t.Context(), v.raid.Name, bdev); err == nil {
			t.Errorf("%s was added", bdev)
		}
		if r, err := all[0].Raid(t.Context(), v.raid.Name); err != nil || !slices.Equal(bdevs(r), []string{v.legs[0].Bdev, ""}) {
			t.Errorf("after %s: %+v, %v", bdev, r, err)
		}
	}
}

// Facts 6 and 7: a write that a leg fails succeeds and ejects the leg; when its controller
// is back, the same bdev can be added again.
func TestFencedLegIsEjectedByAWriteAndAddedAgainWhenItIsBack(t *testing.T) {
	all := targets(t, 2)
	v := newVolume(t, 2, all...)
	e := volumeExport(t, v.raid, spdk.ANAOptimized, userNQN)
	export(t, v.raidHost, e)
	h := mustConnect(t, e, userNQN)
	h.write(1)
	lost := v.replicas[1]
	ok(t, lost.on.FenceHost(t.Context(), lost.export.NQN, v.raidHost.hostNQN))
	h.write(2) // waits for the fast I/O fail time-out of the leg, and succeeds
	eventually(t, "the leg is ejected", func(ctx context.Context) bool {
		r, err := v.raidHost.Raid(ctx, v.raid.Name)
		return err == nil && r.State == spdk.RaidOnline && slices.Equal(bdevs(r), []string{v.legs[0].Bdev, ""})
	})
	ok(t, lost.on.AllowHost(t.Context(), lost.export.NQN, v.raidHost.hostNQN))
	eventually(t, "the leg is back", func(ctx context.Context) bool {
		l, err := v.raidHost.Leg(ctx, v.legs[1].Controller)
		return err == nil && l.State == spdk.LegEnabled && l.Bdev == v.legs[1].Bdev
	})
	ok(t, v.raidHost.AddRaidLeg(t.Context(), v.raid.Name, v.legs[1].Bdev))
	if r := rebuilt(t, v.raidHost, v.raid.Name, v.legs[1].Bdev); !r.Holds(v.legs[1].Bdev) {
		t.Errorf("%+v", r)
	}
	h.Close()
	checkReplica(t, lost, 1, 2)
}

// Fact 14: a snapshot of a leg in use disturbs nothing and has what was written before.
func TestSnapshotOfALegInUse(t *testing.T) {
	all := targets(t, 2)
	v := newVolume(t, 2, all...)
	e := volumeExport(t, v.raid, spdk.ANAOptimized, userNQN)
	export(t, v.raidHost, e)
	h := mustConnect(t, e, userNQN)
	h.write(1)
	r := v.replicas[1]
	name := unique()
	atEnd(t, "delete snapshot", func(ctx context.Context) error {
		// The volume's lvol is a clone of it now, and goes first.
		return errors.Join(v.raidHost.Unexport(ctx, e.NQN), v.raidHost.DeleteRaid(ctx, v.raid.Name),
			v.raidHost.DetachLeg(ctx, v.legs[1].Controller), r.on.Unexport(ctx, r.export.NQN),
			r.on.DeleteLvol(ctx, r.lvol.LvStore, r.lvol.Name), r.on.DeleteLvol(ctx, r.lvol.LvStore, name))
	})
	_, err := spdk.BdevLvolSnapshot(t.Context(), r.on.rpc, spdk.BdevLvolSnapshotParams{LvolName: r.lvol.LvStore + "/" + r.lvol.Name, SnapshotName: name})
	ok(t, err)
	h.write(2)
	h.check(1)
	h.check(2)
	now, err := v.raidHost.Raid(t.Context(), v.raid.Name)
	if err != nil || !now.Holds(v.legs[0].Bdev) || !now.Holds(v.legs[1].Bdev) {
		t.Errorf("%+v, %v", now, err)
	}
	s, err := r.on.Lvol(t.Context(), r.lvol.LvStore, name)
	if err != nil || !s.Snapshot || s.SizeBytes != volumeSize {
		t.Errorf("%+v, %v", s, err)
	}
	snap := exportLvol(t, s, userNQN)
	export(t, r.on, snap)
	reader := mustConnect(t, snap, userNQN)
	reader.check(1)
	p := make([]byte, ioSize)
	ok(t, reader.Read(t.Context(), 1, p, place(2)))
	if slices.Equal(p, pattern(2, ioSize)) {
		t.Error("the snapshot has what was written after it")
	}
	ok(t, reader.Close())
	ok(t, r.on.Unexport(t.Context(), snap.NQN))
}
