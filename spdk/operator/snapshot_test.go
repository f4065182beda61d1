package operator_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk/operator"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

func (b *bench) snapshot(name string, nodes ...string) *volume.Snapshot {
	sn := &volume.Snapshot{ID: volume.SnapshotIDFor(name), Name: name, UUID: uuid.New(), Source: volume.IDFor("x"), Phase: volume.SnapshotReady}
	for _, node := range nodes {
		sn.Replicas = append(sn.Replicas, volume.SnapshotReplica{ID: replicaOn(node), Replica: replicaOn(node), Node: node, LvStore: "pool", State: volume.SnapshotTaken})
	}
	b.must(b.Store.CreateSnapshot(b.t.Context(), sn))
	return sn
}

func TestForgettingANodeTakesItsLvolsOffTheSnapshots(t *testing.T) {
	b := newBench(t, 3)
	sn := b.snapshot("s", "n1", "n3")
	b.Sim("n3").Kill()
	shown, err := b.ForgetNode(t.Context(), "n3", nil, false)
	b.must(err)
	if len(shown) != 1 || shown[0].Name() != "s" || len(shown[0].Lines) != 1 || len(shown[0].Lvols) != 1 || len(b.SnapshotRecord(sn.ID).Replicas) != 2 {
		t.Errorf("shown is %+v, on record %+v", shown, b.SnapshotRecord(sn.ID))
	}
	b.must(b.forget())
	if got := b.SnapshotRecord(sn.ID); len(got.Replicas) != 1 || got.Replicas[0].Node != "n1" {
		t.Errorf("on record is %+v", got)
	}
}

func TestTheLastLvolOfASnapshotIsForgottenOnlyIfThatIsAllowed(t *testing.T) {
	b := newBench(t, 3)
	sn := b.snapshot("s", "n3")
	b.Sim("n3").Kill()
	wantError(t, b.forget(), operator.ErrLastCopy)
	if len(b.SnapshotRecord(sn.ID).Replicas) != 1 {
		t.Fatal("it is off the record")
	}
	b.must(b.forget(sn.ID))
	if len(b.SnapshotRecord(sn.ID).Replicas) != 0 {
		t.Error("it is still on record")
	}
}
