package operator_test

import (
	"errors"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

var errDown = errors.New("connection refused")

func TestShowTellsWhatIsWrongWithEachReplica(t *testing.T) {
	b := newBench(t, 4)
	v := b.volume("x", "n1", "n2", "n3", "n4")
	b.change(v.ID, func(v *volume.Volume) {
		v.Replica(replicaOn("n2")).LvStore = "other"
		v.Replica(replicaOn("n3")).ID = "elsewhere"
	})
	b.Sim("n4").Kill()
	d, err := b.Show(t.Context(), "x")
	b.must(err)
	type seen struct{ usable, answers, missing bool }
	for i, want := range []seen{{true, true, false}, {false, true, true}, {false, true, true}, {false, false, false}} {
		r := d.Replicas[i]
		if got := (seen{r.Usable(), r.Answers, r.Missing}); got != want {
			t.Errorf("replica on %s: got %+v, want %+v (%s)", r.Node, got, want, r.Problem)
		}
	}
}

func TestVolumeIsFoundByItsIDAndByItsName(t *testing.T) {
	b := newBench(t, 1)
	v := b.volume("x", "n1")
	for _, name := range []string{"x", v.ID} {
		found, err := b.Find(t.Context(), name)
		b.must(err)
		if found.ID != v.ID {
			t.Errorf("%q finds %s", name, found.ID)
		}
	}
	_, err := b.Find(t.Context(), "y")
	wantError(t, err, volume.ErrNotFound)
}

func TestNodesListsWhatRecordsNameToo(t *testing.T) {
	b := newBench(t, 2)
	v := b.volume("x", "n1", "n2")
	b.use(v.ID, "n1")
	b.change(v.ID, func(v *volume.Volume) {
		v.Replica(replicaOn("n2")).State = volume.ReplicaOutOfSync
		v.Retired = []volume.Assembly{{Number: 9, RaidHost: "former"}}
	})
	b.Sim("n2").Kill()
	nodes, err := b.Nodes(t.Context())
	b.must(err)
	if len(nodes) != 3 {
		t.Fatalf("listed %+v", nodes)
	}
	if n := nodes[0]; n.Name != "n1" || n.Problem != "" || n.Version == "" || n.Running != 1 || n.Replicas != 1 || n.NotInSync != 0 || n.FreeBytes == 0 {
		t.Errorf("n1: %+v", n)
	}
	if n := nodes[1]; n.Name != "n2" || n.Problem == "" || n.Replicas != 1 || n.NotInSync != 1 {
		t.Errorf("n2: %+v", n)
	}
	if n := nodes[2]; n.Name != "former" || n.Problem == "" || n.Retired != 1 {
		t.Errorf("former: %+v", n)
	}
}
