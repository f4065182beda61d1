package contract

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk"
)

// Fact 23: after its raid host is fenced off, a raid is made again on another node from the
// same leg and exported with the same identity; everything acknowledged is there.
func TestRaidIsMadeAgainOnAnotherNode(t *testing.T) {
	all := targets(t, 3)
	v := newVolume(t, 3, all[0], all[2])
	e := volumeExport(t, v.raid, spdk.ANAOptimized, userNQN)
	export(t, all[0], e)
	h := mustConnect(t, e, userNQN)
	h.write(1)
	// The old raid host is cut off every replica; what it still holds back it cannot write.
	for _, r := range v.replicas {
		ok(t, r.on.FenceHost(t.Context(), r.export.NQN, all[0].hostNQN))
	}
	ok(t, all[2].AllowHost(t.Context(), v.replicas[1].export.NQN, all[1].hostNQN))
	next := attach(t, all[1], v.replicas[1])
	raid := assemble(t, all[1], 3, next)
	moved := e
	moved.Bdev, moved.Listen, moved.MinCNTLID, moved.MaxCNTLID, moved.ANAState = raid.Name, freeAddress(t), 101, 200, spdk.ANAInaccessible
	export(t, all[1], moved)
	second := mustConnect(t, moved, userNQN)
	if err := second.tryWrite(t.Context(), 2); !isPathError(err) {
		t.Errorf("before it is optimized: %v", err)
	}
	ok(t, all[1].SetANAState(t.Context(), moved.NQN, moved.Listen, spdk.ANAOptimized))
	second.check(1)
	second.write(2)
	second.check(2)
	namespaces, err := second.Namespaces(t.Context())
	if err != nil || len(namespaces) != 1 || namespaces[0].UUID != e.NSUUID || second.CNTLID() < 101 {
		t.Errorf("the moved volume is %+v, controller %d, %v", namespaces, second.CNTLID(), err)
	}
	second.Close()
	h.Close()
	checkReplica(t, v.replicas[1], 1, 2)
}

// Fact 25a: a second raid over the same replicas on another node, kept inaccessible, takes
// over with two calls, there and back, and every write is there.
func TestWarmStandbyTakesOverThereAndBack(t *testing.T) {
	all := targets(t, 2)
	v := newVolume(t, 3, all...)
	e := volumeExport(t, v.raid, spdk.ANAOptimized, userNQN)
	export(t, all[0], e)
	var legs []spdk.LegState
	for _, r := range v.replicas {
		legs = append(legs, attach(t, all[1], r))
	}
	here := mustConnect(t, e, userNQN)
	here.write(0)
	raid := assemble(t, all[1], 3, legs...)
	standby := e
	standby.Bdev, standby.Listen, standby.MinCNTLID, standby.MaxCNTLID, standby.ANAState = raid.Name, freeAddress(t), 101, 200, spdk.ANAInaccessible
	export(t, all[1], standby)
	there := mustConnect(t, standby, userNQN)
	for i := range uint64(6) {
		from, to, fromAt, toAt, via := all[0], all[1], e.Listen, standby.Listen, there
		if i%2 == 1 {
			from, to, fromAt, toAt, via = to, from, toAt, fromAt, here
		}
		ok(t, from.SetANAState(t.Context(), e.NQN, fromAt, spdk.ANAInaccessible))
		ok(t, to.SetANAState(t.Context(), e.NQN, toAt, spdk.ANAOptimized))
		for seed := range i + 1 {
			via.check(seed)
		}
		via.write(i + 1)
	}
	here.Close()
	there.Close()
	for _, r := range v.replicas {
		checkReplica(t, r, 0, 1, 2, 3, 4, 5, 6)
	}
}

// Making a raid writes nothing, so a standby can be made while the other is written.
func TestMakingARaidWritesNothingToItsLegs(t *testing.T) {
	tg := targets(t, 1)[0]
	r := newReplica(t, tg, volumeSize, tg)
	leg := attach(t, tg, r)
	for range 2 {
		spec := spdk.RaidSpec{Name: unique(), UUID: uuid.New(), Slots: 3, Legs: []string{leg.Bdev}}
		_, err := tg.AssembleRaid(t.Context(), spec)
		ok(t, err)
		ok(t, tg.DeleteRaid(t.Context(), spec.Name))
	}
	l, err := tg.Lvol(t.Context(), r.lvol.LvStore, r.lvol.Name)
	if err != nil || l.AllocatedBytes != 0 {
		t.Errorf("%d bytes of the thin leg are allocated, %v; want none", l.AllocatedBytes, err)
	}
}

// A replica goes in an order in which nothing is taken from under its users: out of the
// raid, detached, unexported, deleted.
func TestReplicaIsTakenAwayInOrder(t *testing.T) {
	all := targets(t, 2)
	v := newVolume(t, 2, all...)
	gone, leg := v.replicas[1], v.legs[1]
	ctx := context.WithoutCancel(t.Context())
	ok(t, v.raidHost.RemoveRaidLeg(ctx, v.raid.Name, leg.Bdev))
	ok(t, v.raidHost.DetachLeg(ctx, leg.Controller))
	ok(t, gone.on.Unexport(ctx, gone.export.NQN))
	ok(t, gone.on.DeleteLvol(ctx, gone.lvol.LvStore, gone.lvol.Name))
}
