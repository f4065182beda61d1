package storetest

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Snapshot returns a record with every field in use.
func Snapshot(name string) *volume.Snapshot {
	return &volume.Snapshot{
		ID: volume.SnapshotIDFor(name), Name: name, UUID: uuid.New(), Source: volume.IDFor("source"), SizeBytes: 1 << 30, Phase: volume.SnapshotReady,
		For: volume.IDFor("clone"), Replicas: []volume.SnapshotReplica{
			{ID: "00000001", Replica: "0000000a", Node: "a", LvStore: "lvs", State: volume.SnapshotTaken, Bytes: 4 << 20},
			{ID: "00000002", Replica: "0000000b", Node: "b", LvStore: "lvs", State: volume.SnapshotRemoving},
		},
		FileSystem: volume.FileSystem{Type: "xfs", State: volume.FileSystemMade}, TakenAt: time.Unix(2, 0).UTC(), CreatedAt: time.Unix(1, 0).UTC(),
	}
}

func snapshotComesBackWhole(t *testing.T, s volume.Store) {
	sn := Snapshot("one")
	_, err := s.GetSnapshot(t.Context(), sn.ID)
	want(t, err, volume.ErrNoSnapshot)
	want(t, s.UpdateSnapshot(t.Context(), sn), volume.ErrNoSnapshot)
	want(t, s.DeleteSnapshot(t.Context(), sn), volume.ErrNoSnapshot)
	want(t, s.CreateSnapshot(t.Context(), sn), nil)
	want(t, s.CreateSnapshot(t.Context(), Snapshot("one")), volume.ErrExists)
	got, err := s.GetSnapshot(t.Context(), sn.ID)
	want(t, err, nil)
	if sn.Revision == 0 || !reflect.DeepEqual(got, sn) {
		t.Fatalf("put %+v, got %+v", sn, got)
	}
	got.Replicas[0].State = volume.SnapshotRemoving
	again, err := s.GetSnapshot(t.Context(), sn.ID)
	want(t, err, nil)
	if again.Replicas[0].State != volume.SnapshotTaken {
		t.Fatal("changing a returned record changed the store")
	}
	want(t, s.DeleteSnapshot(t.Context(), sn), nil)
	_, err = s.GetSnapshot(t.Context(), sn.ID)
	want(t, err, volume.ErrNoSnapshot)
}

func staleWriterOfASnapshotIsRefused(t *testing.T, s volume.Store) {
	sn := Snapshot("one")
	want(t, s.CreateSnapshot(t.Context(), sn), nil)
	stale := sn.Clone()
	sn.Phase = volume.SnapshotDeleting
	want(t, s.UpdateSnapshot(t.Context(), sn), nil)
	want(t, s.UpdateSnapshot(t.Context(), stale), volume.ErrConflict)
	want(t, s.DeleteSnapshot(t.Context(), stale), volume.ErrConflict)
}

func listOfSnapshotsPagesInOrder(t *testing.T, s volume.Store) {
	var ids, seen []string
	for i := range 10 {
		sn := Snapshot(fmt.Sprint("snapshot ", i))
		ids = append(ids, sn.ID)
		want(t, s.CreateSnapshot(t.Context(), sn), nil)
	}
	slices.Sort(ids)
	for after := ""; ; {
		page, err := s.ListSnapshots(t.Context(), after, 3)
		want(t, err, nil)
		if len(page) == 0 {
			break
		}
		for _, sn := range page {
			seen = append(seen, sn.ID)
		}
		after = page[len(page)-1].ID
	}
	if !slices.Equal(seen, ids) {
		t.Fatalf("listed %v\nwant %v", seen, ids)
	}
}

func wishesAreThoseThatTheOwnerHasLeft(t *testing.T, s volume.Store) {
	v := Volume("one")
	v.Owner = "n"
	want(t, s.Create(t.Context(), v), nil)
	for _, step := range []struct {
		owner string
		wish  *volume.SnapshotWish
		found bool
	}{
		{"n", nil, false},
		{"n", &volume.SnapshotWish{State: volume.WishWanted}, true},
		{"n", &volume.SnapshotWish{State: volume.WishPausing}, true},
		{"", &volume.SnapshotWish{State: volume.WishWanted}, false},
		{"other", &volume.SnapshotWish{State: volume.WishWanted}, false},
		{"n", &volume.SnapshotWish{State: volume.WishFailed}, false},
		{"n", &volume.SnapshotWish{State: volume.WishTaken}, false},
		{"n", &volume.SnapshotWish{State: volume.WishWanted}, true},
	} {
		v.Owner, v.Snapshot = step.owner, step.wish
		want(t, s.Update(t.Context(), v), nil)
		ids, err := s.Wishes(t.Context(), "n")
		want(t, err, nil)
		if (len(ids) == 1) != step.found {
			t.Errorf("%+v: %v", step, ids)
		}
	}
	v.Owner, v.Snapshot, v.Review = "other", nil, true
	v.Assembly = &volume.Assembly{Number: 1, RaidHost: "n1", Running: true}
	v.Publications = []volume.Publication{{Node: "other", Staged: true}, {Node: "n", Staged: true}}
	want(t, s.Update(t.Context(), v), nil)
	for _, node := range []string{"n", "other"} { // a guest and the owner
		if ids, err := s.Wishes(t.Context(), node); err != nil || len(ids) != 1 {
			t.Errorf("of %s: %v, %v", node, ids, err)
		}
	}
	want(t, s.Delete(t.Context(), v), nil)
	if ids, err := s.Wishes(t.Context(), "n"); err != nil || len(ids) > 0 {
		t.Errorf("of a volume that is gone: %v, %v", ids, err)
	}
}
