package volume

import (
	"errors"
	"slices"
	"testing"
)

// shared is a volume that runs as assembly 3 with standby 4, owned by a, with b a guest that follows.
func shared() *Volume {
	return &Volume{
		Owner: "a", Assemblies: 4, Assembly: &Assembly{Number: 3, RaidHost: "n1", Running: true},
		Standby: &Assembly{Number: 4, RaidHost: "n2", Running: true, Held: true},
		Publications: []Publication{
			{Node: "a", Mode: AccessMultiNodeMultiWriter, Block: true, Staged: true},
			{Node: "b", Mode: AccessMultiNodeMultiWriter, Block: true, Staged: true, Path: 3, Standby: 4, Left: 2},
		},
	}
}

func TestPublicationsThatFitEachOther(t *testing.T) {
	block := func(node string, mode AccessMode, readOnly bool) Publication {
		return Publication{Node: node, Mode: mode, ReadOnly: readOnly, Block: true}
	}
	for name, c := range map[string]struct {
		has, wants Publication
		err        error
	}{
		"the same again":               {block("a", AccessSingleNodeWriter, false), block("a", AccessSingleNodeWriter, false), nil},
		"otherwise on the same node":   {block("a", AccessSingleNodeWriter, false), block("a", AccessSingleNodeWriter, true), ErrIncompatible},
		"one node, another":            {block("a", AccessSingleNodeWriter, false), block("b", AccessSingleNodeWriter, false), ErrInUse},
		"one node, then several":       {block("a", AccessSingleNodeWriter, false), block("b", AccessMultiNodeMultiWriter, false), ErrInUse},
		"several, then one node":       {block("a", AccessMultiNodeMultiWriter, false), block("b", AccessSingleNodeWriter, false), ErrInUse},
		"two writers":                  {block("a", AccessMultiNodeMultiWriter, false), block("b", AccessMultiNodeMultiWriter, false), nil},
		"two of a single writer":       {block("a", AccessMultiNodeSingleWriter, false), block("b", AccessMultiNodeSingleWriter, false), ErrInUse},
		"a single writer and a reader": {block("a", AccessMultiNodeSingleWriter, false), block("b", AccessMultiNodeSingleWriter, true), nil},
		"readers":                      {block("a", AccessMultiNodeReaderOnly, false), block("b", AccessMultiNodeReaderOnly, false), nil},
		"readers of a file system": {
			Publication{Node: "a", Mode: AccessMultiNodeReaderOnly}, Publication{Node: "b", Mode: AccessMultiNodeReaderOnly}, nil,
		},
		"block beside a file system": {Publication{Node: "a", Mode: AccessMultiNodeReaderOnly}, block("b", AccessMultiNodeReaderOnly, false), ErrInUse},
	} {
		v := &Volume{Publications: []Publication{c.has}}
		if err := v.Admits(c.wants); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", name, err, c.err)
		}
	}
}

func TestWhatIsWantedOfWhom(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Volume)
		want   []string
	}{
		"nothing":                          {func(*Volume) {}, nil},
		"a guest that was just staged":     {func(v *Volume) { v.Publications[1] = Publication{Node: "b", Staged: true} }, []string{"b"}},
		"the raid host is to be left":      {func(v *Volume) { v.Assembly.Leaving = true }, []string{"b"}},
		"another standby":                  {func(v *Volume) { v.Standby.Number = 5 }, []string{"b"}},
		"a standby that isn't ready":       {func(v *Volume) { v.Standby = &Assembly{Number: 5} }, []string{"b"}},
		"it runs elsewhere":                {func(v *Volume) { v.Assembly, v.Standby = v.Standby, nil }, []string{"b"}},
		"one that isn't staged":            {func(v *Volume) { v.Publications[1] = Publication{Node: "b"} }, nil},
		"a snapshot":                       {func(v *Volume) { v.Snapshot = &SnapshotWish{State: WishWanted} }, []string{"a"}},
		"the hosts have changed":           {func(v *Volume) { v.Unpublish("b") }, []string{"a"}},
		"the owner lets go":                {func(v *Volume) { v.Unstage("a") }, []string{"b"}},
		"the owner is detached":            {func(v *Volume) { v.Unpublish("a") }, []string{"b"}},
		"all are detached":                 {func(v *Volume) { v.Unpublish("") }, nil},
		"a guest that has left everything": {func(v *Volume) { v.Assembly.Leaving = true; v.Publications[1].Arrive(v) }, nil},
	} {
		v := shared()
		c.change(v)
		if got := v.Wanted(); !slices.Equal(got, c.want) {
			t.Errorf("%s: of %v, want %v", name, got, c.want)
		}
	}
}

func TestGuestThatLeavesAndComesBack(t *testing.T) {
	v := shared()
	guest := &v.Publications[1]
	v.Assembly.Leaving = true
	if len(v.Behind(3)) != 1 || v.MayReturn(*guest) || v.OnStandby() == nil {
		t.Fatalf("before it has left: %+v", guest)
	}
	guest.Arrive(v)
	if len(v.Behind(3)) != 0 || guest.Path != 0 || guest.Standby != 4 {
		t.Fatalf("when it has left: %+v", guest)
	}
	v.Assembly.Leaving = false
	if !v.MayReturn(*guest) || v.OnStandby() == nil {
		t.Fatalf("before it comes back: %+v", guest)
	}
	v.Return(guest)
	if len(v.Behind(3)) != 1 {
		t.Fatalf("on its way back it counts as gone: %+v", guest)
	}
	guest.Arrive(v)
	if guest.Path != 3 || guest.Standby != 4 || guest.Left != 2 || v.OnStandby() != nil {
		t.Fatalf("when it is back: %+v", guest)
	}
}

