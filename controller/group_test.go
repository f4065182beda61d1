package controller_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

func (b *bench) group(name string, sources ...string) (*csi.VolumeGroupSnapshot, error) {
	resp, err := b.CreateVolumeGroupSnapshot(within(b.t), &csi.CreateVolumeGroupSnapshotRequest{Name: name, SourceVolumeIds: sources})
	return resp.GetGroupSnapshot(), err
}

func (b *bench) removeGroup(id string, snapshots ...string) error {
	_, err := b.DeleteVolumeGroupSnapshot(within(b.t), &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: id, SnapshotIds: snapshots})
	return err
}

// sources makes volumes of two replicas that begin with 1s.
func (b *bench) sources(prefix string, n int) []string {
	b.t.Helper()
	var ids []string
	for i := range n {
		id := made(b, fmt.Sprint(prefix, i))
		b.fill(id, 1)
		ids = append(ids, id)
	}
	return ids
}

// wantGroup checks that a group is ready and complete, whose snapshots begin with the same bytes.
func (b *bench) wantGroup(id string, sources []string, with byte) {
	b.t.Helper()
	resp, err := b.GetVolumeGroupSnapshot(within(b.t), &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: id})
	b.must(err)
	g := resp.GetGroupSnapshot()
	if g.GetGroupSnapshotId() != id || !g.GetReadyToUse() || g.GetCreationTime().AsTime().IsZero() {
		b.t.Errorf("the group is %+v", g)
	}
	var of []string
	for _, sn := range g.GetSnapshots() {
		of = append(of, sn.GetSourceVolumeId())
		if sn.GetGroupSnapshotId() != id || !sn.GetReadyToUse() {
			b.t.Errorf("its snapshot is %+v", sn)
		}
		b.wantTaken(sn.GetSnapshotId(), 2, with)
	}
	if !slices.Equal(slices.Sorted(slices.Values(of)), slices.Sorted(slices.Values(sources))) {
		b.t.Errorf("it has snapshots of %v, want %v", of, sources)
	}
	for _, source := range sources {
		if v := b.Record(source); v.Snapshot != nil {
			b.t.Errorf("the wish is still on record of %s: %+v", source, v.Snapshot)
		}
	}
}

func TestGroupSnapshotLivesAndGoesAsAWhole(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	sources := b.sources("source", 3)
	g, err := b.group("g", sources...)
	b.must(err)
	for _, id := range sources {
		b.fill(id, 2)
	}
	slices.Reverse(sources)
	again, err := b.group("g", sources...)
	b.must(err)
	if again.GetGroupSnapshotId() != g.GetGroupSnapshotId() || len(again.GetSnapshots()) != 3 {
		t.Errorf("again: %+v, first %+v", again, g)
	}
	b.wantGroup(g.GetGroupSnapshotId(), sources, 1)
	var members []string
	for _, sn := range g.GetSnapshots() {
		members = append(members, sn.GetSnapshotId())
		if err := b.removeSnapshot(sn.GetSnapshotId()); status.Code(err) != codes.InvalidArgument {
			t.Errorf("a member alone is deleted: %v", err)
		}
		one, err := b.GetSnapshot(within(t), &csi.GetSnapshotRequest{SnapshotId: sn.GetSnapshotId()})
		b.must(err)
		if one.GetSnapshot().GetGroupSnapshotId() != g.GetGroupSnapshotId() {
			t.Errorf("GetSnapshot answers %+v", one)
		}
	}
	list, err := b.ListSnapshots(within(t), &csi.ListSnapshotsRequest{})
	b.must(err)
	if len(list.Entries) != 3 || list.Entries[0].Snapshot.GroupSnapshotId != g.GetGroupSnapshotId() {
		t.Errorf("listed are %v", list.Entries)
	}
	restored := b.mustCreate(from(order("restored", 8*mib, volume.ParamReplicas, "2"), members[1]))
	b.wantFill(restored, 1)
	if err := b.removeGroup(g.GetGroupSnapshotId(), members[:2]...); status.Code(err) != codes.InvalidArgument {
		t.Errorf("with other members it is deleted: %v", err)
	}
	b.must(b.removeGroup(g.GetGroupSnapshotId(), members...))
	b.must(b.removeGroup(g.GetGroupSnapshotId()))
	_, err = b.GetVolumeGroupSnapshot(within(t), &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: g.GetGroupSnapshotId()})
	wantError(t, err, volume.ErrNoSnapshot)
	for _, id := range append(sources, restored) {
		b.must(b.remove(id))
	}
	for range 2 {
		b.must(b.Sweep(within(t)))
	}
	b.WantEmpty()
}

