package volume

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// SnapshotPhase is where a snapshot is in its life.
type SnapshotPhase string

// Snapshot phases. A record exists in SnapshotTaking before the first lvol of the snapshot, and in SnapshotDeleting until the last is known
// to be gone, which may be long: an lvol on which several clones lie can't be deleted.
// One of a group stays in SnapshotTaking, with TakenAt set, until all others are taken, too.
const (
	SnapshotTaking   SnapshotPhase = "taking"
	SnapshotReady    SnapshotPhase = "ready"
	SnapshotDeleting SnapshotPhase = "deleting"
)

// SnapshotReplicaState says what is known of one lvol of a snapshot.
type SnapshotReplicaState string

// States of an lvol of a snapshot.
//
//	planned ──taken in the pause, and its leg was good──▶ taken
//	   any ──not so, or the snapshot is deleted──▶ removing ──known to be gone──▶ (off the record)
const (
	// SnapshotPlanned: it may or may not exist; it is worth nothing.
	SnapshotPlanned SnapshotReplicaState = "planned"
	// SnapshotTaken: what the volume held at the snapshot's moment, the same bytes as all others that are taken.
	SnapshotTaken SnapshotReplicaState = "taken"
	// SnapshotRemoving: to be deleted; off the record when it is known to be gone.
	SnapshotRemoving SnapshotReplicaState = "removing"
)

// SnapshotReplica is one lvol of a snapshot: the snapshot of one replica of the volume.
type SnapshotReplica struct {
	// ID is unique within the snapshot for all time, 8 hexadecimal digits, random: each attempt to take it has IDs of its own, so that an
	// lvol of an attempt that failed is never taken for one of another.
	ID string `json:"id"`
	// Replica is the ID of the volume's replica.
	Replica string               `json:"replica"`
	Node    string               `json:"node"`
	LvStore string               `json:"lvstore"`
	State   SnapshotReplicaState `json:"state"`
	// Unsure: SPDK may still be about to make it, as on a disk that hangs, so that it is not known to be gone by its absence.
	Unsure bool `json:"unsure,omitempty"`
	// Bytes is what it holds of its lvstore. It grows when an older snapshot on which it lies is deleted.
	Bytes int64 `json:"bytes"`
}

// Snapshot is the record of a snapshot of a volume. It outlives the volume. The controller alone writes it, with compare-and-swap on
// Revision.
type Snapshot struct {
	ID string `json:"id"`
	// Name is the CSI name; "" of one that only a clone needs.
	Name string `json:"name,omitempty"`
	// UUID names this incarnation, and with it its lvols.
	UUID uuid.UUID `json:"uuid"`
	// Source is the ID of the volume, Encryption what its host does to what it writes.
	Source     string        `json:"source"`
	Encryption Encryption    `json:"encryption,omitempty"`
	SizeBytes  int64         `json:"sizeBytes"`
	Phase      SnapshotPhase `json:"phase"`
	// For is the ID of the volume that is being cloned from the source by this snapshot; "" is a user's snapshot.
	For string `json:"for,omitempty"`
	// Group is the group that it is part of; nil is none.
	Group    *SnapshotGroup    `json:"group,omitempty"`
	Replicas []SnapshotReplica `json:"replicas"`
	// FileSystem is what was on the volume at the snapshot's moment.
	FileSystem FileSystem `json:"fileSystem,omitzero"`
	// TakenAt is the snapshot's moment; zero while it is not taken.
	TakenAt   time.Time `json:"takenAt,omitzero"`
	CreatedAt time.Time `json:"createdAt"`
	// Revision is the store's: it changes with each write.
	Revision uint64 `json:"-"`
}

// InState returns the lvols in a state.
func (s *Snapshot) InState(state SnapshotReplicaState) []SnapshotReplica {
	var found []SnapshotReplica
	for _, r := range s.Replicas {
		if r.State == state {
			found = append(found, r)
		}
	}
	return found
}

// Usable says whether volumes can be made of the snapshot.
func (s *Snapshot) Usable() bool {
	return s.Phase == SnapshotReady && len(s.InState(SnapshotTaken)) > 0
}

// GiveUpAttempt gives up what an attempt to take the snapshot may have left.
func (s *Snapshot) GiveUpAttempt() {
	for i := range s.Replicas {
		if s.Replicas[i].State == SnapshotPlanned {
			s.Replicas[i].State, s.Replicas[i].Unsure = SnapshotRemoving, true
		}
	}
}

// Delete has the snapshot and all its lvols go.
func (s *Snapshot) Delete() {
	s.Phase = SnapshotDeleting
	s.GiveUpAttempt()
	for i := range s.Replicas {
		s.Replicas[i].State = SnapshotRemoving
	}
}

// Remove takes lvols that are known to be gone off the record.
func (s *Snapshot) Remove(gone ...string) {
	s.Replicas = slices.DeleteFunc(s.Replicas, func(r SnapshotReplica) bool { return slices.Contains(gone, r.ID) })
}

// Clone returns a deep copy.
func (s *Snapshot) Clone() *Snapshot {
	c := *s
	c.Replicas = slices.Clone(s.Replicas)
	if s.Group != nil {
		c.Group = s.Group.clone()
	}
	return &c
}

// snapshotPrefix starts the ID of a snapshot.
const snapshotPrefix = "hfs-"

// SnapshotIDFor returns the CSI snapshot ID for a CreateSnapshot name: "hfs-" and 32 hexadecimal digits, always the same.
func SnapshotIDFor(name string) string {
	return snapshotPrefix + digest(name)
}

// NewSnapshotID returns the ID of a snapshot without a name.
func NewSnapshotID() string { return snapshotPrefix + compact(uuid.New()) }

// ValidSnapshotID says whether s has the form of a snapshot ID.
func ValidSnapshotID(s string) bool {
	rest, ok := strings.CutPrefix(s, snapshotPrefix)
	return ok && ValidID(ObjectPrefix+rest)
}

// SnapshotLvolName is the name of an lvol of a snapshot inside its lvstore.
func SnapshotLvolName(snapshot uuid.UUID, replica string) string {
	return ObjectPrefix + compact(snapshot) + "-" + replica
}

// LvolName is the name of one of the snapshot's lvols inside its lvstore.
func (s *Snapshot) LvolName(r SnapshotReplica) string { return SnapshotLvolName(s.UUID, r.ID) }

// Sentinels of snapshots, beside those of volumes.
var (
	// ErrNoSnapshot: no snapshot with that ID is on record.
	ErrNoSnapshot = errors.New("no such snapshot")
	// ErrSnapshotDiffers: the snapshot exists with properties that the request does not fit.
	ErrSnapshotDiffers = errors.New("the snapshot exists with other properties")
)
