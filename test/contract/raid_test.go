package contract

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk"
)

func TestRaidOverAllLegsIsOnlineAndFoundAgain(t *testing.T) {
	all := targets(t, 2)
	v := newVolume(t, 2, all...)
	r := v.raid
	if r.State != spdk.RaidOnline || r.SizeBytes != volumeSize || r.BlockSize != v.legs[0].BlockSize || r.Superblock || r.InUse || r.Rebuild != nil {
		t.Errorf("made %+v", r)
	}
	for i, l := range v.legs {
		if s := r.Slots[i]; s.Bdev != l.Bdev || !s.Configured || s.SizeBytes != volumeSize || !r.Holds(l.Bdev) {
			t.Errorf("slot %d is %+v", i, s)
		}
	}
	again, err := all[0].AssembleRaid(t.Context(), spdk.RaidSpec{Name: r.Name, UUID: uuid.MustParse(r.UUID), Slots: 2, Legs: bdevs(r)})
	if err != nil || !slices.Equal(again.Slots, r.Slots) {
		t.Errorf("again %+v, %v", again, err)
	}
	ok(t, all[0].DeleteRaid(t.Context(), r.Name))
	ok(t, all[0].DeleteRaid(t.Context(), r.Name))
	if _, err := all[0].Raid(t.Context(), r.Name); !errors.Is(err, spdk.ErrNotFound) {
		t.Errorf("deleted: %v", err)
	}
}

// Fact 2: with null placeholders a raid starts from one good leg, online and with empty
// slots; and making it writes nothing, so that the data are those of the leg.
func TestRaidStartsFromOneLegWithTheDataThatTheLegHas(t *testing.T) {
	tg := targets(t, 1)[0]
	r := newReplica(t, tg, volumeSize, tg)
	ok(t, tg.AllowHost(t.Context(), r.export.NQN, userNQN))
	h := mustConnect(t, r.export, userNQN)
	h.write(1)
	h.write(2)
	h.Close()
	leg := attach(t, tg, r)
	raid := assemble(t, tg, 3, leg)
	if raid.State != spdk.RaidOnline || raid.SizeBytes != volumeSize || !slices.Equal(bdevs(raid), []string{leg.Bdev, "", ""}) {
		t.Errorf("made %+v", raid)
	}
	e := volumeExport(t, raid, spdk.ANAOptimized, userNQN)
	export(t, tg, e)
	v := mustConnect(t, e, userNQN)
	v.check(1)
	v.check(2)
	v.write(3)
	v.Close()
	checkReplica(t, r, 1, 2, 3)
}

// Fact 5: without a superblock a leg is the volume, byte for byte.
func TestEveryLegIsAnImageOfTheVolume(t *testing.T) {
	all := targets(t, 2)
	v := newVolume(t, 3, all...)
	infos, err := spdk.BdevRaidGetBdevs(t.Context(), v.raidHost.rpc, spdk.BdevRaidGetBdevsParams{Category: "online"})
	ok(t, err)
	for _, i := range infos {
		for _, s := range i.BaseBdevsList {
			if s.DataOffset != 0 {
				t.Errorf("%s: data of %v start at block %d", i.Name, s.Name, s.DataOffset)
			}
		}
	}
	e := volumeExport(t, v.raid, spdk.ANAOptimized, userNQN)
	export(t, v.raidHost, e)
	h := mustConnect(t, e, userNQN)
	for seed := range uint64(4) {
		h.write(seed)
	}
	h.Close()
	for _, r := range v.replicas {
		checkReplica(t, r, 0, 1, 2, 3)
	}
}

