package controller

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// sweptServer is a controller that has swept over volumes with three replicas on ten SPDK nodes, each with all its lvols.
func sweptServer(t testing.TB, count int) (*Server, sweep) {
	t.Helper()
	p, err := volume.ParseParameters(nil)
	if err != nil {
		t.Fatal(err)
	}
	var nodes []*converge.Node
	read := sweep{begin: time.Now(), stocks: map[string]lvolStock{}}
	for n := range 10 {
		name := fmt.Sprintf("n%d", n)
		nodes = append(nodes, &converge.Node{Name: name, OnlyLvStores: []string{"lvs"}})
		read.stocks[name] = lvolStock{
			lvstores: map[string]bool{"lvs": true, "other": true}, lvols: map[string]bool{},
			pools: []spdk.LvStore{{Name: "lvs", TotalBytes: 1 << 40, FreeBytes: 1 << 39}, {Name: "other"}},
		}
	}
	s := &Server{cluster: converge.NewCluster(nodes), clock: clock.RealClock{}, ledger: newLedger(1)}
	for i := range count {
		v := &volume.Volume{ID: fmt.Sprint(i), Name: fmt.Sprint(i), UUID: uuid.New(), Parameters: p, Phase: volume.PhaseReady, SizeBytes: 1 << 30}
		for k := range 3 {
			r := volume.Replica{ID: fmt.Sprintf("%08x", k), Node: fmt.Sprintf("n%d", (i+k)%10), LvStore: "lvs", State: volume.ReplicaInSync}
			v.Replicas = append(v.Replicas, r)
			read.stocks[r.Node].lvols["lvs/"+v.LvolName(r)] = true
		}
		read.volumes = append(read.volumes, v)
		s.ledger.set(v)
	}
	return s, read
}

func TestStatusIsWhatTheLastSweepSaw(t *testing.T) {
	s, read := sweptServer(t, 4) // their replicas are on n0,1,2 n1,2,3 n2,3,4 n3,4,5
	down := read.stocks["n2"]
	down.err, down.pools = errors.New("refused"), nil
	down.lvols["lvs/hf-0-orphan"] = true
	read.stocks["n2"] = down
	read.volumes[1].Replicas[0].State = volume.ReplicaRebuilding // with the one on n2 gone, one good replica is left
	read.volumes[3].Replicas[0].State = volume.ReplicaRebuilding
	at := time.Now()
	s.swept.keep(read, at)
	status := s.Status()
	var states []condition.State
	for _, v := range status.Volumes {
		states = append(states, v.State)
	}
	if want := []condition.State{condition.StateDegraded, condition.StateAtRisk, condition.StateDegraded, condition.StateRebuilding}; !slices.Equal(states, want) {
		t.Errorf("the volumes are %q, want %q", states, want)
	}
	if !status.SweptAt.Equal(at) || len(status.SPDKNodes) != 10 || status.SPDKNodes["n2"] || !status.SPDKNodes["n3"] {
		t.Errorf("swept at %s, nodes %v", status.SweptAt, status.SPDKNodes)
	}
	if len(status.LvStores) != 9 {
		t.Errorf("lvstores %+v, want those of nodes that answer, as far as they may be used", status.LvStores)
	}
	for _, l := range status.LvStores {
		if want := map[string]int64{"n0": 1 << 30, "n1": 2 << 30, "n3": 3 << 30, "n4": 2 << 30, "n5": 1 << 30}[l.Node]; l.Name != "lvs" || l.CommittedBytes != want {
			t.Errorf("%+v, want %d bytes to be promised", l, want)
		}
	}
}

func TestOrphansAreLvolsOfOursThatNoRecordSpeaksOf(t *testing.T) {
	s, read := sweptServer(t, 1)
	sn := &volume.Snapshot{UUID: uuid.New(), Replicas: []volume.SnapshotReplica{{ID: "00000001", Node: "n1", LvStore: "lvs", State: volume.SnapshotTaken}}}
	wish := &volume.SnapshotWish{UUID: uuid.New(), Replicas: []volume.SnapshotReplica{{ID: "00000002", Node: "n1", LvStore: "lvs"}}}
	read.snapshots, read.volumes[0].Snapshot = []*volume.Snapshot{sn}, wish
	for _, name := range []string{
		sn.LvolName(sn.Replicas[0]), volume.SnapshotLvolName(wish.UUID, "00000002"), "somebody-else's", volume.SnapshotLvolName(uuid.New(), "00000003"),
	} {
		read.stocks["n1"].lvols["lvs/"+name] = true
	}
	silent := read.stocks["n9"]
	silent.err = errors.New("refused")
	silent.lvols["lvs/hf-orphan"] = true
	read.stocks["n9"] = silent
	s.swept.keep(read, time.Now())
	orphans := s.Status().Orphans
	if _, told := orphans["n9"]; told || len(orphans) != 9 {
		t.Errorf("told of %v", slices.Sorted(maps.Keys(orphans)))
	}
	for node, count := range orphans {
		if want := map[string]int{"n1": 1}[node]; count != want {
			t.Errorf("%d orphans on %s, want %d", count, node, want)
		}
	}
}

// What a scrape of the controller costs with 10,000 volumes.
func BenchmarkStatus(b *testing.B) {
	s, read := sweptServer(b, 10_000)
	s.swept.keep(read, time.Now())
	for b.Loop() {
		_ = s.Status()
	}
}
