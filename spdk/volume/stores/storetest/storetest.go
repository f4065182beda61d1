// Package storetest is the suite that every implementation of volume.Store passes.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Volume returns a record with every field in use.
func Volume(name string) *volume.Volume {
	p, err := volume.ParseParameters(map[string]string{volume.ParamNodeSelector: "disk=nvme"})
	if err != nil {
		panic(err)
	}
	return &volume.Volume{
		ID: volume.IDFor(name), Name: name, UUID: uuid.New(), SizeBytes: 1 << 30, Parameters: p, Phase: volume.PhaseReady,
		Replicas: []volume.Replica{
			{ID: "00000001", Node: "a", LvStore: "lvs", State: volume.ReplicaInSync, Since: time.Unix(1, 0).UTC()},
			{ID: "00000002", Node: "b", LvStore: "lvs", State: volume.ReplicaSuspect, Since: time.Unix(2, 0).UTC()},
		},
		Publications: []volume.Publication{{Node: "n", Mode: volume.AccessSingleNodeWriter}},
		Assembly:     &volume.Assembly{Number: 2, RaidHost: "a", Legs: []string{"00000001"}},
		Retired:      []volume.Assembly{{Number: 1, RaidHost: "b", Legs: []string{"00000001", "00000002"}}},
		Assemblies:   2,
		FileSystem:   volume.FileSystem{Type: "ext4", State: volume.FileSystemMade},
		Content:      &volume.Content{Snapshot: volume.SnapshotIDFor("s")},
		CreatedAt:    time.Unix(0, 0).UTC(),
	}
}

