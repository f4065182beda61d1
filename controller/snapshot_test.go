package controller_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

func (b *bench) snapshot(name, source string) (string, error) {
	resp, err := b.CreateSnapshot(within(b.t), &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: source})
	return resp.GetSnapshot().GetSnapshotId(), err
}

func (b *bench) mustSnapshot(name, source string) string {
	b.t.Helper()
	id, err := b.snapshot(name, source)
	b.must(err)
	return id
}

func (b *bench) removeSnapshot(id string) error {
	_, err := b.DeleteSnapshot(within(b.t), &csi.DeleteSnapshotRequest{SnapshotId: id})
	return err
}

// from is an order of a volume that is made of a snapshot or of a volume.
func from(r *csi.CreateVolumeRequest, id string) *csi.CreateVolumeRequest {
	if volume.ValidSnapshotID(id) {
		r.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id}}}
	} else {
		r.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id}}}
	}
	return r
}

// fill writes the same bytes to every in-sync replica of a volume that nobody uses, as if a host had.
func (b *bench) fill(id string, with byte) {
	b.t.Helper()
	v := b.Record(id)
	for _, r := range v.InState(volume.ReplicaInSync) {
		b.must(b.Sim(r.Node).WriteBdev(b.t.Context(), r.LvStore+"/"+v.LvolName(r), bytes.Repeat([]byte{with}, 4096), 0))
	}
}

// wantFill checks what every in-sync replica begins with.
func (b *bench) wantFill(id string, with byte) {
	b.t.Helper()
	v := b.Record(id)
	for _, r := range v.InState(volume.ReplicaInSync) {
		p := make([]byte, 4096)
		b.must(b.Sim(r.Node).ReadBdev(b.t.Context(), r.LvStore+"/"+v.LvolName(r), p, 0))
		if !bytes.Equal(p, bytes.Repeat([]byte{with}, 4096)) {
			b.t.Errorf("replica %s on %s begins with %x, want %x", r.ID, r.Node, p[0], with)
		}
	}
}

// wantTaken checks that a snapshot is ready with so many replicas, whose lvols begin with the same bytes.
func (b *bench) wantTaken(id string, replicas int, with byte) {
	b.t.Helper()
	b.must(b.Sweep(within(b.t)))
	sn := b.SnapshotRecord(id)
	if sn.Phase != volume.SnapshotReady || len(sn.Replicas) != replicas || len(sn.InState(volume.SnapshotTaken)) != replicas {
		b.t.Fatalf("the snapshot is %s with %+v", sn.Phase, sn.Replicas)
	}
	for _, r := range sn.Replicas {
		p := make([]byte, 4096)
		b.must(b.Sim(r.Node).ReadBdev(b.t.Context(), r.LvStore+"/"+sn.LvolName(r), p, 0))
		if p[0] != with {
			b.t.Errorf("the snapshot on %s begins with %x, want %x", r.Node, p[0], with)
		}
	}
}

func TestSnapshotAndRestoredVolumeLiveOnWithoutTheirSource(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("source", 8*mib))
	b.fill(id, 1)
	sn := b.mustSnapshot("s", id)
	b.fill(id, 2)
	b.wantTaken(sn, 3, 1)
	b.must(b.remove(id))
	restored := b.mustCreate(from(order("restored", 8*mib), sn))
	b.wantFill(restored, 1)
	b.wantCreated(restored, 3)
	b.must(b.removeSnapshot(sn))
	b.must(b.Sweep(within(t)))
	b.wantFill(restored, 1)
	b.must(b.publish(restored))
	b.must(b.unpublish(restored))
	b.must(b.remove(restored))
	b.WantEmpty()
}

func TestCloneIsTheVolumeAsItWas(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("source", 8*mib))
	b.fill(id, 1)
	resp, err := b.CreateVolume(within(t), from(order("clone", 16*mib), id))
	b.must(err)
	clone := resp.GetVolume().GetVolumeId()
	if resp.GetVolume().GetContentSource().GetVolume().GetVolumeId() != id || resp.GetVolume().GetCapacityBytes() != 16*mib {
		t.Errorf("answered %+v", resp.GetVolume())
	}
	b.fill(id, 2)
	b.wantFill(clone, 1)
	b.wantCreated(clone, 3)
	if again := b.mustCreate(from(order("clone", 16*mib), id)); again != clone {
		t.Errorf("again: %s", again)
	}
	list, err := b.ListSnapshots(within(t), &csi.ListSnapshotsRequest{})
	b.must(err)
	if len(list.Entries) > 0 {
		t.Errorf("the clone's own snapshot is listed: %v", list.Entries)
	}
	b.must(b.remove(id))
	b.must(b.Sweep(within(t)))
	b.wantFill(clone, 1)
	b.must(b.remove(clone))
	b.must(b.Sweep(within(t)))
	b.WantEmpty()
}

