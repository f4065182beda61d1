package contract

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk"
)

func TestLegIsAttachedOnceAndReadBack(t *testing.T) {
	all := targets(t, 2)
	r := newReplica(t, all[1], volumeSize, all[0])
	leg := r.leg(all[0])
	made := attachLeg(t, all[0], leg)
	want := spdk.LegState{
		Controller: leg.Controller, Bdev: leg.Controller + "n1", State: spdk.LegEnabled, NQN: leg.NQN, Address: leg.Address,
		HostNQN: leg.HostNQN, SizeBytes: volumeSize, BlockSize: all[1].lvs.BlockSize, CNTLID: made.CNTLID,
	}
	if made != want {
		t.Errorf("attached %+v, want %+v", made, want)
	}
	again, err := all[0].AttachLeg(t.Context(), leg)
	if err != nil || again != want {
		t.Errorf("again %+v, %v", again, err)
	}
	ok(t, all[0].DetachLeg(t.Context(), leg.Controller))
	if _, err := all[0].Leg(t.Context(), leg.Controller); !errors.Is(err, spdk.ErrNotFound) {
		t.Errorf("detached: %v", err)
	}
	ok(t, all[0].DetachLeg(t.Context(), leg.Controller))
}

func TestControllerOfThatNameAttachedElsewhereIsReplaced(t *testing.T) {
	all := targets(t, 2)
	one, two := newReplica(t, all[1], volumeSize, all[0]), newReplica(t, all[1], volumeSize, all[0])
	leg := one.leg(all[0])
	attachLeg(t, all[0], leg)
	leg.NQN, leg.Address = two.export.NQN, two.export.Listen
	now, err := all[0].AttachLeg(t.Context(), leg)
	if err != nil || now.NQN != leg.NQN || now.Address != leg.Address || now.Bdev == "" {
		t.Errorf("%+v, %v", now, err)
	}
}

func TestControllerThatARaidUsesIsNotReplaced(t *testing.T) {
	all := targets(t, 2)
	v := newVolume(t, 3, all...)
	other := newReplica(t, all[1], volumeSize, all[0])
	leg := other.leg(all[0])
	leg.Controller = v.legs[1].Controller
	if _, err := all[0].AttachLeg(t.Context(), leg); !errors.Is(err, spdk.ErrConflict) {
		t.Errorf("%v, want a conflict", err)
	}
}

// Fact 9: in the process that holds the lvol, too, the leg works when the namespace has an
// identity of its own, and has no bdev when it has the lvol's.
func TestLocalLegNeedsAnIdentityOfItsOwn(t *testing.T) {
	tg := targets(t, 1)[0]
	l := newLvol(t, tg, volumeSize)
	e := exportLvol(t, l, tg.hostNQN)
	export(t, tg, e)
	r := &replica{on: tg, lvol: l, export: e}
	if s := attach(t, tg, r); s.Bdev == "" {
		t.Errorf("%+v has no bdev", s)
	}

	same := exportLvol(t, newLvol(t, tg, volumeSize), tg.hostNQN)
	id, err := tg.Lvol(t.Context(), tg.lvs.Name, strings.TrimPrefix(same.Bdev, tg.lvs.Name+"/"))
	ok(t, err)
	same.NSUUID = uuid.MustParse(id.UUID)
	export(t, tg, same)
	leg := (&replica{on: tg, export: same}).leg(tg)
	atEnd(t, "detach", func(ctx context.Context) error { return tg.DetachLeg(ctx, leg.Controller) })
	s, err := tg.AttachLeg(t.Context(), leg)
	if !errors.Is(err, spdk.ErrNoBdev) || s.Bdev != "" || s.State != spdk.LegEnabled {
		t.Errorf("with the lvol's UUID: %+v, %v; want no bdev", s, err)
	}
}

func TestAttachToNothingFailsAndLeavesNothing(t *testing.T) {
	tg := targets(t, 1)[0]
	leg := spdk.Leg{Controller: unique(), NQN: uniqueNQN(), Address: freeAddress(t), HostNQN: tg.hostNQN, CtrlrLossSec: 3, ReconnectDelaySec: 1, FastIOFailSec: 1}
	if _, err := tg.AttachLeg(t.Context(), leg); err == nil {
		t.Error("attached to an address where nothing listens")
	}
	if _, err := tg.Leg(t.Context(), leg.Controller); !errors.Is(err, spdk.ErrNotFound) {
		t.Errorf("left behind: %v", err)
	}
}

func TestHostThatIsNotListedCannotAttach(t *testing.T) {
	all := targets(t, 2)
	r := newReplica(t, all[1], volumeSize) // to nobody
	if _, err := all[0].AttachLeg(t.Context(), r.leg(all[0])); err == nil {
		t.Error("attached without being listed")
	}
	ok(t, all[1].AllowHost(t.Context(), r.export.NQN, all[0].hostNQN))
	ok(t, all[1].AllowHost(t.Context(), r.export.NQN, all[0].hostNQN))
	attach(t, all[0], r)
}

