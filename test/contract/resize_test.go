package contract

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
)

// grow grows a replica to twice its size.
func (r *replica) grow(t *testing.T) {
	t.Helper()
	ok(t, r.on.ResizeLvol(t.Context(), r.lvol.LvStore, r.lvol.Name, 2*volumeSize))
}

// bytesOf returns the size that a host is told of the one namespace.
func (h *host) bytesOf() int64 {
	h.t.Helper()
	all, err := h.Namespaces(h.t.Context())
	if err != nil || len(all) != 1 {
		h.t.Fatalf("namespaces %+v, %v", all, err)
	}
	return all[0].SizeBytes
}

// A raid is as large as its smallest leg, and tells the hosts of its target when that grows: at once, without a pause. What they write
// beyond the former end is on every replica.
func TestRaidGrowsWithItsSmallestLegAndTellsItsHosts(t *testing.T) {
	all := targets(t, 3)
	one, two := newReplica(t, all[1], volumeSize, all[0]), newReplica(t, all[2], volumeSize, all[0])
	legs := []spdk.LegState{attach(t, all[0], one), attach(t, all[0], two)}
	raid := assemble(t, all[0], 3, legs...)
	e := volumeExport(t, raid, spdk.ANAOptimized, userNQN)
	export(t, all[0], e)
	h := mustConnect(t, e, userNQN)
	one.grow(t)
	eventually(t, "the first leg has grown", func(ctx context.Context) bool {
		leg, err := all[0].Leg(ctx, legs[0].Controller)
		return err == nil && leg.SizeBytes == 2*volumeSize
	})
	if now, err := all[0].Raid(t.Context(), raid.Name); err != nil || now.SizeBytes != volumeSize {
		t.Errorf("with one leg of two grown the raid has %d bytes, %v", now.SizeBytes, err)
	}
	two.grow(t)
	ok(t, all[0].AwaitRaidBytes(t.Context(), raid.Name, 2*volumeSize))
	for event := range h.Events() {
		if event.Type == nvmetcp.EventNamespaceChanged {
			break
		}
	}
	if size := h.bytesOf(); size != 2*volumeSize {
		t.Errorf("the host is told of %d bytes", size)
	}
	want := pattern(7, ioSize)
	ok(t, h.Write(t.Context(), 1, want, 2*volumeSize-ioSize))
	for _, r := range []*replica{one, two} {
		r.wantAt(t, want, 2*volumeSize-ioSize)
	}
}

// wantAt reads a replica past its raid.
func (r *replica) wantAt(t *testing.T, want []byte, off int64) {
	t.Helper()
	const auditor = "nqn.2026-11.dev.holdfast.contract:auditor"
	ok(t, r.on.AllowHost(t.Context(), r.export.NQN, auditor))
	h := mustConnect(t, r.export, auditor)
	got := make([]byte, len(want))
	ok(t, h.Read(t.Context(), 1, got, off))
	if !bytes.Equal(got, want) {
		t.Errorf("the replica on %s holds something else at %d", r.on.Name(), off)
	}
	h.Close()
	ok(t, r.on.FenceHost(t.Context(), r.export.NQN, auditor))
}

// A leg that was not connected when its replica grew holds its raid back for good; a raid over the same replicas on another node, whose
// legs are attached anew, has the size.
func TestRaidWithALegThatMissedTheResizeSaysSo(t *testing.T) {
	all := targets(t, 3)
	one, two := newReplica(t, all[1], volumeSize, all[0]), newReplica(t, all[2], volumeSize, all[0], all[1])
	legs := []spdk.LegState{attach(t, all[0], one), attach(t, all[0], two)}
	raid := assemble(t, all[0], 3, legs...)
	ok(t, all[2].FenceHost(t.Context(), two.export.NQN, all[0].hostNQN))
	two.grow(t)
	ok(t, all[2].AllowHost(t.Context(), two.export.NQN, all[0].hostNQN))
	eventually(t, "the leg is back", func(ctx context.Context) bool {
		leg, err := all[0].Leg(ctx, legs[1].Controller)
		return err == nil && leg.State == spdk.LegEnabled && leg.Bdev != ""
	})
	one.grow(t)
	err := all[0].AwaitRaidBytes(t.Context(), raid.Name, 2*volumeSize)
	if !errors.Is(err, spdk.ErrMissedResize) || !strings.Contains(err.Error(), legs[1].Bdev) {
		t.Errorf("got %v, want it to say that leg %s missed the size", err, legs[1].Bdev)
	}
	other := assemble(t, all[1], 3, attach(t, all[1], two))
	ok(t, all[1].AwaitRaidBytes(t.Context(), other.Name, 2*volumeSize))
}

