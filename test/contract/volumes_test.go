package contract

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk"
)

const mib = 1 << 20

// volumeSize is the size of the volumes of most tests: a whole number of clusters.
const volumeSize = 16 * mib

// replica is an lvol with its export.
type replica struct {
	on     *target
	lvol   spdk.Lvol
	export spdk.Export
}

// newLvol makes a thin lvol.
func newLvol(t *testing.T, on *target, size int64) spdk.Lvol {
	t.Helper()
	spec := spdk.LvolSpec{LvStore: on.lvs.Name, Name: unique(), SizeBytes: size, Thin: true, ClearMethod: spdk.ClearWriteZeroes}
	l, err := on.CreateLvol(t.Context(), spec)
	ok(t, err)
	atEnd(t, "delete lvol", func(ctx context.Context) error { return on.DeleteLvol(ctx, spec.LvStore, spec.Name) })
	return l
}

// exportLvol describes an export of an lvol to hosts.
func exportLvol(t *testing.T, l spdk.Lvol, hosts ...string) spdk.Export {
	return spdk.Export{
		NQN: uniqueNQN(), Serial: "HFCT", Model: "contract", Bdev: l.LvStore + "/" + l.Name,
		NSUUID: uuid.New(), Listen: freeAddress(t), Hosts: hosts,
	}
}

// export makes an export.
func export(t *testing.T, on *target, e spdk.Export) {
	t.Helper()
	ok(t, on.Export(t.Context(), e))
	atEnd(t, "unexport", func(ctx context.Context) error { return on.Unexport(ctx, e.NQN) })
}

// newReplica makes an lvol and exports it to the raid hosts.
func newReplica(t *testing.T, on *target, size int64, raidHosts ...*target) *replica {
	t.Helper()
	l := newLvol(t, on, size)
	var hosts []string
	for _, h := range raidHosts {
		hosts = append(hosts, h.hostNQN)
	}
	e := exportLvol(t, l, hosts...)
	export(t, on, e)
	return &replica{on: on, lvol: l, export: e}
}

// leg describes the replica as a leg on raidHost, with a name of its own. The timeouts are
// long enough for a busy machine.
func (r *replica) leg(raidHost *target) spdk.Leg {
	return spdk.Leg{
		Controller: unique(), NQN: r.export.NQN, Address: r.export.Listen, HostNQN: raidHost.hostNQN,
		CtrlrLossSec: 30, ReconnectDelaySec: 1, FastIOFailSec: 2,
	}
}

// attach attaches a replica and returns the leg as it is.
func attach(t *testing.T, raidHost *target, r *replica) spdk.LegState {
	t.Helper()
	return attachLeg(t, raidHost, r.leg(raidHost))
}

func attachLeg(t *testing.T, raidHost *target, leg spdk.Leg) spdk.LegState {
	t.Helper()
	atEnd(t, "detach", func(ctx context.Context) error { return raidHost.DetachLeg(ctx, leg.Controller) })
	s, err := raidHost.AttachLeg(t.Context(), leg)
	ok(t, err)
	return s
}

// assemble makes a raid.
func assemble(t *testing.T, on *target, slots int, legs ...spdk.LegState) spdk.RaidState {
	t.Helper()
	spec := spdk.RaidSpec{Name: unique(), UUID: uuid.New(), Slots: slots}
	for _, l := range legs {
		spec.Legs = append(spec.Legs, l.Bdev)
	}
	atEnd(t, "delete raid", func(ctx context.Context) error { return on.DeleteRaid(ctx, spec.Name) })
	r, err := on.AssembleRaid(t.Context(), spec)
	ok(t, err)
	return r
}

// volume is a raid over replicas, one on each target, with the first as raid host.
type volume struct {
	raidHost *target
	replicas []*replica
	legs     []spdk.LegState
	raid     spdk.RaidState
}

// newVolume makes a volume with a replica on each target.
func newVolume(t *testing.T, slots int, on ...*target) *volume {
	t.Helper()
	v := &volume{raidHost: on[0]}
	for _, tg := range on {
		r := newReplica(t, tg, volumeSize, on...)
		v.replicas = append(v.replicas, r)
		v.legs = append(v.legs, attach(t, v.raidHost, r))
	}
	v.raid = assemble(t, v.raidHost, slots, v.legs...)
	return v
}

// bdevs returns the names of the bdevs in the slots of a raid.
func bdevs(r spdk.RaidState) []string {
	var names []string
	for _, s := range r.Slots {
		names = append(names, s.Bdev)
	}
	return names
}