func TestGroupsThatCannotBeAreRefused(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	sources := b.sources("source", 2)
	for what, ids := range map[string][]string{"none": nil, "one twice": {sources[0], sources[1], sources[0]}, "an empty ID": {sources[0], ""}} {
		if _, err := b.group("g", ids...); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, absent := range []string{volume.IDFor("absent"), "another driver's"} {
		_, err := b.group("g", sources[0], absent)
		wantError(t, err, volume.ErrNotFound)
	}
	if left, err := b.Store.ListSnapshots(t.Context(), "", 0); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	g, err := b.group("g", sources...)
	b.must(err)
	for _, other := range [][]string{sources[:1], append(b.sources("other", 1), sources...)} {
		_, err = b.group("g", other...)
		wantError(t, err, volume.ErrSnapshotDiffers)
	}
	_, err = b.GetVolumeGroupSnapshot(within(t), &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: volume.GroupIDFor("absent")})
	wantError(t, err, volume.ErrNoSnapshot)
	b.must(b.removeGroup(volume.GroupIDFor("absent")))
	b.must(b.removeGroup("no ID of ours"))
	b.wantGroup(g.GetGroupSnapshotId(), sources, 1)
}

// A volume is deleted before the group is taken: the group is given up, and nothing of it is left.
func TestGroupOfAVolumeThatGoesIsGivenUp(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	sources := b.sources("source", 2)
	b.own(sources[1], "a node service that does nothing")
	short, cancel := context.WithTimeout(within(t), 200*time.Millisecond)
	defer cancel()
	_, err := b.CreateVolumeGroupSnapshot(short, &csi.CreateVolumeGroupSnapshotRequest{Name: "g", SourceVolumeIds: sources})
	if !errors.Is(err, volume.ErrBusy) && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	if list, err := b.ListSnapshots(within(t), &csi.ListSnapshotsRequest{}); err != nil || len(list.Entries) > 0 {
		t.Errorf("listed are %v, %v", list, err)
	}
	b.own(sources[1], "")
	b.must(b.remove(sources[1]))
	_, err = b.group("g", sources...)
	wantError(t, err, volume.ErrNotFound)
	b.must(b.Sweep(within(t)))
	b.must(b.remove(sources[0]))
	b.WantEmpty()
}

// own makes a node service the owner of a volume, or nobody, as staging does.
func (b *bench) own(id, owner string) {
	b.t.Helper()
	_, err := volume.Modify(b.t.Context(), b.Store, id, func(v *volume.Volume) (bool, error) {
		v.VoidSnapshot("it changes hands")
		v.Owner = owner
		return true, nil
	})
	b.must(err)
}

// everyGroupStep runs a flow of a group of two volumes with each of its steps failing in each mode.
func everyGroupStep(t *testing.T, prepare, flow func(b *bench, name string, sources []string) error, check func(b *bench, name string, sources []string)) {
	t.Parallel()
	cluster.Every(t, func(t *testing.T, steps *cluster.Steps) func(*testing.T, func(func() error) bool) {
		b := newBench(t, 3, cluster.Options{Steps: steps})
		count := 0
		return func(t *testing.T, faulty func(func() error) bool) {
			count++
			name := fmt.Sprintf("g-%d", count)
			sources := b.sources(name, 2)
			b.must(prepare(b, name, sources))
			if faulty(func() error { return flow(b, name, sources) }) {
				b.restart()
			}
			b.wantAllOrNothing(name)
			if err := flow(b, name, sources); err != nil {
				t.Fatalf("again, without a fault: %v", err)
			}
			check(b, name, sources)
			b.must(b.removeGroup(volume.GroupIDFor(name)))
			for _, id := range sources {
				b.must(b.remove(id))
			}
			for range 2 {
				b.must(b.Sweep(within(t)))
			}
			b.WantEmpty()
		}
	})
}

// wantAllOrNothing checks that after a sweep, whatever was cut short, either all snapshots of a group are listed or none is.
func (b *bench) wantAllOrNothing(name string) {
	b.t.Helper()
	b.must(b.Sweep(within(b.t)))
	list, err := b.ListSnapshots(within(b.t), &csi.ListSnapshotsRequest{})
	b.must(err)
	listed := 0
	for _, e := range list.Entries {
		if e.GetSnapshot().GetGroupSnapshotId() == volume.GroupIDFor(name) {
			listed++
		}
	}
	if listed != 0 && listed != 2 {
		b.t.Errorf("%d of 2 snapshots of the group are listed", listed)
	}
}

func createGroup(b *bench, name string, sources []string) error {
	_, err := b.group(name, sources...)
	return err
}

func TestEveryStepOfCreateGroupMayFail(t *testing.T) {
	everyGroupStep(t, func(*bench, string, []string) error { return nil }, createGroup,
		func(b *bench, name string, sources []string) { b.wantGroup(volume.GroupIDFor(name), sources, 1) })
}

func TestEveryStepOfDeleteGroupMayFail(t *testing.T) {
	everyGroupStep(t, createGroup,
		func(b *bench, name string, _ []string) error { return b.removeGroup(volume.GroupIDFor(name)) },
		func(b *bench, name string, _ []string) {
			b.must(b.Sweep(within(b.t)))
			if left, err := b.Store.ListSnapshots(b.t.Context(), "", 0); err != nil || len(left) > 0 {
				b.t.Errorf("left are %v, %v", left, err)
			}
		})
}