// Run runs the suite; open returns an empty store.
func Run(t *testing.T, open func(t *testing.T) volume.Store) {
	for name, test := range map[string]func(*testing.T, volume.Store){
		"AbsentIsNotFound":                  absentIsNotFound,
		"RecordComesBackWhole":              recordComesBackWhole,
		"CreateTwiceIsRefused":              createTwiceIsRefused,
		"StaleWriterIsRefused":              staleWriterIsRefused,
		"DeletedRecordIsNotWrittenAgain":    deletedRecordIsNotWrittenAgain,
		"RecreatedRecordRefusesOldRevision": recreatedRecordRefusesOldRevision,
		"ListPagesInOrder":                  listPagesInOrder,
		"ConcurrentModifyLosesNothing":      concurrentModifyLosesNothing,
		"HostComesBack":                     hostComesBack,
		"SecondMachineOfANameIsRefused":     secondMachineOfANameIsRefused,
		"ReturnedRecordIsACopy":             returnedRecordIsACopy,
		"SnapshotComesBackWhole":            snapshotComesBackWhole,
		"StaleWriterOfASnapshotIsRefused":   staleWriterOfASnapshotIsRefused,
		"ListOfSnapshotsPagesInOrder":       listOfSnapshotsPagesInOrder,
		"WishesAreThoseThatTheOwnerHasLeft": wishesAreThoseThatTheOwnerHasLeft,
		"CordonStaysUntilItIsTakenBack":     cordonStaysUntilItIsTakenBack,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func want(t *testing.T, err, sentinel error) {
	t.Helper()
	if !errors.Is(err, sentinel) {
		t.Fatalf("want %v, got %v", sentinel, err)
	}
}

func absentIsNotFound(t *testing.T, s volume.Store) {
	v := Volume("absent")
	_, err := s.Get(t.Context(), v.ID)
	want(t, err, volume.ErrNotFound)
	want(t, s.Update(t.Context(), v), volume.ErrNotFound)
	want(t, s.Delete(t.Context(), v), volume.ErrNotFound)
}

func recordComesBackWhole(t *testing.T, s volume.Store) {
	v := Volume("one")
	want(t, s.Create(t.Context(), v), nil)
	if v.Revision == 0 {
		t.Fatal("Create sets no revision")
	}
	got, err := s.Get(t.Context(), v.ID)
	want(t, err, nil)
	if a, b := fmt.Sprintf("%+v %+v", *v, *v.Assembly), fmt.Sprintf("%+v %+v", *got, *got.Assembly); got.Revision != v.Revision ||
		!got.Parameters.Equal(v.Parameters) || !slices.Equal(got.Replicas, v.Replicas) || got.FileSystem != v.FileSystem || len(got.Retired) != 1 {
		t.Fatalf("put %s\ngot %s", a, b)
	}
}

func createTwiceIsRefused(t *testing.T, s volume.Store) {
	want(t, s.Create(t.Context(), Volume("one")), nil)
	want(t, s.Create(t.Context(), Volume("one")), volume.ErrExists)
}

func staleWriterIsRefused(t *testing.T, s volume.Store) {
	v := Volume("one")
	want(t, s.Create(t.Context(), v), nil)
	stale := v.Clone()
	v.SizeBytes = 2 << 30
	want(t, s.Update(t.Context(), v), nil)
	stale.SizeBytes = 3 << 30
	want(t, s.Update(t.Context(), stale), volume.ErrConflict)
	want(t, s.Delete(t.Context(), stale), volume.ErrConflict)
	got, err := s.Get(t.Context(), v.ID)
	want(t, err, nil)
	if got.SizeBytes != 2<<30 {
		t.Fatalf("the stale writer won: %d bytes", got.SizeBytes)
	}
}

func deletedRecordIsNotWrittenAgain(t *testing.T, s volume.Store) {
	v := Volume("one")
	want(t, s.Create(t.Context(), v), nil)
	want(t, s.Delete(t.Context(), v), nil)
	want(t, s.Update(t.Context(), v), volume.ErrNotFound)
}

func recreatedRecordRefusesOldRevision(t *testing.T, s volume.Store) {
	old := Volume("one")
	want(t, s.Create(t.Context(), old), nil)
	want(t, s.Delete(t.Context(), old), nil)
	want(t, s.Create(t.Context(), Volume("one")), nil)
	want(t, s.Update(t.Context(), old), volume.ErrConflict)
}

func listPagesInOrder(t *testing.T, s volume.Store) {
	var ids []string
	for i := range 25 {
		v := Volume(fmt.Sprint("volume ", i))
		ids = append(ids, v.ID)
		want(t, s.Create(t.Context(), v), nil)
	}
	slices.Sort(ids)
	var seen []string
	for after := ""; ; {
		page, err := s.List(t.Context(), after, 7)
		want(t, err, nil)
		if len(page) == 0 {
			break
		}
		for _, v := range page {
			seen = append(seen, v.ID)
		}
		after = page[len(page)-1].ID
	}
	if !slices.Equal(seen, ids) {
		t.Fatalf("listed %v\nwant %v", seen, ids)
	}
	gone, err := s.List(t.Context(), ids[10][:10], 0)
	want(t, err, nil)
	if len(gone) != 15 {
		t.Fatalf("from a key that is not there: %d records", len(gone))
	}
}

func concurrentModifyLosesNothing(t *testing.T, s volume.Store) {
	v := Volume("one")
	v.Assemblies = 0
	want(t, s.Create(t.Context(), v), nil)
	const writers, rounds = 8, 10
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range rounds {
				_, err := volume.Modify(context.Background(), s, v.ID, func(v *volume.Volume) (bool, error) {
					v.Assemblies++
					return true, nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got, err := s.Get(t.Context(), v.ID)
	want(t, err, nil)
	if got.Assemblies != writers*rounds {
		t.Fatalf("%d of %d changes are there", got.Assemblies, writers*rounds)
	}
}

func returnedRecordIsACopy(t *testing.T, s volume.Store) {
	v := Volume("one")
	want(t, s.Create(t.Context(), v), nil)
	got, err := s.Get(t.Context(), v.ID)
	want(t, err, nil)
	got.Replicas[0].State = volume.ReplicaOutOfSync
	again, err := s.Get(t.Context(), v.ID)
	want(t, err, nil)
	if again.Replicas[0].State != volume.ReplicaInSync {
		t.Fatal("changing a returned record changed the store")
	}
}

func hostComesBack(t *testing.T, s volume.Store) {
	_, err := s.Host(t.Context(), "n")
	want(t, err, volume.ErrHostUnknown)
	for _, h := range []volume.Host{{Name: "n", MachineID: "1"}, {Name: "n", MachineID: "2"}} {
		want(t, s.PutHost(t.Context(), h), nil)
		got, err := s.Host(t.Context(), "n")
		want(t, err, nil)
		if got != h {
			t.Fatalf("put %v, got %v", h, got)
		}
	}
}

func secondMachineOfANameIsRefused(t *testing.T, s volume.Store) {
	first, second := volume.Host{Name: "n", MachineID: "1"}, volume.Host{Name: "n", MachineID: "2"}
	want(t, volume.RegisterHost(t.Context(), s, first), nil)
	want(t, volume.RegisterHost(t.Context(), s, first), nil)
	v := Volume("published to n")
	want(t, s.Create(t.Context(), v), nil)
	want(t, volume.RegisterHost(t.Context(), s, second), volume.ErrInUse)
	v.Publications = nil
	want(t, s.Update(t.Context(), v), nil)
	want(t, volume.RegisterHost(t.Context(), s, second), nil)
}
