package operator_test

import (
	"slices"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/operator"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// forget forgets n3 for good.
func (b *bench) forget(lossAllowed ...string) error {
	_, err := b.ForgetNode(b.t.Context(), "n3", lossAllowed, true)
	return err
}

func TestNodeThatAnswersIsNotForgotten(t *testing.T) {
	b := newBench(t, 3)
	v := b.volume("x", "n1", "n2", "n3")
	wantError(t, b.forget(), operator.ErrRefused)
	if b.Record(v.ID).Replica(replicaOn("n3")) == nil {
		t.Error("its replica is off the record")
	}
}

func TestNobodyIsForgottenFromAMachineThatIsCutOff(t *testing.T) {
	b := newBench(t, 3)
	b.volume("x", "n1", "n2", "n3")
	for _, n := range b.Sims {
		n.Kill()
	}
	wantError(t, b.forget(), operator.ErrRefused)
}

func TestForgettingTakesAllOfANodeOffTheRecords(t *testing.T) {
	b := newBench(t, 3)
	b.owner.idle = true
	v := b.volume("x", "n1", "n2", "n3")
	other := b.volume("y", "n1", "n2")
	b.set(v.ID, "n3", volume.ReplicaOutOfSync)
	b.use(v.ID, "n1")
	b.change(v.ID, func(v *volume.Volume) {
		legs := []string{replicaOn("n1"), replicaOn("n3")}
		v.Standby = &volume.Assembly{Number: 8, RaidHost: "n3", Legs: legs}
		v.Retired = []volume.Assembly{{Number: 6, RaidHost: "n3", Legs: legs}, {Number: 7, RaidHost: "n2", Legs: legs}}
		v.MoveTo, v.Owner = "n3", ""
	})
	b.Sim("n3").Kill()
	shown, err := b.ForgetNode(t.Context(), "n3", nil, false)
	b.must(err)
	if len(shown) != 1 || len(shown[0].Lines) != 4 || len(shown[0].Lvols) != 1 {
		t.Errorf("shown is %+v", shown)
	}
	if v := b.Record(v.ID); len(v.Replicas) != 3 || v.Standby == nil || v.MoveTo == "" {
		t.Fatal("showing has changed the record")
	}
	before := b.Record(other.ID).Revision
	b.must(b.forget())
	got := b.Record(v.ID)
	if len(got.Replicas) != 2 || got.Standby != nil || got.MoveTo != "" || len(got.Retired) != 1 || got.Retired[0].Number != 7 {
		t.Errorf("the record is %+v", got)
	}
	for _, a := range append(got.Retired, *got.Assembly) {
		if slices.Contains(a.Legs, replicaOn("n3")) {
			t.Errorf("assembly %d still has the replica as a leg", a.Number)
		}
	}
	if b.Record(other.ID).Revision != before {
		t.Error("a volume that has nothing there was written")
	}
	again, err := b.ForgetNode(t.Context(), "n3", nil, true)
	b.must(err)
	if len(again) != 0 {
		t.Errorf("a second time it forgets %+v", again)
	}
}

func TestDeleteThatWaitsForADeadNodeEndsWhenItIsForgotten(t *testing.T) {
	b := newBench(t, 3)
	v := b.volume("x", "n1", "n2", "n3")
	b.use(v.ID, "n3")
	b.change(v.ID, func(v *volume.Volume) { v.Phase, v.Assembly.Stopping, v.Publications = volume.PhaseDeleting, true, nil })
	b.Sim("n3").Kill()
	converger := converge.New(b.Cluster.Cluster)
	wantError(t, converger.Run(t.Context(), b.Record(v.ID)), volume.ErrNodeDown)
	b.must(b.forget())
	b.must(converger.Run(t.Context(), b.Record(v.ID)))
	if v := b.Record(v.ID); v.Assembly != nil || v.Owner != "" || len(v.Replicas) != 2 {
		t.Errorf("the record is %+v", v)
	}
}

func TestNodeIsNotForgottenWhileSomethingDependsOnIt(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(b *bench, id string)
		want    error
	}{
		"it is the raid host": {func(b *bench, id string) { b.change(id, func(v *volume.Volume) { runOn(v, "n3") }) }, volume.ErrInUse},
		"a switch is under way": {func(b *bench, id string) {
			b.change(id, func(v *volume.Volume) {
				runOn(v, "n1")
				v.Assembly.Held = true
				v.Retired = []volume.Assembly{{Number: 9, RaidHost: "n3"}}
			})
		}, volume.ErrBusy},
		"the standby of a volume in use is there": {func(b *bench, id string) {
			b.change(id, func(v *volume.Volume) {
				runOn(v, "n1")
				v.Standby = &volume.Assembly{Number: 9, RaidHost: "n3", Held: true}
			})
		}, volume.ErrBusy},
		"no other is in-sync": {func(b *bench, id string) {
			b.set(id, "n1", volume.ReplicaOutOfSync)
			b.set(id, "n2", volume.ReplicaSuspect)
		}, operator.ErrLastCopy},
		"no other is in-sync, and neither is its own": {func(b *bench, id string) {
			for _, n := range []string{"n1", "n2", "n3"} {
				b.set(id, n, volume.ReplicaOutOfSync)
			}
		}, operator.ErrLastCopy},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 3)
			first, v := b.volume("a", "n1", "n2", "n3"), b.volume("x", "n1", "n2", "n3")
			test.prepare(b, v.ID)
			b.Sim("n3").Kill()
			wantError(t, b.forget(), test.want)
			for _, id := range []string{first.ID, v.ID} {
				if b.Record(id).Replica(replicaOn("n3")) == nil {
					t.Errorf("a replica of %s is off the record", b.Record(id).Name)
				}
			}
		})
	}
}