// The raid grows with the target of its rebuild, and the rebuild goes on to the new end.
func TestRaidGrowsDuringARebuild(t *testing.T) {
	all := targets(t, 3)
	slowRebuilds(t, all[0])
	one, two := newReplica(t, all[1], volumeSize, all[0]), newReplica(t, all[2], volumeSize, all[0])
	leg, added := attach(t, all[0], one), attach(t, all[0], two)
	raid := assemble(t, all[0], 2, leg)
	e := volumeExport(t, raid, spdk.ANAOptimized, userNQN)
	export(t, all[0], e)
	h := mustConnect(t, e, userNQN)
	h.write(1)
	ok(t, all[0].AddRaidLeg(t.Context(), raid.Name, added.Bdev))
	one.grow(t)
	two.grow(t)
	ok(t, all[0].AwaitRaidBytes(t.Context(), raid.Name, 2*volumeSize))
	if now, err := all[0].Raid(t.Context(), raid.Name); err != nil || now.Rebuild == nil {
		t.Errorf("the rebuild is over already: %+v, %v", now, err)
	}
	early := pattern(8, ioSize)
	ok(t, h.Write(t.Context(), 1, early, 2*volumeSize-2*ioSize)) // beyond what is rebuilt
	if now := rebuilt(t, all[0], raid.Name, added.Bdev); !now.Holds(added.Bdev) || now.SizeBytes != 2*volumeSize {
		t.Errorf("rebuilt: %+v", now)
	}
	late := pattern(9, ioSize)
	ok(t, h.Write(t.Context(), 1, late, 2*volumeSize-ioSize))
	h.Close()
	checkReplica(t, two, 1)
	two.wantAt(t, early, 2*volumeSize-2*ioSize)
	two.wantAt(t, late, 2*volumeSize-ioSize)
}

// A replica that was not there when the others grew is refused until it has grown, too.
func TestSmallerLegIsRefusedByARaidThatHasGrown(t *testing.T) {
	all := targets(t, 3)
	one, two := newReplica(t, all[1], volumeSize, all[0]), newReplica(t, all[2], volumeSize, all[0])
	raid := assemble(t, all[0], 2, attach(t, all[0], one))
	one.grow(t)
	ok(t, all[0].AwaitRaidBytes(t.Context(), raid.Name, 2*volumeSize))
	small := two.leg(all[0])
	leg := attachLeg(t, all[0], small)
	err := spdk.BdevRaidAddBaseBdev(t.Context(), all[0].rpc, spdk.BdevRaidAddBaseBdevParams{RaidBdev: raid.Name, BaseBdev: leg.Bdev})
	if !spdk.IsErrno(err, unix.EINVAL) {
		t.Errorf("added: %v, want EINVAL", err)
	}
	if now, err := all[0].Raid(t.Context(), raid.Name); err != nil || now.Has(leg.Bdev) || now.State != spdk.RaidOnline || now.SizeBytes != 2*volumeSize {
		t.Errorf("then it is %+v, %v", now, err)
	}
	ok(t, all[0].DetachLeg(t.Context(), small.Controller))
	two.grow(t)
	leg = attachLeg(t, all[0], small)
	ok(t, all[0].AddRaidLeg(t.Context(), raid.Name, leg.Bdev))
	if now := rebuilt(t, all[0], raid.Name, leg.Bdev); !now.Holds(leg.Bdev) {
		t.Errorf("rebuilt: %+v", now)
	}
}

// A target that is inaccessible tells its hosts of a new size, too.
func TestHeldTargetTellsOfANewSize(t *testing.T) {
	all := targets(t, 2)
	one := newReplica(t, all[1], volumeSize, all[0])
	raid := assemble(t, all[0], 2, attach(t, all[0], one))
	e := volumeExport(t, raid, spdk.ANAInaccessible, userNQN)
	export(t, all[0], e)
	h := mustConnect(t, e, userNQN)
	one.grow(t)
	for event := range h.Events() {
		if event.Type == nvmetcp.EventNamespaceChanged {
			break
		}
	}
	if size := h.bytesOf(); size != 2*volumeSize {
		t.Errorf("the host is told of %d bytes", size)
	}
}
