package controller_test

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

func (b *bench) expand(id string, required, limit int64) (int64, error) {
	resp, err := b.ControllerExpandVolume(within(b.t), &csi.ControllerExpandVolumeRequest{
		VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: required, LimitBytes: limit},
	})
	if err == nil && !resp.GetNodeExpansionRequired() {
		b.t.Error("no node is asked to expand the volume")
	}
	return resp.GetCapacityBytes(), err
}

// wantGrown checks that the record and each replica whose node answers have the size, and the raid if the volume runs.
func (b *bench) wantGrown(id string, bytes int64) {
	b.t.Helper()
	v := b.Record(id)
	if v.SizeBytes != bytes || v.GrowingFrom != 0 {
		b.t.Errorf("on record are %d bytes, growing from %d", v.SizeBytes, v.GrowingFrom)
	}
	seen := b.Observe(v)
	for _, r := range v.Replicas {
		if view := seen.Nodes[r.Node]; view.Err == nil && view.Replicas[r.ID].SizeBytes != bytes {
			b.t.Errorf("replica %s on %s has %d bytes", r.ID, r.Node, view.Replicas[r.ID].SizeBytes)
		}
	}
	if v.Assembly != nil {
		if raid := seen.Nodes[v.Assembly.RaidHost].Raid; raid == nil || raid.SizeBytes != bytes {
			b.t.Errorf("the raid is %+v", raid)
		}
	}
}

func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestVolumeThatNobodyUsesGrows(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("grows", 8*mib))
	bytes, err := b.expand(id, 13*mib, 0)
	b.must(err)
	if bytes != 16*mib {
		t.Errorf("it has %d bytes: sizes are multiples of 4 MiB", bytes)
	}
	b.wantGrown(id, 16*mib)
	b.must(b.publish(id))
	b.wantGrown(id, 16*mib)
	if legs := b.wantPublished(id); len(legs) != 3 {
		t.Errorf("legs are %v", legs)
	}
}

func TestPublishedVolumeThatIsNotStagedGrows(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := published(b, "grows")
	_, err := b.expand(id, 64*mib, 64*mib)
	b.must(err)
	b.wantGrown(id, 64*mib)
}

// The host has two paths to it: what has to be done first is its node service's to do.
func TestStagedVolumeIsLeftToItsOwner(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := published(b, "owned")
	v := b.Record(id)
	v.Owner = host
	b.must(b.Store.Update(t.Context(), v))
	bytes, err := b.expand(id, 64*mib, 0)
	b.must(err)
	b.must(b.Sweep(within(t)))
	v = b.Record(id)
	if bytes != 64*mib || v.SizeBytes != 64*mib || v.GrowingFrom != 8*mib {
		t.Errorf("%d bytes are answered; on record are %d, growing from %d", bytes, v.SizeBytes, v.GrowingFrom)
	}
	seen := b.Observe(v)
	for _, r := range v.Replicas {
		if size := seen.Nodes[r.Node].Replicas[r.ID].SizeBytes; size != 8*mib {
			t.Errorf("replica on %s has %d bytes", r.Node, size)
		}
	}
	v.Owner = "" // given back before it was grown
	b.must(b.Store.Update(t.Context(), v))
	b.must(b.Sweep(within(t)))
	b.wantGrown(id, 64*mib)
}

func TestExpandToWhatTheVolumeHasChangesNothing(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("same", 64*mib))
	before := b.Record(id)
	for _, r := range []struct{ required, limit int64 }{{1, 0}, {64 * mib, 0}, {64 * mib, 64 * mib}, {0, 80 * mib}} {
		if bytes, err := b.expand(id, r.required, r.limit); err != nil || bytes != 64*mib {
			t.Errorf("%+v: %d bytes, %v", r, bytes, err)
		}
	}
	if v := b.Record(id); v.Revision != before.Revision {
		t.Error("the record was written")
	}
}

func TestExpandThatCannotBeIsRefusedAndChangesNothing(t *testing.T) {
	b := newBench(t, 3, cluster.Options{PoolBytes: 256 * mib})
	id := b.mustCreate(order("bad", 64*mib))
	before := b.Record(id)
	for name, c := range map[string]struct {
		id              string
		required, limit int64
		want            codes.Code
	}{
		"no volume":            {"", 64 * mib, 0, codes.InvalidArgument},
		"no range":             {id, 0, 0, codes.InvalidArgument},
		"limit below required": {id, 128 * mib, 100 * mib, codes.InvalidArgument},
		"negative":             {id, -1, 0, codes.InvalidArgument},
		"smaller":              {id, 8 * mib, 32 * mib, codes.OutOfRange},
		"no multiple between":  {id, 65 * mib, 67 * mib, codes.OutOfRange},
		"more than ever fits":  {id, 512 * mib, 0, codes.OutOfRange},
		"beyond all measure":   {id, 1 << 62, 0, codes.OutOfRange},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.expand(c.id, c.required, c.limit)
			wantCode(t, err, c.want)
		})
	}
	_, err := b.ControllerExpandVolume(within(t), &csi.ControllerExpandVolumeRequest{VolumeId: id})
	wantCode(t, err, codes.InvalidArgument)
	_, err = b.expand(volume.IDFor("unknown"), 64*mib, 0)
	wantError(t, err, volume.ErrNotFound)
	if v := b.Record(id); v.Revision != before.Revision {
		t.Error("the record was written")
	}
	b.wantGrown(id, 64*mib)
}