// Fact 12: removing a host disconnects it and keeps it out, and letting it in again brings
// the same controller and bdev back.
func TestFencedLegIsDisconnectedAndKeptOut(t *testing.T) {
	all := targets(t, 2)
	r := newReplica(t, all[1], volumeSize, all[0])
	s := attach(t, all[0], r)
	ok(t, all[1].FenceHost(t.Context(), r.export.NQN, all[0].hostNQN))
	ok(t, all[1].FenceHost(t.Context(), r.export.NQN, all[0].hostNQN))
	connected, err := spdk.NVMfSubsystemGetControllers(t.Context(), all[1].rpc, spdk.NVMfSubsystemParams{NQN: r.export.NQN})
	if err != nil || len(connected) != 0 {
		t.Errorf("still connected: %+v, %v", connected, err)
	}
	eventually(t, "the fenced leg waits to reconnect", func(ctx context.Context) bool {
		now, err := all[0].Leg(ctx, s.Controller)
		return err == nil && now.State == spdk.LegReconnectIsDelayed
	})
	ok(t, all[1].AllowHost(t.Context(), r.export.NQN, all[0].hostNQN))
	eventually(t, "the leg comes back", func(ctx context.Context) bool {
		now, err := all[0].Leg(ctx, s.Controller)
		return err == nil && now.State == spdk.LegEnabled && now.Bdev == s.Bdev
	})
}

func TestFenceOfAMissingSubsystemIsDone(t *testing.T) {
	tg := targets(t, 1)[0]
	ok(t, tg.FenceHost(t.Context(), uniqueNQN(), userNQN))
	if err := tg.AllowHost(t.Context(), uniqueNQN(), userNQN); !errors.Is(err, spdk.ErrNotFound) {
		t.Errorf("allow: %v", err)
	}
}

// Fact 13: a resize reaches the attached legs, and the raid over them. The legs are not on
// the raid host itself, where SPDK waits 30 s for its own answer if one reactor serves both.
func TestResizeOfAllReplicasReachesLegsAndRaid(t *testing.T) {
	all := targets(t, 3)
	raidHost, one, two := all[0], newReplica(t, all[1], volumeSize, all[0]), newReplica(t, all[2], volumeSize, all[0])
	legs := []spdk.LegState{attach(t, raidHost, one), attach(t, raidHost, two)}
	raid := assemble(t, raidHost, 3, legs...)
	for i, r := range []*replica{one, two} {
		growUntilSeen(t, r, raidHost, legs[i].Controller, 2*volumeSize)
	}
	eventually(t, "the raid has the size of the smallest leg", func(ctx context.Context) bool {
		now, err := raidHost.Raid(ctx, raid.Name)
		if err != nil {
			return false
		}
		smallest := int64(math.MaxInt64)
		for _, l := range legs {
			leg, err := raidHost.Leg(ctx, l.Controller)
			ok(t, err)
			smallest = min(smallest, leg.SizeBytes)
		}
		return now.SizeBytes == smallest && smallest >= 2*volumeSize
	})
}

// A size that changed while a leg was not connected stays unknown, even after it has
// reconnected, until the replica is resized again.
func TestResizeThatALegMissedIsSeenWithTheNextOne(t *testing.T) {
	all := targets(t, 2)
	r := newReplica(t, all[1], volumeSize, all[0])
	leg := attach(t, all[0], r)
	size := func(ctx context.Context) int64 {
		now, err := all[0].Leg(ctx, leg.Controller)
		if err != nil || now.State != spdk.LegEnabled {
			return 0
		}
		return now.SizeBytes
	}
	ok(t, all[1].FenceHost(t.Context(), r.export.NQN, all[0].hostNQN))
	ok(t, all[1].ResizeLvol(t.Context(), r.lvol.LvStore, r.lvol.Name, 2*volumeSize))
	ok(t, all[1].AllowHost(t.Context(), r.export.NQN, all[0].hostNQN))
	eventually(t, "the leg is back", func(ctx context.Context) bool { return size(ctx) > 0 })
	ok(t, all[0].rpc.Call(t.Context(), "bdev_nvme_reset_controller", map[string]string{"name": leg.Controller}, nil))
	eventually(t, "the leg is back", func(ctx context.Context) bool { return size(ctx) > 0 })
	if now := size(t.Context()); now != volumeSize {
		t.Errorf("the leg has %d bytes; SPDK was known to keep %d", now, volumeSize)
	}
	growUntilSeen(t, r, all[0], leg.Controller, 2*volumeSize+all[1].lvs.ClusterBytes)
}

// growUntilSeen grows a replica to size, and then by a cluster again and again until the
// leg has that size or more: an announcement that falls into a reset, as on a busy machine,
// is lost, and only a further one brings the size.
func growUntilSeen(t *testing.T, r *replica, raidHost *target, controller string, size int64) {
	t.Helper()
	ask := size
	eventually(t, "leg "+controller+" has the new size", func(ctx context.Context) bool {
		ok(t, r.on.ResizeLvol(ctx, r.lvol.LvStore, r.lvol.Name, ask))
		ask += r.on.lvs.ClusterBytes
		now, err := raidHost.Leg(ctx, controller)
		return err == nil && now.SizeBytes >= size
	})
}