func TestNodeWhoseLegIsAliveIsNotForgotten(t *testing.T) {
	b := newBench(t, 3)
	v := b.volume("x", "n1", "n2", "n3")
	b.use(v.ID, "n1")
	b.Sim("n3").AddRPCFault(hangUp)
	wantError(t, b.forget(), volume.ErrInUse)
}

func TestLastReplicaIsForgottenOnRequestOnly(t *testing.T) {
	b := newBench(t, 3)
	v, other := b.volume("x", "n3"), b.volume("y", "n3")
	b.Sim("n3").Kill()
	wantError(t, b.forget(v.ID), operator.ErrLastCopy)
	wantError(t, b.forget(v.ID, other.ID, "hf-no-such-volume"), volume.ErrNotFound)
	b.must(b.forget(v.ID, other.ID))
	if left := len(b.Record(v.ID).Replicas) + len(b.Record(other.ID).Replicas); left != 0 {
		t.Errorf("%d replicas are left", left)
	}
}

func TestReplicaIsForgottenUnlessItIsThere(t *testing.T) {
	b := newBench(t, 3)
	v := b.volume("x", "n1", "n2", "n3")
	id := replicaOn("n3")
	forget := func(replica string, loss, commit bool) error {
		_, err := b.ForgetReplica(t.Context(), b.Record(v.ID), replica, loss, commit)
		return err
	}
	wantError(t, forget("absent", false, true), operator.ErrRefused)
	wantError(t, forget(id, false, true), operator.ErrRefused) // it is there
	b.change(v.ID, func(v *volume.Volume) { v.Replica(id).LvStore = "lost" })
	b.must(forget(id, false, false))
	if b.Record(v.ID).Replica(id) == nil {
		t.Fatal("showing has changed the record")
	}
	b.set(v.ID, "n1", volume.ReplicaOutOfSync)
	b.set(v.ID, "n2", volume.ReplicaOutOfSync)
	wantError(t, forget(id, false, true), operator.ErrLastCopy)
	b.must(forget(id, true, true))
	if v := b.Record(v.ID); v.Replica(id) != nil || len(v.Replicas) != 2 {
		t.Errorf("the record is %+v", v)
	}
}

func TestReplicaOfASilentNodeCanBeForgotten(t *testing.T) {
	b := newBench(t, 3)
	v := b.volume("x", "n1", "n2", "n3")
	b.Sim("n3").Kill()
	_, err := b.ForgetReplica(t.Context(), v, replicaOn("n3"), false, true)
	b.must(err)
	if b.Record(v.ID).Replica(replicaOn("n3")) != nil {
		t.Error("it is still on record")
	}
}

func TestReplicaThatCanNotBeLookedAtIsNotForgotten(t *testing.T) {
	b := newBench(t, 3)
	v := b.volume("x", "n1", "n2", "n3")
	fault := hangUp
	fault.Method = "bdev_get_bdevs"
	b.Sim("n3").AddRPCFault(fault)
	_, err := b.ForgetReplica(t.Context(), v, replicaOn("n3"), false, true)
	wantError(t, err, operator.ErrRefused)
}