// Fact 1: SPDK wants two legs, and answers success to a creation with one missing, which
// then stays configuring.
func TestRaidWithAMissingLegAnswersSuccessAndIsNotOnline(t *testing.T) {
	tg := targets(t, 1)[0]
	leg := attach(t, tg, newReplica(t, tg, volumeSize, tg))
	name := unique()
	create := func(legs ...string) error {
		return spdk.BdevRaidCreate(t.Context(), tg.rpc, spdk.BdevRaidCreateParams{Name: name, RaidLevel: "raid1", BaseBdevs: legs, UUID: uuid.NewString()})
	}
	if err := create(leg.Bdev); !spdk.IsCode(err, -22) {
		t.Errorf("one leg: %v", err)
	}
	atEnd(t, "delete raid", func(ctx context.Context) error { return tg.DeleteRaid(ctx, name) })
	ok(t, create(leg.Bdev, unique()))
	r, err := tg.Raid(t.Context(), name)
	if err != nil || r.State != spdk.RaidConfiguring || r.SizeBytes != 0 || r.Holds(leg.Bdev) {
		t.Errorf("%+v, %v", r, err)
	}
	// Fact 28.
	e := exportLvol(t, spdk.Lvol{LvStore: "none", Name: "none"}, userNQN)
	ok(t, spdk.NVMfCreateSubsystem(t.Context(), tg.rpc, spdk.NVMfCreateSubsystemParams{NQN: e.NQN, MaxNamespaces: 1}))
	atEnd(t, "unexport", func(ctx context.Context) error { return tg.Unexport(ctx, e.NQN) })
	_, err = spdk.NVMfSubsystemAddNS(t.Context(), tg.rpc, spdk.NVMfSubsystemAddNSParams{NQN: e.NQN, Namespace: spdk.NVMfNamespace{
		NSID: 1, BdevName: name, NGUID: "000102030405060708090A0B0C0D0E0F", UUID: uuid.NewString(),
	}})
	if !spdk.IsCode(err, spdk.CodeInvalidParams) {
		t.Errorf("namespace on a raid that is not online: %v", err)
	}
	// AssembleRaid makes such a raid anew.
	r, err = tg.AssembleRaid(t.Context(), spdk.RaidSpec{Name: name, UUID: uuid.New(), Slots: 2, Legs: []string{leg.Bdev}})
	if err != nil || r.State != spdk.RaidOnline || !r.Holds(leg.Bdev) {
		t.Errorf("assembled: %+v, %v", r, err)
	}
}

// Between the making of a raid and a retry the number of replicas may have changed: what there is stays.
func TestRaidThatWasMadeWithOtherSlotsIsFoundMade(t *testing.T) {
	all := targets(t, 2)
	v := newVolume(t, 3, all...)
	for _, slots := range []int{2, 5} {
		r, err := all[0].AssembleRaid(t.Context(), spdk.RaidSpec{Name: v.raid.Name, UUID: uuid.MustParse(v.raid.UUID), Slots: slots, Legs: bdevs(v.raid)[:2]})
		if err != nil || !slices.Equal(r.Slots, v.raid.Slots) {
			t.Errorf("asked for %d slots: %+v, %v", slots, r, err)
		}
	}
}

