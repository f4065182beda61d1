package volume

import "time"

// ReplicaChange is a change of a replica's state on record.
type ReplicaChange struct {
	From, To ReplicaState
	// After is how long the replica was in the state From.
	After time.Duration
}

// ReplicaChanges returns how one write of a record has changed the states of its replicas. Those that came or went by it are not in it;
// before may be nil.
func ReplicaChanges(before, after *Volume) []ReplicaChange {
	if before == nil || after == nil {
		return nil
	}
	var changes []ReplicaChange
	for _, r := range after.Replicas {
		if was := before.Replica(r.ID); was != nil && was.State != r.State {
			changes = append(changes, ReplicaChange{From: was.State, To: r.State, After: max(0, r.Since.Sub(was.Since))})
		}
	}
	return changes
}
