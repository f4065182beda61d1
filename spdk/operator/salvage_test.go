package operator_test

import (
	"context"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/operator"
	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// hangUp has a node end each connection in place of an answer.
var hangUp = sim.RPCFault{Kind: sim.HangupBefore}

// lose makes a volume on n1, n2 and n3 that was staged and ran on n3, over its replica alone at last. That node is to be killed
// next. run is use or claim.
func lose(b *bench, name string, run func(id, raidHost string)) *volume.Volume {
	b.t.Helper()
	v := b.volume(name, "n1", "n2", "n3")
	run(v.ID, "n3")
	b.set(v.ID, "n1", volume.ReplicaOutOfSync)
	b.clock.Step(1)
	b.set(v.ID, "n2", volume.ReplicaOutOfSync)
	return b.change(v.ID, func(v *volume.Volume) {
		v.Publications = nil
		v.Stop()
	})
}

func TestSalvagedReplicaIsTheOnlySource(t *testing.T) {
	b := newBench(t, 3)
	v := lose(b, "x", b.use)
	b.Sim("n3").Kill()
	v, err := b.Salvage(t.Context(), v.ID, replicaOn("n2"))
	b.must(err)
	for node, want := range map[string]volume.ReplicaState{"n1": volume.ReplicaOutOfSync, "n2": volume.ReplicaInSync, "n3": volume.ReplicaOutOfSync} {
		if got := v.Replica(replicaOn(node)).State; got != want {
			t.Errorf("the replica on %s is %s, want %s", node, got, want)
		}
	}
	if v.Assembly != nil || v.Owner != "" || len(v.Retired) != 1 || v.Retired[0].RaidHost != "n3" {
		t.Errorf("it runs as %+v, staged on %q, retired %+v", v.Assembly, v.Owner, v.Retired)
	}
	if seen := b.Observe(v).Nodes["n2"].Replicas[replicaOn("n2")]; seen.ExportBegun {
		t.Errorf("the former raid host is not cut off: %+v", seen)
	}
	b.use(v.ID, "n1")
	if seen := b.Observe(b.Record(v.ID)).Nodes["n1"]; seen.Raid == nil || !seen.Raid.Online || len(seen.Raid.Legs) != 1 {
		t.Errorf("it doesn't run again: %+v", seen)
	}
}

func TestSalvageIsRefusedWhileAnInSyncReplicaCanBeReached(t *testing.T) {
	b := newBench(t, 3)
	v := lose(b, "x", b.use)
	_, err := b.Salvage(t.Context(), v.ID, replicaOn("n2"))
	wantError(t, err, operator.ErrRefused)
}

func TestSalvageIsRefused(t *testing.T) {
	b := newBench(t, 3)
	tests := map[string]struct {
		prepare func(b *bench, id string)
		replica string
		want    error
	}{
		"while it is published": {func(b *bench, id string) {
			b.change(id, func(v *volume.Volume) { v.Publications = []volume.Publication{{Node: host}} })
		}, replicaOn("n2"), volume.ErrInUse},
		"while it is staged and runs": {func(b *bench, id string) {
			b.change(id, func(v *volume.Volume) { v.Assembly.Stopping = false })
		}, replicaOn("n2"), volume.ErrInUse},
		"while it is deleted": {func(b *bench, id string) {
			b.change(id, func(v *volume.Volume) { v.Phase = volume.PhaseDeleting })
		}, replicaOn("n2"), operator.ErrRefused},
		"with a replica that can't be reached": {func(*bench, string) {}, replicaOn("n3"), operator.ErrRefused},
		"with a replica that there is not":     {func(*bench, string) {}, "other", operator.ErrRefused},
		"with a replica that is to be deleted": {func(b *bench, id string) { b.set(id, "n2", volume.ReplicaRemoving) }, replicaOn("n2"), operator.ErrRefused},
		"with a replica that was never made":   {func(b *bench, id string) { b.set(id, "n2", volume.ReplicaPlanned) }, replicaOn("n2"), operator.ErrRefused},
		"with a replica that was never written": {func(b *bench, id string) {
			b.change(id, func(v *volume.Volume) { v.FileSystem = volume.FileSystem{Type: "ext4", State: volume.FileSystemMade} })
		}, replicaOn("n2"), operator.ErrRefused},
	}
	for name := range tests {
		lose(b, name, b.claim)
	}
	b.Sim("n3").Kill()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			id := volume.IDFor(name)
			test.prepare(b, id)
			before := b.Record(id)
			_, err := b.Salvage(t.Context(), id, test.replica)
			wantError(t, err, test.want)
			if b.Record(id).Revision != before.Revision {
				t.Error("the record was written")
			}
		})
	}
}

