package node

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// pathsOnly is a machine of which only the paths to a volume are asked for, and whether a target answers it.
type pathsOnly struct {
	Fabrics
	paths []nvmeof.PathState
	err   error
	greet error
}

func (p pathsOnly) Paths(context.Context, string) ([]nvmeof.PathState, error) { return p.paths, p.err }
func (p pathsOnly) Greet(context.Context, string) error                       { return p.greet }

var (
	raidHost = spdk.Address{Host: "10.0.0.1", Port: 4420}
	other    = spdk.Address{Host: "10.0.0.2", Port: 4420}
)

func path(to spdk.Address, state string) nvmeof.PathState {
	return nvmeof.PathState{Address: to.String(), State: state, CNTLID: 1}
}

// running is a volume with two replicas that runs on n1.
func running() *volume.Volume {
	return &volume.Volume{
		UUID: uuid.UUID{1}, Parameters: volume.Parameters{Replicas: 2, Budgets: timeouts.DefaultBudgets()},
		Replicas: []volume.Replica{{ID: "00000001", Node: "n1", State: volume.ReplicaInSync}, {ID: "00000002", Node: "n2", State: volume.ReplicaInSync}},
		Assembly: &volume.Assembly{Number: 1, RaidHost: "n1", Legs: []string{"00000001", "00000002"}, Running: true},
	}
}

// What is known of a raid host, and whether it is lost by that. Times are how long ago; 0 is not so.
func TestRaidHostIsLostWhenNobodyReachesIt(t *testing.T) {
	v := running()
	stall := v.Parameters.Budgets.ReplicaStall
	values, err := timeouts.Derive(v.Parameters.Budgets)
	if err != nil {
		t.Fatal(err)
	}
	raids, controllers := map[string]spdk.RaidState{}, map[string]spdk.LegState{}
	for _, r := range v.Replicas {
		raid := raids[v.RaidName()]
		raid.State = spdk.RaidOnline
		raid.Slots = append(raid.Slots, spdk.RaidSlot{Bdev: spdk.LegBdev(v.LegController(r)), Configured: true})
		raids[v.RaidName()] = raid
		controllers[v.LegController(r)] = spdk.LegState{State: spdk.LegEnabled}
	}
	ejected := map[string]spdk.RaidState{v.RaidName(): {State: spdk.RaidOnline, Slots: raids[v.RaidName()].Slots[:1]}}
	live, ended := []nvmeof.PathState{path(raidHost, nvmeof.StateLive)}, []nvmeof.PathState{path(raidHost, "connecting"), path(other, nvmeof.StateLive)}
	for name, c := range map[string]struct {
		down, silent, looked time.Duration
		raids                map[string]spdk.RaidState
		paths                []nvmeof.PathState
		pathsErr             error
		why                  string
		gone, unproven       bool
	}{
		"all is well":                                {raids: raids, paths: live},
		"RPC answers and the raid is gone":           {paths: live, why: "it has no raid of the volume", gone: true},
		"a greeting was lost, the path is up":        {raids: raids, paths: live, silent: patience},
		"the path is down for a moment":              {raids: raids, paths: ended},
		"the path is down, greetings fail at once":   {raids: raids, paths: ended, silent: patience - 1},
		"the path is down, greetings fail for long":  {raids: raids, paths: ended, silent: patience, why: "its target doesn't answer"},
		"so is it when it has ejected a leg":         {raids: ejected, paths: ended, silent: patience, why: "its target doesn't answer", unproven: true},
		"no RPC, the path is up":                     {down: patience, paths: live},
		"no RPC and the path is down":                {down: 1, paths: ended, why: "it doesn't answer and the path to it is down"},
		"no RPC, no greeting, for a moment":          {down: patience - 1, silent: patience, paths: live},
		"no RPC, no greeting for a moment":           {down: patience, silent: patience - 1, paths: live},
		"no RPC, no greeting":                        {down: patience, silent: patience, paths: live, why: "it hangs"},
		"no RPC for nearly a stall budget":           {down: stall - 1, looked: stall, paths: live},
		"no RPC for a stall budget":                  {down: stall, looked: stall, paths: live, why: "it can't be watched", unproven: true},
		"no RPC, and the paths can't be read":        {down: patience, pathsErr: errors.New("sysfs"), paths: live},
		"no RPC, nothing seen for a fast I/O fail":   {down: 1, looked: values.Leg.FastIOFail + unwatched, paths: ended, why: "it doesn't answer and the path to it is down"},
		"no RPC, nothing seen for longer than that":  {down: 1, looked: values.Leg.FastIOFail + unwatched + 1, paths: ended, why: "it doesn't answer and the path to it is down", unproven: true},
		"no RPC, another's path is up, its own gone": {down: 1, paths: []nvmeof.PathState{path(other, nvmeof.StateLive)}, why: "it doesn't answer and the path to it is down"},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(100_000, 0)
			ago := func(d time.Duration) time.Time {
				if d == 0 {
					return time.Time{}
				}
				return now.Add(-d)
			}
			cluster := converge.NewCluster([]*converge.Node{{Name: "n1", NVMf: raidHost}, {Name: "n2", NVMf: other}})
			w := newWatcher(&Server{cluster: cluster, fabrics: pathsOnly{paths: c.paths, err: c.pathsErr}}, testingclock.NewFakeClock(now))
			n := &watchedNode{downSince: ago(c.down), silentSince: ago(c.silent), lookedAt: now.Add(-c.looked), health: spdk.Health{Raids: c.raids, Controllers: controllers}}
			if c.down > 0 {
				n.err = spdk.ErrUnreachable
			}
			l := w.lost(t.Context(), v, n, *n)
			if l.why != c.why || l.gone != c.gone || len(l.unproven) > 0 != c.unproven {
				t.Errorf("got %+v", l)
			}
		})
	}
}

