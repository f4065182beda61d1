package operator_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"k8s.io/utils/clock"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/operator"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// host is the CSI node that uses the volumes.
const host = "worker"

// bench is a cluster of simulated SPDK nodes with an operator.
type bench struct {
	*cluster.Cluster
	*operator.Operator
	t     *testing.T
	clock eagerClock
	owner *owner
}

func newBench(t *testing.T, nodes int) *bench {
	t.Helper()
	b := &bench{Cluster: cluster.New(t, nodes, cluster.Options{}), t: t, clock: eagerClock{clocktesting.NewFakeClock(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC))}}
	b.owner = &owner{Store: b.Store}
	b.Operator = operator.New(b.owner, b.Cluster.Cluster, b.clock)
	return b
}

// eagerClock is a clock whose tickers tick whenever they are waited for.
type eagerClock struct{ *clocktesting.FakeClock }

func (eagerClock) NewTicker(time.Duration) clock.Ticker { return eagerTicker{} }

type eagerTicker struct{}

func (eagerTicker) C() <-chan time.Time {
	c := make(chan time.Time, 1)
	c <- time.Time{}
	return c
}

func (eagerTicker) Stop() {}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func wantError(t *testing.T, err, sentinel error) {
	t.Helper()
	if !errors.Is(err, sentinel) {
		t.Fatalf("want %q, got %v", sentinel, err)
	}
}

// volume makes a volume with a replica on each of the nodes, all in-sync, that nobody uses.
func (b *bench) volume(name string, nodes ...string) *volume.Volume {
	b.t.Helper()
	v := newVolume(name, nodes...)
	for i := range v.Replicas {
		v.Replicas[i].State = volume.ReplicaPlanned
	}
	b.must(converge.New(b.Cluster.Cluster).Run(b.t.Context(), v))
	for i := range v.Replicas {
		v.Replicas[i].State = volume.ReplicaInSync
	}
	b.must(b.Store.Create(b.t.Context(), v))
	return v
}

// newVolume returns a record. Its replicas are called after their nodes.
func newVolume(name string, nodes ...string) *volume.Volume {
	parameters, err := volume.ParseParameters(map[string]string{
		volume.ParamReplicas: fmt.Sprint(len(nodes)), volume.ParamReplicaStallBudget: cluster.StallBudget.String(),
	})
	if err != nil {
		panic(err)
	}
	v := &volume.Volume{ID: volume.IDFor(name), Name: name, UUID: uuid.New(), SizeBytes: 8 << 20, Parameters: parameters, Phase: volume.PhaseReady}
	for _, node := range nodes {
		v.Replicas = append(v.Replicas, volume.Replica{ID: replicaOn(node), Node: node, LvStore: cluster.Pool, State: volume.ReplicaInSync})
	}
	return v
}

func replicaOn(node string) string { return "replica-" + node }

// use has the volume run on an SPDK node, staged on host.
func (b *bench) use(id, raidHost string) {
	b.t.Helper()
	v := b.change(id, func(v *volume.Volume) { runOn(v, raidHost) })
	b.must(converge.New(b.Cluster.Cluster).Run(b.t.Context(), v))
}

// claim has the record alone say so.
func (b *bench) claim(id, raidHost string) {
	b.t.Helper()
	b.change(id, func(v *volume.Volume) { runOn(v, raidHost) })
}

// runOn puts on record that the volume runs on a node, staged on host.
func runOn(v *volume.Volume, raidHost string) {
	v.Assemblies++
	v.Assembly = &volume.Assembly{Number: v.Assemblies, RaidHost: raidHost, Running: true}
	for _, r := range v.InState(volume.ReplicaInSync) {
		v.Assembly.Legs = append(v.Assembly.Legs, r.ID)
	}
	v.Publications, v.Owner = []volume.Publication{{Node: host, Mode: volume.AccessSingleNodeWriter}}, host
}

// change changes a record past the owner.
func (b *bench) change(id string, change func(*volume.Volume)) *volume.Volume {
	b.t.Helper()
	v, err := volume.Modify(b.t.Context(), b.Store, id, func(v *volume.Volume) (bool, error) {
		change(v)
		return true, nil
	})
	b.must(err)
	return v
}

// set puts a replica's state on record.
func (b *bench) set(id, node string, state volume.ReplicaState) {
	b.t.Helper()
	b.change(id, func(v *volume.Volume) { v.SetReplicaState(replicaOn(node), state, b.clock.Now()) })
}

// owner is the store as the operator sees it while a node service is at work that moves volumes as it is asked to: each time that a
// record is read, it is one step further the next time.
type owner struct {
	volume.Store
	// idle: it does nothing. refuses: it gives every move up.
	idle, refuses bool
}

func (o *owner) Get(ctx context.Context, id string) (*volume.Volume, error) {
	v, err := o.Store.Get(ctx, id)
	if err == nil && v.Owner != "" && !o.idle {
		next := v.Clone()
		if o.step(next) {
			_ = o.Update(ctx, next) // a writer that came in between makes it a step of the next read
		}
	}
	return v, err
}

func (o *owner) step(v *volume.Volume) bool {
	switch {
	case v.MoveTo != "" && o.refuses:
		v.MoveTo = ""
	case v.MoveTo != "" && v.Standby == nil:
		v.Assemblies++
		v.Standby = &volume.Assembly{Number: v.Assemblies, RaidHost: v.MoveTo, Legs: slices.Clone(v.Assembly.Legs), Held: true, Running: true}
	case v.MoveTo != "":
		v.Retired = append(v.Retired, *v.Assembly)
		v.Assembly, v.Standby, v.MoveTo = v.Standby, nil, ""
	case v.Assembly != nil && v.Assembly.Held:
		v.Assembly.Held = false
	case len(v.Retired) > 0:
		v.Retired = v.Retired[1:]
	default:
		return false
	}
	return true
}

// allAnswer is the sight of nodes that answer and run nothing.
func allAnswer(nodes ...string) condition.Sight {
	s := condition.Sight{}
	for _, n := range nodes {
		s[n] = condition.NodeSight{}
	}
	return s
}