func TestAssemblyThatCannotBeDoneIsRefusedAndLeavesNothing(t *testing.T) {
	all := targets(t, 2)
	v := newVolume(t, 2, all...)
	free := attach(t, all[0], newReplica(t, all[1], volumeSize, all[0]))
	id := uuid.MustParse(v.raid.UUID)
	for name, c := range map[string]struct {
		spec spdk.RaidSpec
		want error
	}{
		"a leg that is missing":     {spdk.RaidSpec{Name: unique(), UUID: uuid.New(), Slots: 2, Legs: []string{free.Bdev, unique()}}, spdk.ErrNotFound},
		"a leg of another raid":     {spdk.RaidSpec{Name: unique(), UUID: uuid.New(), Slots: 3, Legs: []string{free.Bdev, v.legs[0].Bdev}}, spdk.ErrNotOnline},
		"the UUID of another raid":  {spdk.RaidSpec{Name: unique(), UUID: id, Slots: 2, Legs: []string{free.Bdev}}, spdk.ErrNotOnline},
		"another UUID":              {spdk.RaidSpec{Name: v.raid.Name, UUID: uuid.New(), Slots: 2, Legs: bdevs(v.raid)}, spdk.ErrConflict},
		"more legs than its slots":  {spdk.RaidSpec{Name: v.raid.Name, UUID: id, Slots: 3, Legs: append(bdevs(v.raid), free.Bdev)}, spdk.ErrConflict},
		"a raid with another leg":   {spdk.RaidSpec{Name: v.raid.Name, UUID: id, Slots: 2, Legs: bdevs(v.raid)[:1]}, spdk.ErrConflict},
		"one slot":                  {spdk.RaidSpec{Name: unique(), UUID: uuid.New(), Slots: 1, Legs: []string{free.Bdev}}, nil},
		"no leg":                    {spdk.RaidSpec{Name: unique(), UUID: uuid.New(), Slots: 2}, nil},
		"more legs than slots":      {spdk.RaidSpec{Name: unique(), UUID: uuid.New(), Slots: 2, Legs: []string{"a", "b", "c"}}, nil},
		"a leg twice":               {spdk.RaidSpec{Name: unique(), UUID: uuid.New(), Slots: 2, Legs: []string{free.Bdev, free.Bdev}}, nil},
		"no UUID, so a random one":  {spdk.RaidSpec{Name: unique(), Slots: 2, Legs: []string{free.Bdev}}, nil},
		"a name that is over long.": {spdk.RaidSpec{Name: unique() + "-0123456789-0123456789-0123456789-0123456789-0123456789", UUID: uuid.New(), Slots: 2, Legs: []string{free.Bdev}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			before := all[0].inventory(t)
			_, err := all[0].AssembleRaid(t.Context(), c.spec)
			if err == nil || (c.want != nil && !errors.Is(err, c.want)) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if after := all[0].inventory(t); !slices.Equal(before, after) {
				t.Errorf("before %q\nafter %q", before, after)
			}
		})
	}
}

func TestExportedRaidIsInUseAndNotDeleted(t *testing.T) {
	all := targets(t, 2)
	v := newVolume(t, 2, all...)
	e := volumeExport(t, v.raid, spdk.ANAOptimized, userNQN)
	export(t, all[0], e)
	if r, err := all[0].Raid(t.Context(), v.raid.Name); err != nil || !r.InUse {
		t.Errorf("%+v, %v; want it in use", r, err)
	}
	if err := all[0].DeleteRaid(t.Context(), v.raid.Name); !errors.Is(err, spdk.ErrBusy) {
		t.Errorf("%v, want busy", err)
	}
}

func TestLegsAreTakenOutButNotTheLast(t *testing.T) {
	all := targets(t, 2)
	v := newVolume(t, 2, all...)
	ok(t, all[0].RemoveRaidLeg(t.Context(), v.raid.Name, v.legs[0].Bdev))
	ok(t, all[0].RemoveRaidLeg(t.Context(), v.raid.Name, v.legs[0].Bdev))
	r, err := all[0].Raid(t.Context(), v.raid.Name)
	if err != nil || r.State != spdk.RaidOnline || !slices.Equal(bdevs(r), []string{"", v.legs[1].Bdev}) {
		t.Errorf("%+v, %v", r, err)
	}
	if err := all[0].RemoveRaidLeg(t.Context(), v.raid.Name, v.legs[1].Bdev); !errors.Is(err, spdk.ErrLastLeg) {
		t.Errorf("%v, want the last leg", err)
	}
}

// Detaching the controller of a leg ejects it, and the raid goes on.
func TestDetachedLegIsEjected(t *testing.T) {
	all := targets(t, 2)
	v := newVolume(t, 2, all...)
	ok(t, all[0].DetachLeg(t.Context(), v.legs[1].Controller))
	eventually(t, "the slot is empty", func(ctx context.Context) bool {
		r, err := all[0].Raid(ctx, v.raid.Name)
		return err == nil && r.State == spdk.RaidOnline && slices.Equal(bdevs(r), []string{v.legs[0].Bdev, ""})
	})
}
