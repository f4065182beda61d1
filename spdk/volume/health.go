package volume

import (
	"slices"
	"time"
)

// LegHealth is how one leg of a running volume was seen.
type LegHealth struct {
	// Listed: the raid has it in a slot.
	Listed bool
	// Member: the raid writes to the leg, and no rebuild of it is under way.
	Member bool
	// Connected: its NVMe controller is in the state enabled.
	Connected bool
	// Refused: its controller is known to have lost its peer and isn't trying to connect just now.
	Refused bool
	// CNTLID is its controller's id; another one says that it was reset in between.
	CNTLID int
}

// Steady is what a watcher remembers of a leg between two looks.
type Steady struct {
	// Since is since when it has been a connected member without a break; zero if it is none now.
	Since time.Time
	// CNTLID is its controller's id in that time.
	CNTLID int
	// Listed: the raid has had it in a slot.
	Listed bool
	// Rebuilt: its rebuild was seen to be over while a source was a member still. One that fails as its source is lost looks finished as well.
	Rebuilt bool
	// Alone: the raid has had no other leg in a slot that it could go on with.
	Alone bool
}

// Judge says which replicas of a running assembly are to change their state on record, by how their legs were seen.
//
//   - A leg that is no member is out-of-sync: writes may have been acknowledged without it.
//   - A member whose controller isn't connected is suspect: the raid is about to eject it, and will then acknowledge writes without
//     it. It has to be on record before that, so that it is never a source if the raid host, too, should fail.
//   - A suspect is in-sync again when it has been a connected member for settle, and so is one that was rebuilt. A raid goes on
//     listing a leg for seconds after it has begun to write without it, and a rebuild that failed looks finished for as long
//     (docs/spdk.md).
//   - A leg that was being rebuilt and is in no slot any more is out-of-sync again.
//   - The only leg that a raid has gets no worse: nothing can be acknowledged without it. If it ever had others, two looks have to show it. One that is
//     being rebuilt is no other: without its source the rebuild fails.
//
// Judge keeps memory, by replica ID.
func Judge(v *Volume, legs map[string]LegHealth, memory map[string]Steady, settle time.Duration, now time.Time) map[string]ReplicaState {
	before := make(map[string]Steady, len(v.Assembly.Legs))
	sourced := slices.ContainsFunc(v.Assembly.Legs, func(id string) bool {
		r := v.Replica(id)
		return r != nil && (r.State == ReplicaInSync || r.State == ReplicaSuspect) && legs[id].Member
	})
	for _, id := range v.Assembly.Legs {
		m, leg := memory[id], legs[id]
		before[id] = m
		switch {
		case !leg.Member || !leg.Connected:
			m.Since, m.Rebuilt = time.Time{}, false
		case m.Since.IsZero() || m.CNTLID != leg.CNTLID:
			m.Since, m.CNTLID, m.Rebuilt = now, leg.CNTLID, sourced
		}
		m.Listed = leg.Listed
		memory[id] = m
	}
	changes := map[string]ReplicaState{}
	for _, id := range v.Assembly.Legs {
		r, leg := v.Replica(id), legs[id]
		if r == nil {
			continue
		}
		m, before := memory[id], before[id]
		m.Alone = alone(v, legs, memory, id)
		memory[id] = m
		only := m.Alone && (before.Alone || len(v.Assembly.Legs) == 1)
		settled := !m.Since.IsZero() && now.Sub(m.Since) >= settle
		switch r.State {
		case ReplicaInSync:
			if !leg.Member && !only {
				changes[id] = ReplicaOutOfSync
			} else if !leg.Connected && !only {
				changes[id] = ReplicaSuspect
			}
		case ReplicaSuspect:
			if !leg.Member && !only {
				changes[id] = ReplicaOutOfSync
			} else if settled {
				changes[id] = ReplicaInSync
			}
		case ReplicaRebuilding:
			if before.Listed && !leg.Listed {
				changes[id] = ReplicaOutOfSync
			} else if settled {
				changes[id] = ReplicaInSync
			}
		}
	}
	return changes
}

