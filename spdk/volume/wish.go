package volume

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// WishState is how far the taking of a snapshot is.
type WishState string

// Wish states.
//
//	wanted ──the owner is about to pause I/O──▶ pausing ──I/O goes on, and the legs were good──▶ taken
//	   wanted, pausing ──whatever else──▶ failed
//
// A volume that nobody owns has no write under way: the controller takes it from wanted to taken. The controller takes the wish off the record.
const (
	// WishWanted: nothing was done for it, or the controller is taking it.
	WishWanted WishState = "wanted"
	// WishPausing: I/O may be held at the target of assembly Assembly. Whoever owns the volume and finds this, and isn't at it itself, ends the
	// pause; nothing of the attempt is worth anything.
	WishPausing WishState = "pausing"
	// WishTaken: Taken says which lvols are the snapshot.
	WishTaken WishState = "taken"
	// WishFailed: Reason says why; nothing of the attempt is worth anything.
	WishFailed WishState = "failed"
)

// SnapshotWish asks whoever owns a volume to take a snapshot of it, in one attempt.
type SnapshotWish struct {
	// Snapshot is the ID of its record, UUID what its lvols are named by.
	Snapshot string    `json:"snapshot"`
	UUID     uuid.UUID `json:"uuid"`
	// Replicas are the lvols to make, one of each replica that was in-sync when it was planned.
	Replicas []SnapshotReplica `json:"replicas"`
	// SizeBytes is what the volume and all these replicas have: none is planned of a volume that is being grown, and growing voids it.
	SizeBytes int64     `json:"sizeBytes"`
	State     WishState `json:"state"`
	// Assembly is the number of the assembly whose target is paused.
	Assembly uint32 `json:"assembly,omitempty"`
	// Taken are the IDs of the lvols that hold what the volume held at TakenAt.
	Taken   []string  `json:"taken,omitempty"`
	TakenAt time.Time `json:"takenAt,omitzero"`
	// FileSystem is what was on the volume then.
	FileSystem FileSystem `json:"fileSystem,omitzero"`
	Reason     string     `json:"reason,omitempty"`
}

// Ended says whether the attempt has come to its end.
func (w *SnapshotWish) Ended() bool { return w.State == WishTaken || w.State == WishFailed }

// Same says whether both are the same attempt.
func (w *SnapshotWish) Same(o *SnapshotWish) bool {
	return w != nil && o != nil && w.Snapshot == o.Snapshot && w.UUID == o.UUID &&
		slices.EqualFunc(w.Replicas, o.Replicas, func(a, b SnapshotReplica) bool { return a.ID == b.ID })
}

// Fail ends the attempt without a snapshot.
func (w *SnapshotWish) Fail(reason string) {
	w.State, w.Reason, w.Taken = WishFailed, reason, nil
}

// Take ends the attempt with a snapshot of those replicas that are still in-sync on record and whose lvols did not fail; with none of
// them it has failed.
func (w *SnapshotWish) Take(v *Volume, failed map[string]error, now time.Time) {
	var reasons []error
	for _, l := range w.Replicas {
		r, err := v.Replica(l.Replica), failed[l.ID]
		switch {
		case err != nil:
			reasons = append(reasons, err)
		case r == nil || r.State != ReplicaInSync:
			reasons = append(reasons, fmt.Errorf("replica %s on %s is in-sync no longer", l.Replica, l.Node))
		default:
			w.Taken = append(w.Taken, l.ID)
		}
	}
	if err := errors.Join(reasons...); err != nil {
		w.Reason = err.Error()
	}
	if len(w.Taken) == 0 {
		w.Fail(w.Reason)
		return
	}
	w.State, w.TakenAt, w.FileSystem = WishTaken, now, v.FileSystem
}

// Collect makes the snapshot what the wish has brought about.
func (s *Snapshot) Collect(w *SnapshotWish) {
	s.Phase, s.TakenAt, s.FileSystem, s.SizeBytes = SnapshotReady, w.TakenAt, w.FileSystem, w.SizeBytes
	for i, l := range s.Replicas {
		if l.State == SnapshotPlanned && slices.Contains(w.Taken, l.ID) {
			s.Replicas[i].State = SnapshotTaken
		}
	}
	s.GiveUpAttempt()
}

func (w *SnapshotWish) clone() *SnapshotWish {
	c := *w
	c.Replicas, c.Taken = slices.Clone(w.Replicas), slices.Clone(w.Taken)
	return &c
}

// OwnerWanted says whether the volume's node service has something to do for a snapshot.
func (v *Volume) OwnerWanted() bool {
	return v.Owner != "" && v.Snapshot != nil && !v.Snapshot.Ended()
}

// VoidSnapshot ends an attempt to take a snapshot that goes on no longer, because the volume changes hands or runs elsewhere.
func (v *Volume) VoidSnapshot(reason string) {
	if v.Snapshot != nil && !v.Snapshot.Ended() {
		v.Snapshot.Fail(reason)
	}
}

// Content is what a volume was made of.
type Content struct {
	// Snapshot is the ID of the snapshot on whose lvols its first replicas lie. It need not exist any more.
	Snapshot string `json:"snapshot"`
	// Volume is the ID of the volume of which it is a clone; "" if it was made of a snapshot.
	Volume string `json:"volume,omitempty"`
}
