package volume

import (
	"maps"
	"slices"
	"testing"
	"time"
)

// looks are what a watcher sees of two legs, one look a second, and what it makes of it.
type looks struct {
	v      *Volume
	memory map[string]Steady
	now    time.Time
}

const testSettle = 10 * time.Second

func newLooks(states ...ReplicaState) *looks {
	nodes := []string{"a", "b", "c"}[:len(states)]
	v := record(nodes...)
	made(v)
	for i, s := range states {
		v.Replicas[i].State = s
	}
	v.Assembly = &Assembly{Number: 1, RaidHost: "a", Legs: ids(v), Running: true}
	return &looks{v: v, memory: map[string]Steady{}, now: time.Unix(1000, 0)}
}

// see takes n looks at legs in the order of the replicas and returns the states that they have then.
func (l *looks) see(n int, legs ...LegHealth) []ReplicaState {
	seen := map[string]LegHealth{}
	for i, leg := range legs {
		seen[l.v.Replicas[i].ID] = leg
	}
	for range n {
		for id, state := range Judge(l.v, seen, l.memory, testSettle, l.now) {
			l.v.SetReplicaState(id, state, l.now)
		}
		l.now = l.now.Add(time.Second)
	}
	var states []ReplicaState
	for _, r := range l.v.Replicas {
		states = append(states, r.State)
	}
	return states
}

func (l *looks) want(t *testing.T, got []ReplicaState, want ...ReplicaState) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("after %s: got %v, want %v", l.now.Sub(time.Unix(1000, 0)), got, want)
	}
}

var (
	goodLeg  = LegHealth{Listed: true, Member: true, Connected: true, CNTLID: 1}
	awayLeg  = LegHealth{Listed: true, Member: true}
	underWay = LegHealth{Listed: true, Connected: true, CNTLID: 1}
	noLeg    = LegHealth{Connected: true, CNTLID: 1}
)

func TestOnlyLegOfARaidStaysWhatItIs(t *testing.T) {
	l := newLooks(ReplicaInSync, ReplicaInSync)
	l.want(t, l.see(2, goodLeg, noLeg), ReplicaInSync, ReplicaOutOfSync)
	l.want(t, l.see(20, awayLeg, noLeg), ReplicaInSync, ReplicaOutOfSync)
	l.want(t, l.see(1, goodLeg, noLeg), ReplicaInSync, ReplicaOutOfSync)
}

// Two looks have to show it: at the first it may just have lost the other leg, with writes under way.
func TestLegThatHasJustBecomeTheOnlyOneIsJudgedOnceMore(t *testing.T) {
	l := newLooks(ReplicaInSync, ReplicaInSync)
	l.see(1, goodLeg, goodLeg)
	l.want(t, l.see(1, awayLeg, noLeg), ReplicaSuspect, ReplicaOutOfSync)
}

// Else the volume would be without a good replica for ever because of a moment's doubt.
func TestOnlyLegThatIsSuspectIsGoodAgainWhenItHasSettled(t *testing.T) {
	l := newLooks(ReplicaInSync, ReplicaInSync)
	l.want(t, l.see(1, awayLeg, noLeg), ReplicaSuspect, ReplicaOutOfSync)
	l.want(t, l.see(10, goodLeg, noLeg), ReplicaSuspect, ReplicaOutOfSync)
	l.want(t, l.see(1, goodLeg, noLeg), ReplicaInSync, ReplicaOutOfSync)
}

func TestOneReplicaIsGoodWhateverIsSeen(t *testing.T) {
	for _, leg := range []LegHealth{awayLeg, noLeg, {}} {
		l := newLooks(ReplicaInSync)
		l.want(t, l.see(3, leg), ReplicaInSync)
	}
}

func TestRebuiltReplicaCountsWhenItHasBeenAMemberForLong(t *testing.T) {
	l := newLooks(ReplicaInSync, ReplicaRebuilding)
	l.want(t, l.see(3, goodLeg, underWay), ReplicaInSync, ReplicaRebuilding)
	l.want(t, l.see(10, goodLeg, goodLeg), ReplicaInSync, ReplicaRebuilding)
	l.want(t, l.see(1, goodLeg, goodLeg), ReplicaInSync, ReplicaInSync)
	if l.v.Replicas[1].SyncedAt.IsZero() {
		t.Error("when it was rebuilt is not on record")
	}
}