// Unsettled says, after Judge, whether a suspect may soon be in-sync again or, where no replica is, one that was rebuilt.
func Unsettled(v *Volume, memory map[string]Steady) bool {
	states := []ReplicaState{ReplicaSuspect}
	if len(v.InState(ReplicaInSync)) == 0 {
		states = append(states, ReplicaRebuilding)
	}
	return slices.ContainsFunc(v.InState(states...), func(r Replica) bool { return !memory[r.ID].Since.IsZero() })
}

// alone says whether a raid has no other leg in a slot that it could go on with.
func alone(v *Volume, legs map[string]LegHealth, memory map[string]Steady, id string) bool {
	for other, leg := range legs {
		r := v.Replica(other)
		unfinished := r != nil && r.State == ReplicaRebuilding && !memory[other].Rebuilt
		if other != id && leg.Listed && !unfinished {
			return false
		}
	}
	return true
}

// What a replica that is lost again and again costs: the first losses are free, then each doubles the wait before its rebuild.
const (
	freeStrikes   = 3
	firstDelay    = 5 * time.Second
	longestDelay  = 5 * time.Minute
	soonAfterSync = 10 * time.Minute
)

// countLoss counts a loss that came while the replica was rebuilt or soon after.
func (r *Replica) countLoss(now time.Time) {
	if r.State == ReplicaRebuilding || !r.SyncedAt.IsZero() && now.Sub(r.SyncedAt) < soonAfterSync {
		r.Strikes++
		return
	}
	r.Strikes = 0
}

// RebuildDelay is how long the replica has to be out-of-sync before it is rebuilt again: a link that flaps must not keep the volume
// rebuilding for ever.
func (r Replica) RebuildDelay() time.Duration {
	if r.Strikes <= freeStrikes {
		return 0
	}
	return min(firstDelay<<min(r.Strikes-freeStrikes-1, 10), longestDelay)
}

// NextRebuild chooses the replica that the running raid is to rebuild now, the one that waits longest of those that are there, of the right size, not attached and not exported
// any more from before, and out-of-sync for long enough. ok is false while there is none, one is
// being rebuilt, or the raid has no slot for it.
func NextRebuild(v *Volume, seen Observed, now time.Time) (id string, ok bool) {
	if v.Assembly == nil || v.Assembly.Held || v.Assembly.Stopping || len(v.InState(ReplicaRebuilding)) > 0 {
		return "", false
	}
	host, known := seen.Nodes[v.Assembly.RaidHost]
	if !known || host.Err != nil || host.Raid == nil || !host.Raid.Online || len(host.Raid.Legs) >= host.Raid.Slots {
		return "", false
	}
	waiting := v.InState(ReplicaOutOfSync)
	slices.SortStableFunc(waiting, func(a, b Replica) int { return a.Since.Compare(b.Since) })
	for _, r := range waiting {
		view, known := seen.Nodes[r.Node]
		replica, exists := view.Replicas[r.ID]
		_, attached := host.Legs[r.ID]
		fresh := known && view.Err == nil && exists && !replica.ExportBegun && replica.SizeBytes == v.SizeBytes
		if fresh && !attached && !slices.Contains(host.Raid.Legs, r.ID) && now.Sub(r.Since) >= r.RebuildDelay() {
			return r.ID, true
		}
	}
	return "", false
}

// BeginRebuild puts on record that a replica is to be rebuilt by the assembly that runs.
func (v *Volume) BeginRebuild(id string, now time.Time) {
	v.SetReplicaState(id, ReplicaRebuilding, now)
	if !slices.Contains(v.Assembly.Legs, id) {
		v.Assembly.Legs = append(v.Assembly.Legs, id)
	}
}
