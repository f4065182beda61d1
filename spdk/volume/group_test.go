package volume

import (
	"testing"
	"time"
)

func TestMemberIsPausedOnlyInItsAttempt(t *testing.T) {
	for what, c := range map[string]struct {
		owner string
		wish  *SnapshotWish
		want  MemberState
	}{
		"no wish":                       {"n", nil, MemberAbsent},
		"a wish of its own":             {"n", &SnapshotWish{State: WishTaken}, MemberAbsent},
		"another attempt, paused":       {"n", &SnapshotWish{State: WishPausing, Group: &GroupWish{Attempt: "1", Paused: true}}, MemberAbsent},
		"another attempt, nobody's":     {"", &SnapshotWish{State: WishWanted, Group: &GroupWish{Attempt: "1"}}, MemberAbsent},
		"wanted":                        {"n", &SnapshotWish{State: WishWanted, Group: &GroupWish{Attempt: "2"}}, MemberWanted},
		"wanted, nobody's":              {"", &SnapshotWish{State: WishWanted, Group: &GroupWish{Attempt: "2"}}, MemberPaused},
		"ready":                         {"n", &SnapshotWish{State: WishWanted, Group: &GroupWish{Attempt: "2", Ready: true}}, MemberReady},
		"about to pause":                {"n", &SnapshotWish{State: WishPausing, Group: &GroupWish{Attempt: "2", Ready: true}}, MemberReady},
		"left in its pause, not marked": {"", &SnapshotWish{State: WishPausing, Group: &GroupWish{Attempt: "2", Ready: true}}, MemberReady},
		"paused":                        {"n", &SnapshotWish{State: WishPausing, Group: &GroupWish{Attempt: "2", Ready: true, Paused: true}}, MemberPaused},
		"taken":                         {"n", &SnapshotWish{State: WishTaken, Group: &GroupWish{Attempt: "2"}}, MemberPaused},
		"failed after its pause":        {"n", &SnapshotWish{State: WishFailed, Group: &GroupWish{Attempt: "2", Paused: true}}, MemberFailed},
	} {
		v := &Volume{Owner: c.owner, Snapshot: c.wish}
		if got := v.Member("2"); got != c.want {
			t.Errorf("%s: %s, want %s", what, got, c.want)
		}
	}
}

func TestGroupNamesItsMembersAlike(t *testing.T) {
	id := GroupIDFor("g")
	g := &SnapshotGroup{ID: id, Volumes: []string{IDFor("a"), IDFor("b")}}
	members := g.Members()
	if !ValidGroupID(id) || ValidSnapshotID(id) || members[0] != GroupLead(id) || members[0] == members[1] {
		t.Errorf("group %s has %v", id, members)
	}
	for _, m := range members {
		if !ValidSnapshotID(m) || ValidGroupID(m) {
			t.Errorf("%q is no ID of a snapshot", m)
		}
	}
	if GroupLead(id) == SnapshotIDFor("g") {
		t.Error("a snapshot of the group's name would be its lead")
	}
}

func TestGroupAttemptThatIsGivenUpLeavesNothingTaken(t *testing.T) {
	s := &Snapshot{
		Group: &SnapshotGroup{Attempt: "1"}, TakenAt: time.Unix(1, 0), Phase: SnapshotTaking,
		Replicas: []SnapshotReplica{{ID: "a", State: SnapshotTaken}, {ID: "b", State: SnapshotPlanned}, {ID: "c", State: SnapshotRemoving}},
	}
	if !s.TakenIn("1") || s.TakenIn("2") || s.TakenIn("") {
		t.Error("it is taken in another attempt than its own")
	}
	s.GiveUpGroupAttempt()
	if s.TakenIn("1") || s.TakenIn("") || len(s.InState(SnapshotRemoving)) != 3 || s.Replicas[0].Unsure || !s.Replicas[1].Unsure {
		t.Errorf("left is %+v", s)
	}
}