func TestSnapshotWithClonesIsDeletedWithAllButOneOfThem(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("source", 8*mib))
	b.fill(id, 1)
	sn := b.mustSnapshot("s", id)
	first, second := b.mustCreate(from(order("first", 8*mib), sn)), b.mustCreate(from(order("second", 8*mib), sn))
	b.must(b.removeSnapshot(sn))
	b.must(b.removeSnapshot(sn))
	b.must(b.Sweep(within(t)))
	if phase := b.SnapshotRecord(sn).Phase; phase != volume.SnapshotDeleting {
		t.Errorf("the snapshot is %s", phase)
	}
	list, err := b.ListSnapshots(within(t), &csi.ListSnapshotsRequest{SourceVolumeId: id})
	b.must(err)
	if len(list.Entries) > 0 {
		t.Errorf("it is listed: %v", list.Entries)
	}
	_, err = b.create(from(order("third", 8*mib), sn))
	wantError(t, err, volume.ErrPrecondition)
	_, err = b.snapshot("s", id)
	wantError(t, err, volume.ErrBusy)
	for _, gone := range []string{id, first} {
		b.must(b.remove(gone))
		b.must(b.Sweep(within(t)))
	}
	b.wantFill(second, 1)
	if _, err := b.Store.GetSnapshot(t.Context(), sn); !errors.Is(err, volume.ErrNoSnapshot) {
		t.Errorf("the snapshot is still on record: %v", err)
	}
	b.must(b.remove(second))
	b.WantEmpty()
}

func TestContentSourcesThatCannotBeUsedAreRefused(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("source", 16*mib))
	sn := b.mustSnapshot("s", id)
	for name, want := range map[string]error{volume.SnapshotIDFor("absent"): volume.ErrNoSnapshot, volume.IDFor("absent"): volume.ErrNotFound} {
		_, err := b.create(from(order("x", 16*mib), name))
		wantError(t, err, want)
	}
	for _, source := range []string{sn, id} {
		if _, err := b.create(from(order("smaller", 8*mib), source)); err == nil {
			t.Error("a smaller volume was made")
		}
	}
	restored := b.mustCreate(from(order("restored", 16*mib, volume.ParamReplicas, "2"), sn))
	for _, other := range []*csi.CreateVolumeRequest{order("restored", 16*mib), from(order("restored", 16*mib), id)} {
		_, err := b.create(other)
		wantError(t, err, volume.ErrIncompatible)
	}
	_, err := b.snapshot("s", restored)
	wantError(t, err, volume.ErrSnapshotDiffers)
	_, err = b.snapshot("of nothing", volume.IDFor("absent"))
	wantError(t, err, volume.ErrNotFound)
	b.must(b.removeSnapshot("no ID of ours"))
	b.must(b.removeSnapshot(volume.SnapshotIDFor("absent")))
}

// The snapshot lacks the replica of a node that is down, and a volume made of it has an empty one, to be rebuilt, in its place.
func TestSnapshotOfADegradedVolumeAndWhatIsMadeOfIt(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("source", 8*mib))
	b.fill(id, 1)
	b.kill("n2")
	sn := b.mustSnapshot("s", id)
	b.start("n2")
	b.wantTaken(sn, 2, 1)
	restored := b.mustCreate(from(order("restored", 8*mib), sn))
	v := b.Record(restored)
	if len(v.InState(volume.ReplicaInSync)) != 2 || len(v.InState(volume.ReplicaOutOfSync)) != 1 || on(v, "n2").State != volume.ReplicaOutOfSync {
		t.Fatalf("the restored volume has %+v", v.Replicas)
	}
	b.wantFill(restored, 1)
}

func TestFileSystemOnRecordCarriesOver(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("source", 8*mib))
	v := b.Record(id)
	v.FileSystem = volume.FileSystem{Type: "ext4", State: volume.FileSystemMade}
	b.must(b.Store.Update(t.Context(), v))
	sn := b.mustSnapshot("s", id)
	for _, made := range []string{b.mustCreate(from(order("restored", 8*mib), sn)), b.mustCreate(from(order("clone", 8*mib), id))} {
		if fs := b.Record(made).FileSystem; fs != v.FileSystem {
			t.Errorf("%s: the record says %+v", made, fs)
		}
	}
}

func TestSnapshotThatDoesNotFitIsRefusedBeforeAnythingIsTaken(t *testing.T) {
	b := newBench(t, 3, cluster.Options{PoolBytes: 256 * mib})
	thick := b.mustCreate(order("thick", 128*mib, volume.ParamThin, "false"))
	_, err := b.snapshot("s", thick)
	wantError(t, err, volume.ErrNoSpace)
	if v := b.Record(thick); v.Snapshot != nil {
		t.Errorf("a wish is on record: %+v", v.Snapshot)
	}
	b.must(b.removeSnapshot(volume.SnapshotIDFor("s")))
	b.must(b.remove(thick))
	b.WantEmpty()
}