func TestControllerThatWasResetBeginsTheWaitAnew(t *testing.T) {
	l := newLooks(ReplicaInSync, ReplicaRebuilding)
	l.see(8, goodLeg, goodLeg)
	reset := goodLeg
	reset.CNTLID = 2
	l.want(t, l.see(10, goodLeg, reset), ReplicaInSync, ReplicaRebuilding)
	l.want(t, l.see(1, goodLeg, reset), ReplicaInSync, ReplicaInSync)
}

func TestRebuildThatLosesItsSlotHasFailed(t *testing.T) {
	l := newLooks(ReplicaInSync, ReplicaRebuilding)
	l.want(t, l.see(3, goodLeg, noLeg), ReplicaInSync, ReplicaRebuilding) // not added yet
	l.see(2, goodLeg, underWay)
	l.want(t, l.see(1, goodLeg, noLeg), ReplicaInSync, ReplicaOutOfSync)
}

func TestLegThatIsBeingRebuiltIsNeverSuspect(t *testing.T) {
	l := newLooks(ReplicaInSync, ReplicaRebuilding)
	l.see(2, goodLeg, underWay)
	l.want(t, l.see(5, goodLeg, LegHealth{Listed: true}), ReplicaInSync, ReplicaRebuilding)
}

func TestStandbyHasNoLegThatIsNoSource(t *testing.T) {
	for _, state := range []ReplicaState{ReplicaOutOfSync, ReplicaRebuilding, ReplicaRemoving, ReplicaSuspect, ReplicaInSync} {
		v := record("a", "b")
		made(v)
		v.Standby = &Assembly{Legs: ids(v)}
		v.SetReplicaState(v.Replicas[1].ID, state, time.Unix(1, 0))
		if kept := slices.Contains(v.Standby.Legs, v.Replicas[1].ID); kept != (state == ReplicaSuspect || state == ReplicaInSync) {
			t.Errorf("%s: it is a leg of the standby: %t", state, kept)
		}
	}
}

func TestEachLossSoonAfterARebuildCostsMore(t *testing.T) {
	v := record("a", "b")
	made(v)
	id, now := v.Replicas[1].ID, time.Unix(1000, 0)
	var delays []time.Duration
	for range 12 {
		v.SetReplicaState(id, ReplicaOutOfSync, now)
		delays = append(delays, v.Replica(id).RebuildDelay())
		v.SetReplicaState(id, ReplicaRebuilding, now)
		now = now.Add(time.Minute)
		v.SetReplicaState(id, ReplicaInSync, now)
		now = now.Add(time.Minute)
	}
	s := time.Second
	want := []time.Duration{0, 0, 0, 0, 5 * s, 10 * s, 20 * s, 40 * s, 80 * s, 160 * s, 300 * s, 300 * s}
	if !slices.Equal(delays, want) {
		t.Errorf("got %v, want %v", delays, want)
	}
	v.SetReplicaState(id, ReplicaOutOfSync, now.Add(time.Hour))
	if r := v.Replica(id); r.Strikes != 0 || r.RebuildDelay() != 0 {
		t.Errorf("after an hour of health it has %d strikes", r.Strikes)
	}
}

func TestRebuildThatFailsIsAStrike(t *testing.T) {
	v := record("a", "b")
	made(v)
	id, now := v.Replicas[1].ID, time.Unix(1000, 0)
	for strikes := range 5 {
		v.SetReplicaState(id, ReplicaOutOfSync, now)
		if got := v.Replica(id).Strikes; got != strikes {
			t.Errorf("got %d strikes, want %d", got, strikes)
		}
		v.SetReplicaState(id, ReplicaRebuilding, now)
	}
}