// Of three lvstores one has promised the room to another volume.
func TestExpandWithoutRoomOnOneLvstoreGrowsNoReplica(t *testing.T) {
	for _, thin := range []string{"true", "false"} {
		t.Run("thin "+thin, func(t *testing.T) {
			b := newBench(t, 3, cluster.Options{PoolBytes: 256 * mib})
			id := b.mustCreate(order("grows", 64*mib, volume.ParamThin, thin))
			other := b.mustCreate(order("other", 128*mib, volume.ParamThin, thin, volume.ParamReplicas, "1"))
			_, err := b.expand(id, 160*mib, 0)
			wantError(t, err, volume.ErrNoSpace)
			b.wantGrown(id, 64*mib)
			b.must(b.remove(other))
			_, err = b.expand(id, 160*mib, 0)
			b.must(err)
			b.wantGrown(id, 160*mib)
			_, err = b.create(order("other", 128*mib, volume.ParamThin, thin, volume.ParamReplicas, "1"))
			wantError(t, err, volume.ErrNoSpace) // what a volume has grown to is promised
		})
	}
}

// Lvols that the driver knows nothing of take up the room that is not promised.
func TestExpandOfAThickVolumeIntoAFullLvstoreIsRefused(t *testing.T) {
	b := newBench(t, 3, cluster.Options{PoolBytes: 256 * mib})
	id := b.mustCreate(order("thick", 64*mib, volume.ParamThin, "false"))
	b.Fill("n2")
	_, err := b.expand(id, 128*mib, 0)
	wantError(t, err, volume.ErrNoSpace)
	b.wantGrown(id, 64*mib)
}

func TestReplicaWhoseNodeIsDownGrowsWhenItIsBack(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("degraded", 8*mib))
	b.kill("n2")
	_, err := b.expand(id, 64*mib, 0)
	b.must(err)
	if v := b.Record(id); v.GrowingFrom != 8*mib || len(v.InState(volume.ReplicaInSync)) != 3 {
		t.Errorf("on record: growing from %d, %+v", v.GrowingFrom, v.Replicas)
	}
	b.start("n2")
	b.must(b.Sweep(within(t)))
	b.wantGrown(id, 64*mib)
	b.must(b.publish(id))
	if legs := b.wantPublished(id); len(legs) != 3 {
		t.Errorf("legs are %v: nothing was written without any of them", legs)
	}
}

func TestVolumeIsPublishedWithoutTheReplicaThatCouldNotGrow(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("degraded", 8*mib))
	b.kill("n2")
	_, err := b.expand(id, 64*mib, 0)
	b.must(err)
	b.must(b.publish(id))
	if legs := b.wantPublished(id); len(legs) != 2 {
		t.Errorf("legs are %v", legs)
	}
	b.must(b.Sweep(within(t)))
	b.wantGrown(id, 64*mib)
	b.must(b.unpublish(id))
	b.start("n2")
	b.must(b.Sweep(within(t))) // it is grown, and the volume assembled
	b.wantGrown(id, 64*mib)
	b.must(b.Sweep(within(t)))
	if v := b.Record(id); len(v.InState(volume.ReplicaRebuilding)) != 1 {
		t.Errorf("on record are %+v", v.Replicas)
	}
}

func TestExpandWithNoReplicaInReachWaits(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("dark", 8*mib, volume.ParamReplicas, "1"))
	node := b.Record(id).Replicas[0].Node
	b.kill(node)
	_, err := b.expand(id, 64*mib, 0)
	wantError(t, err, volume.ErrNodeDown)
	b.start(node)
	b.restart() // the inventory may still hold the failure
	_, err = b.expand(id, 64*mib, 0)
	b.must(err)
	b.wantGrown(id, 64*mib)
}

func TestEveryStepOfExpandMayFail(t *testing.T) {
	for name, prepare := range map[string]func(*bench, string) string{"unused": made, "published": published} {
		t.Run(name, func(t *testing.T) {
			everyStep(t, prepare,
				func(b *bench, _, id string) error { _, err := b.expand(id, 16*mib, 0); return err },
				func(b *bench, id string) { b.wantGrown(id, 16*mib) })
		})
	}
}