// intruder is a store in which another writer comes in between the first reading and writing of a record.
type intruder struct {
	volume.Store
	change func(*volume.Volume)
}

func (i *intruder) Update(ctx context.Context, v *volume.Volume) error {
	if change := i.change; change != nil {
		i.change = nil
		other, err := i.Get(ctx, v.ID)
		if err != nil {
			return err
		}
		change(other)
		if err := i.Store.Update(ctx, other); err != nil {
			return err
		}
	}
	return i.Store.Update(ctx, v)
}

func TestSalvageIsDecidedAnewWhenAnotherWriterComesInBetween(t *testing.T) {
	b := newBench(t, 3)
	v := lose(b, "x", b.use)
	b.Sim("n3").Kill()
	between := &intruder{Store: b.Store, change: func(v *volume.Volume) { v.Publications = []volume.Publication{{Node: host}} }}
	_, err := operator.New(between, b.Cluster.Cluster, b.clock).Salvage(t.Context(), v.ID, replicaOn("n2"))
	wantError(t, err, volume.ErrInUse)
	if got := b.Record(v.ID).Replica(replicaOn("n2")).State; got != volume.ReplicaOutOfSync {
		t.Errorf("the replica is %s", got)
	}
}

func TestFormerInSyncReplicaIsNoSourceAfterItsReturn(t *testing.T) {
	b := newBench(t, 3)
	v := lose(b, "x", b.use)
	b.Sim("n3").Kill()
	_, err := b.Salvage(t.Context(), v.ID, replicaOn("n2"))
	b.must(err)
	b.must(b.Sim("n3").Restart())
	b.use(v.ID, "n2")
	b.must(converge.New(b.Cluster.Cluster).Run(t.Context(), b.Record(v.ID)))
	if legs := b.Record(v.ID).Assembly.Legs; len(legs) != 1 || legs[0] != replicaOn("n2") {
		t.Errorf("it runs over %v", legs)
	}
}

func TestCandidatesThatMissedLeastComeFirst(t *testing.T) {
	v := newVolume("x", "n1", "n2", "n3", "n4", "n5")
	b := newBench(t, 1)
	for _, r := range []struct {
		node  string
		state volume.ReplicaState
	}{{"n1", volume.ReplicaOutOfSync}, {"n2", volume.ReplicaRebuilding}, {"n3", volume.ReplicaOutOfSync}, {"n4", volume.ReplicaPlanned}, {"n5", volume.ReplicaSuspect}} {
		b.clock.Step(1)
		v.SetReplicaState(replicaOn(r.node), r.state, b.clock.Now())
	}
	d := operator.Detail{Record: v}
	for _, r := range v.Replicas {
		d.Replicas = append(d.Replicas, operator.ReplicaDetail{Replica: r})
	}
	var order []string
	for _, r := range operator.Candidates(d) {
		order = append(order, r.Node)
	}
	if got, want := len(order), 5; got != want || order[0] != "n5" || order[1] != "n3" || order[2] != "n1" || order[3] != "n2" || order[4] != "n4" {
		t.Errorf("the order is %v", order)
	}
}
