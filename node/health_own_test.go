package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	testingclock "k8s.io/utils/clock/testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

func anaPath(to spdk.Address, state, ana string) nvmeof.PathState {
	p := path(to, state)
	p.ANAState = ana
	return p
}

// What the machine's paths to a volume are, for how long, and what is said of it.
func TestPathsTellWhetherIOWaits(t *testing.T) {
	serving, inaccessible := anaPath(raidHost, nvmeof.StateLive, nvmeof.ANAOptimized), anaPath(other, nvmeof.StateLive, nvmeof.ANAInaccessible)
	dead := path(raidHost, nvmeof.StateConnecting)
	stall := running().Parameters.Budgets.ReplicaStall
	for name, c := range map[string]struct {
		paths         []nvmeof.PathState
		held, unknown bool
		waited        time.Duration
		severity      condition.Severity
		reason        condition.Reason
		text          string
	}{
		"raid host and standby":                  {paths: []nvmeof.PathState{serving, inaccessible}},
		"not optimized is good enough":           {paths: []nvmeof.PathState{anaPath(raidHost, nvmeof.StateLive, nvmeof.ANANonOptimized), inaccessible}},
		"standby's path reconnecting":            {paths: []nvmeof.PathState{serving, path(other, nvmeof.StateConnecting)}, severity: condition.Degraded, reason: reasonPathLost, text: "10.0.0.2:4420 is connecting"},
		"standby's path missing":                 {paths: []nvmeof.PathState{serving}, severity: condition.Degraded, reason: reasonPathLost, text: "the standby on n2 (10.0.0.2:4420) is missing"},
		"raid host's path lost just now":         {paths: []nvmeof.PathState{dead, inaccessible}, severity: condition.Degraded, reason: reasonIOWaiting, text: "10.0.0.1:4420 is connecting, the path to 10.0.0.2:4420 is live and ANA inaccessible"},
		"lost for nearly a stall budget":         {paths: []nvmeof.PathState{dead, inaccessible}, waited: stall - 1, severity: condition.Degraded, reason: reasonIOWaiting},
		"lost for a stall budget":                {paths: []nvmeof.PathState{dead, inaccessible}, waited: stall, severity: condition.Inaccessible, reason: reasonIOWaiting, text: "since 1970-01-02T03:46:40Z"},
		"live without the namespace":             {paths: []nvmeof.PathState{path(raidHost, nvmeof.StateLive)}, waited: stall, severity: condition.Inaccessible, reason: reasonIOWaiting, text: "live without the namespace"},
		"no path at all":                         {waited: stall, severity: condition.Inaccessible, reason: reasonIOWaiting, text: "no path to a target"},
		"a switch":                               {paths: []nvmeof.PathState{inaccessible}, held: true, severity: condition.Degraded, reason: reasonIOWaiting, text: "n1 is taking the volume over"},
		"a switch that doesn't come to its end":  {paths: []nvmeof.PathState{inaccessible}, held: true, waited: stall, severity: condition.Inaccessible, reason: reasonIOWaiting, text: "n1 is taking the volume over"},
		"raid host's path lost, record not read": {paths: []nvmeof.PathState{dead}, unknown: true, severity: condition.Degraded, reason: reasonIOWaiting},
	} {
		t.Run(name, func(t *testing.T) {
			clock := testingclock.NewFakeClock(time.Unix(100_000, 0))
			s := &Server{cluster: converge.NewCluster([]*converge.Node{{Name: "n1", NVMf: raidHost}, {Name: "n2", NVMf: other}})}
			s.watcher = newWatcher(s, clock)
			v := running()
			v.Standby = &volume.Assembly{Number: 2, RaidHost: "n2", Running: true}
			v.Assembly.Held = c.held
			wv := s.watcher.add("x")
			wv.record, wv.last = v, v
			wv.noteWaiting(clock.Now(), c.waited == 0)
			wv.excuse(clock.Now())
			clock.Step(c.waited)
			wv.noteWaiting(clock.Now(), c.waited == 0)
			if c.unknown {
				v = nil
			}
			got := s.judgePaths("x", v, c.paths)
			if c.reason == "" {
				if len(got) > 0 {
					t.Errorf("got %+v", got)
				}
				return
			}
			if len(got) != 1 || got[0].Severity != c.severity || got[0].Reason != c.reason || !strings.Contains(got[0].Message, c.text) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// What the watcher has seen of a raid host's legs is told without a question to anybody.
func TestHealthKnowsWhatTheWatcherHasSeen(t *testing.T) {
	v := running()
	v.Phase = volume.PhaseReady
	v.Publications = []volume.Publication{{Node: "host"}}
	slot := func(r volume.Replica) spdk.RaidSlot {
		return spdk.RaidSlot{Bdev: spdk.LegBdev(v.LegController(r)), Configured: true}
	}
	v.Replicas[1].State = volume.ReplicaRebuilding
	raid := spdk.RaidState{State: spdk.RaidOnline, Slots: []spdk.RaidSlot{slot(v.Replicas[0]), slot(v.Replicas[1])}}
	raid.Rebuild = &spdk.RebuildProgress{Target: raid.Slots[1].Bdev, Percent: 37}
	s := &Server{cluster: converge.NewCluster([]*converge.Node{{Name: "n1"}, {Name: "n2"}})}
	s.watcher = newWatcher(s, testingclock.NewFakeClock(time.Unix(100_000, 0)))
	s.watcher.nodes["n1"] = &watchedNode{health: spdk.Health{
		Raids: map[string]spdk.RaidState{v.RaidName(): raid}, Controllers: map[string]spdk.LegState{v.LegController(v.Replicas[0]): {State: spdk.LegEnabled}},
	}}
	got := condition.Findings(v, s.watcher.sight(v))
	if len(got) != 1 || got[0].Reason != condition.ReasonAtRisk || !strings.Contains(got[0].Message, "37 % copied") {
		t.Errorf("got %+v", got)
	}
	s.watcher.nodes["n1"].err = errors.New("connection refused")
	got = condition.Findings(v, s.watcher.sight(v))
	if !slices.ContainsFunc(got, func(f condition.Finding) bool { return f.Reason == condition.ReasonRaidHostSilent }) {
		t.Errorf("got %+v", got)
	}
	v.Replicas[1].Node = "unheard-of"
	if _, known := s.watcher.sight(v)["unheard-of"]; known {
		t.Error("a node that the configuration doesn't name counts as one that answers")
	}
}

// controllersOnly is a machine of which only the controllers are asked for.
type controllersOnly struct {
	Fabrics
	controllers []nvmeof.Controller
}

func (c controllersOnly) Controllers(string) ([]nvmeof.Controller, error) { return c.controllers, nil }

func TestStorageHealthTellsWhatIsDown(t *testing.T) {
	to := func(nqn string, address spdk.Address, state string) nvmeof.Controller {
		return nvmeof.Controller{NQN: nqn, Address: address.String(), State: state}
	}
	since := time.Unix(100_000, 0)
	for name, c := range map[string]struct {
		controllers []nvmeof.Controller
		node        watchedNode
		want, texts []string
	}{
		"all up":             {controllers: []nvmeof.Controller{to("a", raidHost, nvmeof.StateLive), to("a", other, nvmeof.StateLive), to("b", other, nvmeof.StateLive)}},
		"one path down":      {controllers: []nvmeof.Controller{to("a", raidHost, "connecting"), to("a", other, nvmeof.StateLive)}, want: []string{"STORAGE_DEGRADED PathsLost"}, texts: []string{"0 of 1", "1 to 10.0.0.1:4420"}},
		"one volume cut off": {controllers: []nvmeof.Controller{to("a", raidHost, "connecting"), to("b", other, nvmeof.StateLive)}, want: []string{"STORAGE_DEGRADED PathsLost"}, texts: []string{"1 of 2"}},
		"all cut off":        {controllers: []nvmeof.Controller{to("a", raidHost, "connecting"), to("b", raidHost, "resetting")}, want: []string{"STORAGE_UNREACHABLE NoPath"}, texts: []string{"none of the 2", "2 to 10.0.0.1:4420"}},
		"node without RPC":   {node: watchedNode{downSince: since, err: errors.New("refused")}, want: []string{"STORAGE_DEGRADED SPDKNodeSilent"}, texts: []string{"JSON-RPC of n1", "1970-01-02T03:46:40Z", "refused"}},
		"node's target hung": {node: watchedNode{silentSince: since}, want: []string{"STORAGE_DEGRADED SPDKNodeSilent"}, texts: []string{"NVMe/TCP target of n1"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Server{fabrics: controllersOnly{controllers: c.controllers}, store: noHosts{}}
			s.watcher = newWatcher(s, testingclock.NewFakeClock(since))
			s.watcher.nodes["n1"] = &c.node
			resp, err := s.NodeGetStorageHealth(t.Context(), &csi.NodeGetStorageHealthRequest{})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			var messages strings.Builder
			for _, h := range resp.GetBackendHealth() {
				got = append(got, fmt.Sprintf("%s %s", h.GetStatus(), h.GetReason()))
				messages.WriteString(h.GetMessage() + "\n")
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			for _, text := range c.texts {
				if !strings.Contains(messages.String(), text) {
					t.Errorf("no %q in %q", text, messages.String())
				}
			}
		})
	}
}

// noHosts is a store that knows no CSI nodes.
type noHosts struct{ volume.Store }

func (noHosts) Host(context.Context, string) (volume.Host, error) {
	return volume.Host{}, volume.ErrHostUnknown
}