// A raid host that is left serves on if this machine reaches it and it may have lost a leg since it was last seen. One that hangs serves nobody,
// although the path to it is live for a while.
func TestRaidHostServesOnWhereItAnswersOnALivePath(t *testing.T) {
	v := running()
	values, err := timeouts.Derive(v.Parameters.Budgets)
	if err != nil {
		t.Fatal(err)
	}
	late := values.Leg.FastIOFail
	alone := *v.Assembly
	alone.Legs = alone.Legs[:1]
	live := []nvmeof.PathState{path(other, nvmeof.StateLive), path(raidHost, nvmeof.StateLive)}
	for name, c := range map[string]struct {
		assembly volume.Assembly
		whole    time.Duration // how long ago its legs were last seen; 0 is never
		noticed  loss
		paths    []nvmeof.PathState
		greet    error
		want     bool
	}{
		"it answers, and was last seen long ago": {assembly: *v.Assembly, whole: late, paths: live, want: true},
		"it was seen just now":                   {assembly: *v.Assembly, whole: late - 1, paths: live},
		"it hangs":                               {assembly: *v.Assembly, whole: late, paths: live, greet: errors.New("timeout")},
		"the path to it is down":                 {assembly: *v.Assembly, whole: late, paths: []nvmeof.PathState{path(other, nvmeof.StateLive), path(raidHost, "connecting")}},
		"it has one leg":                         {assembly: alone, whole: late, paths: live},
		"it is asked anyway":                     {assembly: *v.Assembly, whole: late, noticed: loss{asked: true}, paths: live},
		"it was never seen":                      {assembly: *v.Assembly, paths: live},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(100_000, 0)
			cluster := converge.NewCluster([]*converge.Node{{Name: "n1", NVMf: raidHost}, {Name: "n2", NVMf: other}})
			w := newWatcher(&Server{cluster: cluster, fabrics: pathsOnly{greet: c.greet}}, testingclock.NewFakeClock(now))
			wv := &watchedVolume{noticed: c.noticed}
			if c.whole > 0 {
				wv.wholeAt = now.Add(-c.whole)
			}
			if got := w.servesOn(t.Context(), wv, v, c.assembly, c.paths); got != c.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestLegsThatAreGoodOrProvenAreUsable(t *testing.T) {
	for name, c := range map[string]struct {
		states   [2]volume.ReplicaState
		unproven []string
		proven   bool
		want     []string
	}{
		"both good":                     {[2]volume.ReplicaState{volume.ReplicaInSync, volume.ReplicaInSync}, nil, false, []string{"00000001", "00000002"}},
		"one suspect":                   {[2]volume.ReplicaState{volume.ReplicaInSync, volume.ReplicaSuspect}, nil, true, []string{"00000001"}},
		"one rebuilt":                   {[2]volume.ReplicaState{volume.ReplicaInSync, volume.ReplicaRebuilding}, nil, true, []string{"00000001"}},
		"one doubted":                   {[2]volume.ReplicaState{volume.ReplicaInSync, volume.ReplicaInSync}, []string{"00000002"}, false, []string{"00000001"}},
		"one doubted and proven":        {[2]volume.ReplicaState{volume.ReplicaInSync, volume.ReplicaInSync}, []string{"00000002"}, true, []string{"00000001", "00000002"}},
		"a suspect doubted and proven":  {[2]volume.ReplicaState{volume.ReplicaInSync, volume.ReplicaSuspect}, []string{"00000002"}, true, []string{"00000001", "00000002"}},
		"one that was lost is not good": {[2]volume.ReplicaState{volume.ReplicaInSync, volume.ReplicaOutOfSync}, []string{"00000002"}, true, []string{"00000001"}},
	} {
		v := running()
		v.Replicas[0].State, v.Replicas[1].State = c.states[0], c.states[1]
		if got := (loss{unproven: c.unproven}).usable(v, *v.Assembly, c.proven); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestConnectionHasEndedIfItWasDownThenAndIsDownNow(t *testing.T) {
	down, up := path(raidHost, "connecting"), path(raidHost, nvmeof.StateLive)
	back := down
	back.CNTLID = 2
	for name, c := range map[string]struct {
		before []nvmeof.PathState
		now    nvmeof.PathState
		want   bool
	}{
		"down then and now":         {[]nvmeof.PathState{down}, down, true},
		"up then":                   {[]nvmeof.PathState{up}, down, false},
		"up now":                    {[]nvmeof.PathState{down}, up, false},
		"another connection by now": {[]nvmeof.PathState{down}, back, false},
		"not seen then":             {nil, down, false},
		"another path":              {[]nvmeof.PathState{path(other, "connecting")}, down, false},
	} {
		if got := (loss{paths: c.before}).ended(c.now); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// A loss is noticed again and again until the raid host is left. What counts of each time is told by the legs that are good in the end.
func TestLegsInDoubtAreProvenByWhatWasSeenInTime(t *testing.T) {
	const leg = "00000002"
	v := running()
	values, err := timeouts.Derive(v.Parameters.Budgets)
	if err != nil {
		t.Fatal(err)
	}
	down, up := path(raidHost, "connecting"), path(raidHost, nvmeof.StateLive)
	back := down
	back.CNTLID = 2
	late := values.Leg.FastIOFail + unwatched + 1
	type sight struct {
		after   time.Duration // since all legs were seen to be connected
		path    nvmeof.PathState
		doubted bool
		well    bool
	}
	for name, c := range map[string]struct {
		sights []sight
		begun  bool // the process has only just begun, and never saw all legs connected
		now    nvmeof.PathState
		want   bool
	}{
		"down in time":  {sights: []sight{{after: 1, path: down, doubted: true}}, now: down, want: true},
		"down too late": {sights: []sight{{after: late, path: down, doubted: true}}, now: down},
		"down too late for a process that has begun": {sights: []sight{{after: late, path: down, doubted: true}}, begun: true, now: down, want: true},
		"back and down again, after it has begun":    {sights: []sight{{after: late, path: down, doubted: true}, {after: late, path: back}}, begun: true, now: back},
		"up at first, down in time":                  {sights: []sight{{after: 1, path: up}, {after: 2, path: down, doubted: true}}, now: down, want: true},
		"up at first, down too late":                 {sights: []sight{{after: 1, path: up}, {after: late, path: down, doubted: true}}, now: down},
		"down in time, in doubt later":               {sights: []sight{{after: 1, path: down}, {after: late, path: down, doubted: true}}, now: down, want: true},
		"down in time, back, and down again":         {sights: []sight{{after: 1, path: down, doubted: true}, {after: late, path: back}}, now: back},
		"doubted only at first":                      {sights: []sight{{after: 1, path: down, doubted: true}, {after: late, path: back}}, now: up},
		"all was well in between":                    {sights: []sight{{after: 1, path: down, doubted: true}, {after: 2, well: true}, {after: late, path: down, doubted: true}}, now: down},
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Unix(100_000, 0)
			wv := &watchedVolume{wholeAt: begin}
			if c.begun {
				wv.wholeAt = time.Time{}
			}
			var l loss
			for _, s := range c.sights {
				l = loss{why: "it hangs", address: raidHost.String(), paths: []nvmeof.PathState{s.path}}
				if s.well {
					l = loss{}
				}
				if s.doubted {
					l.unproven = []string{leg}
				}
				l = wv.notice(l, v, begin.Add(s.after))
			}
			good := l.usable(v, *v.Assembly, l.proven([]nvmeof.PathState{c.now, path(other, nvmeof.StateLive)}))
			if slices.Contains(good, leg) != c.want {
				t.Errorf("good are %v by %+v", good, l)
			}
		})
	}
}

func TestHeldAssemblyIsLeftWithTheDoubtsAboutTheOneBefore(t *testing.T) {
	v, begin := running(), time.Unix(100_000, 0)
	wv := &watchedVolume{wholeAt: begin}
	down := path(raidHost, "connecting")
	wv.notice(loss{why: "it hangs", address: raidHost.String(), unproven: []string{"00000002"}, paths: []nvmeof.PathState{down}}, v, begin.Add(1))
	v.Assembly.Number, v.Assembly.RaidHost, v.Assembly.Held = 2, "n2", true
	l := wv.notice(loss{why: "it hangs", address: other.String(), unproven: []string{"00000001"}}, v, begin.Add(time.Hour))
	if !slices.Equal(l.unproven, []string{"00000002"}) || !l.proven([]nvmeof.PathState{down, path(other, nvmeof.StateLive)}) {
		t.Errorf("got %+v", l)
	}
	wv.refute()
	if l := wv.notice(l, v, begin.Add(time.Hour)); l.proven(nil) {
		t.Errorf("got %+v, though a path that was deleted had come back", l)
	}
}