func TestOwnershipPassesOn(t *testing.T) {
	v := shared()
	v.Publications = append(v.Publications, Publication{Node: "c", Mode: AccessMultiNodeMultiWriter, Block: true})
	v.Unpublish("a")
	if p := v.Publication("b"); v.Owner != "b" || !p.Inherits || !v.Review {
		t.Fatalf("one that has it staged is the next: %+v", v)
	}
	v.Unstage("b")
	if v.Owner != "" {
		t.Fatalf("the last that had it staged has let go: %+v", v)
	}
	v = shared()
	v.Publications[1].Staged = false
	v.Unpublish("a")
	if v.Owner != "b" {
		t.Fatalf("the owner was staged, and may be at work still: %+v", v)
	}
	v.Unpublish("b")
	if !v.Assembly.Stopping {
		t.Fatalf("nobody is left: %+v", v)
	}
}

func TestTargetsAloneFollowThePublications(t *testing.T) {
	v := shared()
	target := &TargetView{Complete: true, Hosts: []string{HostNQN("a"), HostNQN("lost")}}
	raid := &RaidView{Online: true}
	steps := PlanTargets(v, Observed{Nodes: map[string]NodeView{"n1": {Raid: raid, Target: target}, "n2": {Raid: raid}}})
	if want := []Action{{Kind: ReviewTarget, Node: "n1"}}; !slices.Equal(steps.Now, want) || len(steps.Blocked) > 0 {
		t.Errorf("got %+v, want %v", steps, want)
	}
}

// What the owner does by an older record doesn't shut out a node that was let in since.
func TestHostThatTheRecordDoesNotKnowStaysWhileThereIsAnOwner(t *testing.T) {
	for owner, want := range map[string]bool{"a": true, "": false} {
		v := shared()
		v.Owner, v.Standby, v.Replicas = owner, nil, []Replica{{ID: "r", Node: "n1", State: ReplicaInSync}}
		target := &TargetView{Complete: true, Hosts: append(v.HostNQNs(), HostNQN("c"))}
		seen := Observed{Nodes: map[string]NodeView{"n1": {Raid: &RaidView{Online: true, Legs: []string{"r"}}, Target: target}}}
		export := Action{Kind: ExportTarget, Node: "n1"}
		if steps := Plan(v, seen); slices.Contains(steps.Now, export) == want {
			t.Errorf("owned by %q: got %+v", owner, steps)
		}
		target.Hosts = target.Hosts[1:]
		if steps := Plan(v, seen); !slices.Contains(steps.Now, export) {
			t.Errorf("owned by %q, and one on record is missing: got %+v", owner, steps)
		}
	}
}

// A raid that loses its last leg takes the namespace away from under a guest that has no other path.
func TestStandbyKeepsItsLegsForAGuestThatHasNothingElse(t *testing.T) {
	v := shared()
	v.Replicas = []Replica{{ID: "r", Node: "n3", State: ReplicaOutOfSync}}
	seen := Observed{Nodes: map[string]NodeView{
		"n2": {Raid: &RaidView{Online: true, Legs: []string{"r"}}, Legs: map[string]LegView{"r": {Bdev: "x"}}, Target: &TargetView{Complete: true, Held: true, Hosts: v.HostNQNs()}},
		"n3": {},
	}}
	eject := Action{Kind: EjectLeg, Node: "n2", Replica: "r"}
	if steps := PlanStandby(v, seen); !slices.Contains(steps.Now, eject) {
		t.Errorf("its guest has another path: %+v", steps)
	}
	v.Assembly.Leaving = true
	if steps := PlanStandby(v, seen); slices.Contains(steps.Now, eject) {
		t.Errorf("its guest has none: %+v", steps)
	}
}

// A switch that goes to another assembly because its own turns out not to be reached attaches the legs there, while hosts may still be served
// by the raid host that is left.
func TestRaidHostThatServedLastKeepsItsLegsUntilItIsFenced(t *testing.T) {
	v := shared()
	legs := []string{"r"}
	v.Replicas = []Replica{{ID: "r", Node: "n3", State: ReplicaInSync}}
	v.Assembly.Legs, v.Standby.Legs = legs, legs
	v.Retired = []Assembly{{Number: 1, RaidHost: "n4", Legs: legs}, {Number: 2, RaidHost: "n5", Legs: legs, Held: true}}
	for held, want := range map[bool][]string{true: {"n1", "n2", "n4"}, false: {"n1", "n2"}} {
		v.Assembly.Held = held
		got := v.LegHosts("r")
		if !slices.EqualFunc(got, want, func(nqn, node string) bool { return nqn == SPDKHostNQN(node) }) {
			t.Errorf("while the switch is under way: %t, it is exported to %v, want %v", held, got, want)
		}
	}
}
