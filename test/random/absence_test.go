package random_test

import (
	"slices"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// waiting is what a volume for several nodes has waited for (docs/design.md, "Several nodes").
type waiting struct {
	// unwatchedAt is when nobody looked after the volume last although a machine used it: its owner's was lost, or passed ownership on.
	unwatchedAt time.Time
	// tooLate is the number of an assembly whose raid host was lost while a machine that might write could not say that it has left it: nobody
	// knows what it has acknowledged, so that the raid host is waited for, with its raid.
	tooLate uint32
	// waitsSince is since when it waits for that, zero if it doesn't; waitedAt when it last did.
	waitsSince, waitedAt time.Time
}

// absentees are the nodes that have the volume, as far as the record says, and can neither look after it nor leave a raid host: a node service is
// down, a machine has lost power, or is being attached or detached.
func (v *vol) absentees(record *volume.Volume) []volume.Publication {
	return slices.DeleteFunc(slices.Clone(record.Publications), func(p volume.Publication) bool {
		a := v.on(p.Node)
		return !p.Staged && p.Node != record.Owner || a != nil && a.done >= staged && !a.host.isDown()
	})
}

// unwatched says whether a machine may use the volume that nobody looks after.
func (v *vol) unwatched(record *volume.Volume) bool {
	p := record.Publication(record.Owner)
	if p == nil {
		return false
	}
	owner := v.on(p.Node)
	return p.Staged && p.Inherits || len(record.Guests()) > 0 && (owner == nil || owner.done < staged)
}

// checkAbsence notes whether a volume for several nodes has to wait for one of them, or for its raid host.
func (v *vol) checkAbsence() {
	record := v.w.store.peek(v.id())
	if len(v.uses) == 1 || record == nil || record.Assembly == nil {
		v.waiting = waiting{}
		return
	}
	now := time.Now()
	if v.unwatched(record) {
		v.unwatchedAt = now
	}
	for _, p := range v.absentees(record) {
		if p.Node == record.Owner && !v.runs(record) || p.Node != record.Owner && v.hidesWrites(record) {
			v.tooLate = record.Assembly.Number
		}
	}
	switch {
	case v.tooLate != record.Assembly.Number || v.runs(record):
		v.waitsSince = time.Time{}
		if v.servedFor() >= settling {
			v.tooLate = 0
		}
		return
	case v.waitsSince.IsZero():
		v.waitsSince = now
	}
	v.waitedAt = now
	if !v.broken && now.Sub(v.waitsSince) >= budgets.TargetLoss {
		v.broken = true
		v.w.trace.add("%s has waited for %v for what its raid host has acknowledged: I/O may fail", v, now.Sub(v.waitsSince))
	}
}

// hidesWrites says whether a raid host that may have served a guest, and that the guest may not have left, is lost.
func (v *vol) hidesWrites(record *volume.Volume) bool {
	if _, there := v.w.members(record); !there || v.w.faults.hidden(record.Assembly.RaidHost) {
		return true
	}
	return slices.ContainsFunc(record.Retired, func(a volume.Assembly) bool {
		return !a.Held && len(record.Behind(a.Number)) > 0 && v.w.faults.hidden(a.RaidHost)
	})
}

// runs says whether the volume's raid is there and in reach of hosts, and serves them.
func (v *vol) runs(record *volume.Volume) bool {
	_, there := v.w.members(record)
	return there && !record.Assembly.Held && !v.w.faults.hidden(record.Assembly.RaidHost)
}

// servedFor is how long the volume has not had to wait.
func (v *vol) servedFor() time.Duration { return time.Since(v.waitedAt) }

// stuck says whether nothing but the volume's unpublication may help: its raid host is back, and has no raid that could tell.
func (v *vol) stuck() bool { return !v.waitsSince.IsZero() && time.Since(v.waitsSince) > patience }
