package volume

import "time"

// LegHealth is how one leg of a running volume was seen.
type LegHealth struct {
	// Member: the raid writes to the leg, and no rebuild of it is under way.
	Member bool
	// Connected: its NVMe controller is in the state enabled.
	Connected bool
}

// Judge says which replicas of a running assembly are to change their state on record, by how their legs were seen.
//
//   - A leg that is no member is out-of-sync: writes may have been acknowledged without it.
//   - A member whose controller isn't connected is suspect: the raid is about to eject it, and will then acknowledge writes without
//     it. It has to be on record before that, so that it is never a source if the raid host, too, should fail.
//   - A suspect is in-sync again when it has been a connected member for settle. A raid goes on listing a leg for seconds after it
//     has begun to write without it (docs/spdk.md).
//
// steadySince says since when each leg has been seen as a connected member without a break; Judge keeps it.
func Judge(v *Volume, legs map[string]LegHealth, steadySince map[string]time.Time, settle time.Duration, now time.Time) map[string]ReplicaState {
	changes := map[string]ReplicaState{}
	for _, id := range v.Assembly.Legs {
		r, leg := v.Replica(id), legs[id]
		if r == nil {
			continue
		}
		if !leg.Member || !leg.Connected {
			delete(steadySince, id)
		} else if steadySince[id].IsZero() {
			steadySince[id] = now
		}
		switch tracked := r.State == ReplicaInSync || r.State == ReplicaSuspect; {
		case !tracked:
		case !leg.Member:
			changes[id] = ReplicaOutOfSync
		case !leg.Connected && r.State == ReplicaInSync:
			changes[id] = ReplicaSuspect
		case leg.Connected && r.State == ReplicaSuspect && now.Sub(steadySince[id]) >= settle:
			changes[id] = ReplicaInSync
		}
	}
	return changes
}
