package volume

import (
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// SnapshotGroup says of a snapshot that it is one of several, of different volumes, that are taken at one moment or not at all.
//
// The record of one of them, the lead, is the group's: the compare-and-swap that makes it SnapshotReady makes the whole group so, and the one
// that makes it SnapshotDeleting deletes the whole group. The other members follow it. The lead is on record before any other member, and
// goes after all others are in SnapshotDeleting.
type SnapshotGroup struct {
	// ID is the CSI group snapshot ID, by GroupIDFor.
	ID string `json:"id"`
	// Volumes are the IDs of all source volumes, sorted. The lead is the snapshot of the first.
	Volumes []string `json:"volumes"`
	// Attempt names the attempt of which the planned and taken lvols are; "" says that there is none.
	Attempt string `json:"attempt,omitempty"`
}

// Members are the IDs of the group's snapshots in the order of Volumes, the lead first.
func (g *SnapshotGroup) Members() []string {
	ids := []string{GroupLead(g.ID)}
	for _, v := range g.Volumes[1:] {
		ids = append(ids, snapshotPrefix+digest(g.ID+"\x00"+v))
	}
	return ids
}

func (g *SnapshotGroup) clone() *SnapshotGroup {
	c := *g
	c.Volumes = slices.Clone(g.Volumes)
	return &c
}

// Leads says whether a snapshot's record is that of its group.
func (s *Snapshot) Leads() bool { return s.Group != nil && s.ID == GroupLead(s.Group.ID) }

// TakenIn says whether the snapshot is taken in an attempt of its group.
func (s *Snapshot) TakenIn(attempt string) bool {
	return s.Group != nil && attempt != "" && s.Group.Attempt == attempt && !s.TakenAt.IsZero()
}

// GiveUpGroupAttempt gives up what an attempt to take the group has or may have left, also if it was taken.
func (s *Snapshot) GiveUpGroupAttempt() {
	s.GiveUpAttempt()
	for i := range s.Replicas {
		s.Replicas[i].State = SnapshotRemoving
	}
	s.Group.Attempt, s.TakenAt = "", time.Time{}
}

// groupPrefix starts the ID of a group.
const groupPrefix = "hfg-"

// GroupIDFor returns the CSI group snapshot ID for a CreateVolumeGroupSnapshot name: "hfg-" and 32 hexadecimal digits, always the same.
func GroupIDFor(name string) string { return groupPrefix + digest("group\x00"+name) }

// ValidGroupID says whether s has the form of a group snapshot ID.
func ValidGroupID(s string) bool {
	rest, ok := strings.CutPrefix(s, groupPrefix)
	return ok && ValidID(ObjectPrefix+rest)
}

// GroupLead is the ID of the snapshot whose record is the group's.
func GroupLead(group string) string { return snapshotPrefix + strings.TrimPrefix(group, groupPrefix) }

// NewGroupAttempt returns a name for an attempt to take a group: 32 hexadecimal digits, random.
func NewGroupAttempt() string { return compact(uuid.New()) }

// GroupWish makes a wish one of several, on different volumes, that are to be carried out at one moment.
//
// That there is such a moment follows from two rules. A member says paused only when its pause has begun and is drained, and ends it only
// after it has read that each other member was paused; so any two pauses overlap, and with them all (intervals of which any two overlap
// have a point in common). A volume that nobody owns is paused as long as that is so: the controller takes it after it has read that all
// others were paused, and others take it for paused when they have read its wish.
type GroupWish struct {
	// ID is the group's, Attempt which attempt this is: what is said in another says nothing of this.
	ID      string `json:"id"`
	Attempt string `json:"attempt"`
	// Volumes are the IDs of all volumes of the group.
	Volumes []string `json:"volumes"`
	// Ready: the owner waits for the others before it begins the pause, so that the pauses begin together. Nothing but their length
	// depends on it.
	Ready bool `json:"ready,omitempty"`
	// Paused: the pause has begun and is drained.
	Paused bool `json:"paused,omitempty"`
}

func (g *GroupWish) clone() *GroupWish {
	c := *g
	c.Volumes = slices.Clone(g.Volumes)
	return &c
}

// MemberState is how far a volume is in an attempt to take a group.
type MemberState string

// Member states.
const (
	// MemberAbsent: the attempt is not on its record, not yet or no more.
	MemberAbsent MemberState = "not asked"
	// MemberWanted: its owner has not found the wish.
	MemberWanted MemberState = "wanted"
	// MemberReady: its owner waits for the others.
	MemberReady MemberState = "ready"
	// MemberPaused: it has been seen paused in this attempt.
	MemberPaused MemberState = "paused"
	// MemberFailed: it will not be taken in this attempt, and so no other may.
	MemberFailed MemberState = "failed"
)

// Member says how far a volume is in an attempt to take a group.
func (v *Volume) Member(attempt string) MemberState {
	w := v.Snapshot
	switch {
	case w == nil || w.Group == nil || w.Group.Attempt != attempt:
		return MemberAbsent
	case w.State == WishFailed:
		return MemberFailed
	case w.Group.Paused, w.State == WishTaken, w.State == WishWanted && v.Owner == "":
		return MemberPaused
	case w.Group.Ready:
		return MemberReady
	}
	return MemberWanted
}