// What a snapshot holds is promised to it, and comes back with it.
func TestSnapshotsCountAsPromised(t *testing.T) {
	b := newBench(t, 3, cluster.Options{PoolBytes: 256 * mib})
	id := b.mustCreate(order("thick", 64*mib, volume.ParamThin, "false"))
	sn := b.mustSnapshot("s", id)
	b.restart()
	_, err := b.create(order("too much", 160*mib))
	wantError(t, err, volume.ErrNoSpace)
	b.must(b.removeSnapshot(sn))
	b.mustCreate(order("fits now", 160*mib))
}

func TestListOfSnapshotsIsPagedAndFiltered(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	sources := []string{b.mustCreate(order("a", 8*mib)), b.mustCreate(order("b", 8*mib))}
	made := map[string]string{}
	for i := range 6 {
		made[b.mustSnapshot(fmt.Sprint("s", i), sources[i%2])] = sources[i%2]
	}
	for _, source := range []string{"", sources[0], sources[1]} {
		seen, token := map[string]bool{}, ""
		for {
			resp, err := b.ListSnapshots(within(t), &csi.ListSnapshotsRequest{SourceVolumeId: source, MaxEntries: 2, StartingToken: token})
			b.must(err)
			for _, e := range resp.Entries {
				seen[e.Snapshot.SnapshotId] = true
				if s := e.Snapshot; !s.ReadyToUse || s.SizeBytes != 8*mib || s.CreationTime.AsTime().IsZero() || s.SourceVolumeId != made[s.SnapshotId] {
					t.Errorf("listed %+v", s)
				}
			}
			if token = resp.NextToken; token == "" {
				break
			}
		}
		if want := map[bool]int{true: 6, false: 3}[source == ""]; len(seen) != want {
			t.Errorf("of source %q: %d snapshots, want %d", source, len(seen), want)
		}
	}
	for id, want := range map[string]int{volume.SnapshotIDFor("s0"): 1, volume.SnapshotIDFor("absent"): 0, "no ID of ours": 0} {
		resp, err := b.ListSnapshots(within(t), &csi.ListSnapshotsRequest{SnapshotId: id})
		b.must(err)
		if len(resp.Entries) != want {
			t.Errorf("%q: %d entries", id, len(resp.Entries))
		}
	}
	_, err := b.ListSnapshots(within(t), &csi.ListSnapshotsRequest{StartingToken: "x"})
	if err == nil {
		t.Error("a token of nobody was taken")
	}
}

// A replica snapshot that is lost is not counted any more, and one without any is not ready.
func TestSnapshotWhoseLvolsAreLostIsNotReady(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("a", 8*mib))
	sn := b.mustSnapshot("s", id)
	record := b.SnapshotRecord(sn)
	for i, r := range record.Replicas {
		node, err := b.Node(r.Node)
		b.must(err)
		b.must(node.DeleteSnapshot(within(t), r.LvStore, record.LvolName(r)))
		b.must(b.Sweep(within(t)))
		resp, err := b.ListSnapshots(within(t), &csi.ListSnapshotsRequest{SnapshotId: sn})
		b.must(err)
		if ready := resp.Entries[0].Snapshot.ReadyToUse; ready != (i < 2) || len(b.SnapshotRecord(sn).Replicas) != 2-i {
			t.Errorf("with %d lost it is ready: %t, on record %+v", i+1, ready, b.SnapshotRecord(sn).Replicas)
		}
	}
	_, err := b.create(from(order("restored", 8*mib), sn))
	wantError(t, err, volume.ErrPrecondition)
}

// A snapshot has one size, so that the two exclude each other: while the volume grows its replicas may differ in it.
func TestSnapshotWaitsUntilTheVolumeHasGrown(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.mustCreate(order("source", 8*mib, volume.ParamReplicas, "2"))
	away := b.Record(id).Replicas[1].Node
	b.Sim(away).Kill()
	_, err := b.ControllerExpandVolume(within(t), &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: 16 * mib}})
	b.must(err)
	if b.Record(id).GrowingFrom == 0 {
		t.Fatal("it is said to have grown, with a replica away")
	}
	if _, err := b.snapshot("s", id); !errors.Is(err, volume.ErrBusy) {
		t.Fatalf("got %v", err)
	}
	if v := b.Record(id); v.Snapshot != nil {
		t.Errorf("it is wanted all the same: %+v", v.Snapshot)
	}
	b.must(b.Sim(away).Start())
	b.must(b.Sweep(within(t)))
	sn := b.mustSnapshot("s", id)
	b.wantTaken(sn, 2, 0)
	if got := b.SnapshotRecord(sn).SizeBytes; got != 16*mib {
		t.Errorf("the snapshot has %d bytes", got)
	}
	_, err = b.ControllerExpandVolume(within(t), &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: 32 * mib}})
	b.must(err)
	if v := b.Record(b.mustCreate(from(order("restored", 16*mib, volume.ParamReplicas, "2"), sn))); v.SizeBytes != 16*mib {
		t.Errorf("what was made of it has %d bytes", v.SizeBytes)
	}
}