func TestSurplusAreThoseThatAreNoSourceWhenEnoughAre(t *testing.T) {
	for name, c := range map[string]struct {
		states []ReplicaState
		want   int
	}{
		"enough":            {[]ReplicaState{ReplicaInSync, ReplicaInSync, ReplicaOutOfSync}, 1},
		"too few":           {[]ReplicaState{ReplicaInSync, ReplicaSuspect, ReplicaOutOfSync}, 0},
		"one is rebuilt":    {[]ReplicaState{ReplicaInSync, ReplicaRebuilding, ReplicaOutOfSync}, 0},
		"what is rebuilt":   {[]ReplicaState{ReplicaInSync, ReplicaInSync, ReplicaRebuilding}, 0},
		"what was given up": {[]ReplicaState{ReplicaInSync, ReplicaInSync, ReplicaRemoving}, 0},
	} {
		v := newLooks(c.states...).v
		v.Parameters.Replicas = 2
		if got := v.Surplus(Observed{}, noZone); len(got) != c.want || c.want > 0 && got[0] != v.Replicas[2].ID {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// rebuildable is a volume with a replica that waits to be rebuilt on b, and what is seen of it.
func rebuildable() (*Volume, Observed) {
	v := newLooks(ReplicaInSync, ReplicaOutOfSync, ReplicaInSync).v
	raid := &RaidView{Online: true, Slots: 4, Legs: []string{v.Replicas[0].ID, v.Replicas[2].ID}}
	seen := Observed{Nodes: map[string]NodeView{}}
	for i, n := range []string{"a", "b", "c"} {
		seen.Nodes[n] = NodeView{Replicas: map[string]ReplicaView{v.Replicas[i].ID: {SizeBytes: v.SizeBytes}}, Legs: map[string]LegView{}}
	}
	host := seen.Nodes["a"]
	host.Raid = raid
	seen.Nodes["a"] = host
	return v, seen
}

func TestNextRebuildWaitsForWhatItNeeds(t *testing.T) {
	change := func(seen Observed, node string, f func(*NodeView)) {
		view := seen.Nodes[node]
		view.Legs, view.Replicas = maps.Clone(view.Legs), maps.Clone(view.Replicas)
		f(&view)
		seen.Nodes[node] = view
	}
	for name, c := range map[string]struct {
		change func(v *Volume, seen Observed)
		want   bool
	}{
		"all is there":        {func(*Volume, Observed) {}, true},
		"its node is down":    {func(_ *Volume, s Observed) { s.Nodes["b"] = NodeView{Err: errDown} }, false},
		"its node is unknown": {func(_ *Volume, s Observed) { delete(s.Nodes, "b") }, false},
		"its lvol is gone": {func(v *Volume, s Observed) {
			change(s, "b", func(n *NodeView) { delete(n.Replicas, v.Replicas[1].ID) })
		}, false},
		"it has another size": {func(v *Volume, s Observed) {
			change(s, "b", func(n *NodeView) { n.Replicas[v.Replicas[1].ID] = ReplicaView{SizeBytes: 1} })
		}, false},
		"it is exported still": {func(v *Volume, s Observed) {
			change(s, "b", func(n *NodeView) {
				n.Replicas[v.Replicas[1].ID] = ReplicaView{SizeBytes: v.SizeBytes, ExportBegun: true}
			})
		}, false},
		"it is attached still": {func(v *Volume, s Observed) {
			change(s, "a", func(n *NodeView) { n.Legs[v.Replicas[1].ID] = LegView{} })
		}, false},
		"it is in a slot still": {func(v *Volume, s Observed) {
			change(s, "a", func(n *NodeView) { n.Raid = &RaidView{Online: true, Legs: ids(v)} })
		}, false},
		"the raid host is down":   {func(_ *Volume, s Observed) { s.Nodes["a"] = NodeView{Err: errDown} }, false},
		"there is no raid":        {func(_ *Volume, s Observed) { change(s, "a", func(n *NodeView) { n.Raid = nil }) }, false},
		"the raid is configuring": {func(_ *Volume, s Observed) { change(s, "a", func(n *NodeView) { n.Raid = &RaidView{} }) }, false},
		"a switch is under way":   {func(v *Volume, _ Observed) { v.Assembly.Held = true }, false},
		"it is being stopped":     {func(v *Volume, _ Observed) { v.Assembly.Stopping = true }, false},
		"it runs nowhere":         {func(v *Volume, _ Observed) { v.Assembly = nil }, false},
		"another is rebuilt":      {func(v *Volume, _ Observed) { v.Replicas[2].State = ReplicaRebuilding }, false},
		"it was lost too often":   {func(v *Volume, _ Observed) { v.Replicas[1].Strikes, v.Replicas[1].Since = 4, time.Unix(999, 0) }, false},
		"and has waited for it":   {func(v *Volume, _ Observed) { v.Replicas[1].Strikes, v.Replicas[1].Since = 4, time.Unix(990, 0) }, true},
	} {
		v, seen := rebuildable()
		id := v.Replicas[1].ID
		c.change(v, seen)
		if got, ok := NextRebuild(v, seen, time.Unix(1000, 0)); ok != c.want || ok && got != id {
			t.Errorf("%s: %q, %t", name, got, ok)
		}
	}
}

func TestTheReplicaThatWaitsLongestIsRebuiltFirst(t *testing.T) {
	v, seen := rebuildable()
	v.Replicas[2].State, v.Replicas[2].Since = ReplicaOutOfSync, time.Unix(1, 0)
	v.Replicas[1].Since = time.Unix(2, 0)
	seen.Nodes["a"].Raid.Legs = seen.Nodes["a"].Raid.Legs[:1]
	if got, _ := NextRebuild(v, seen, time.Unix(1000, 0)); got != v.Replicas[2].ID {
		t.Errorf("got %s", got)
	}
}

func TestLegIsOpenToTheRaidHostsThatHaveItAndNoOthers(t *testing.T) {
	v := newLooks(ReplicaInSync, ReplicaInSync, ReplicaInSync).v
	v.Standby = &Assembly{Number: 2, RaidHost: "b", Legs: ids(v)[:2], Held: true}
	v.Retired = []Assembly{{Number: 9, RaidHost: "c", Legs: ids(v)}}
	both, one := []string{SPDKHostNQN("a"), SPDKHostNQN("b")}, []string{SPDKHostNQN("a")}
	if got := v.LegHosts(ids(v)[1]); !slices.Equal(got, both) {
		t.Errorf("a leg of both: %v", got)
	}
	if got := v.LegHosts(ids(v)[2]); !slices.Equal(got, one) {
		t.Errorf("a leg that the standby lacks: %v", got)
	}
	v.Assembly.Stopping = true
	if got := v.LegHosts(ids(v)[1]); len(got) != 0 {
		t.Errorf("when nobody uses it: %v", got)
	}
}

// A replica is the only source of a rebuild, and lost in it. The raid may list the other leg for a while as if that were rebuilt; when all that is over, the
// source must still be one.
func TestOnlySourceOfARebuildStaysWhatItIs(t *testing.T) {
	l := newLooks(ReplicaInSync, ReplicaRebuilding)
	l.want(t, l.see(3, goodLeg, underWay), ReplicaInSync, ReplicaRebuilding)
	l.want(t, l.see(3, awayLeg, underWay), ReplicaInSync, ReplicaRebuilding)
	l.want(t, l.see(6, noLeg, goodLeg), ReplicaInSync, ReplicaRebuilding)
	l.want(t, l.see(1, noLeg, noLeg), ReplicaInSync, ReplicaOutOfSync)
}

// The rebuild was over before: the raid goes on with the other leg alone.
func TestSourceThatIsLostAfterTheRebuildIsNone(t *testing.T) {
	l := newLooks(ReplicaInSync, ReplicaRebuilding)
	l.want(t, l.see(3, goodLeg, underWay), ReplicaInSync, ReplicaRebuilding)
	l.want(t, l.see(1, goodLeg, goodLeg), ReplicaInSync, ReplicaRebuilding)
	l.want(t, l.see(1, awayLeg, goodLeg), ReplicaSuspect, ReplicaRebuilding)
	l.want(t, l.see(1, noLeg, goodLeg), ReplicaOutOfSync, ReplicaRebuilding)
	l.want(t, l.see(9, noLeg, goodLeg), ReplicaOutOfSync, ReplicaInSync)
}
