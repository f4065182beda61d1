package volume

import (
	"slices"
	"testing"
	"time"
)

func TestChangesOfReplicasAreThoseOfOneWrite(t *testing.T) {
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	before := &Volume{Replicas: []Replica{
		{ID: "a", State: ReplicaInSync, Since: begin}, {ID: "b", State: ReplicaRebuilding, Since: begin}, {ID: "gone", State: ReplicaRemoving, Since: begin},
	}}
	after := before.Clone()
	after.SetReplicaState("b", ReplicaInSync, begin.Add(time.Minute))
	after.Replicas = append(after.Replicas[:2], Replica{ID: "new", State: ReplicaPlanned, Since: begin.Add(time.Minute)})
	want := []ReplicaChange{{From: ReplicaRebuilding, To: ReplicaInSync, After: time.Minute}}
	if got := ReplicaChanges(before, after); !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := ReplicaChanges(nil, after); got != nil {
		t.Errorf("of a write of which nothing was seen: %+v", got)
	}
}
