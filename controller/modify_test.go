package controller_test

import (
	"errors"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

func (b *bench) modify(id string, pairs ...string) error {
	mutable := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		mutable[pairs[i]] = pairs[i+1]
	}
	_, err := b.ControllerModifyVolume(within(b.t), &csi.ControllerModifyVolumeRequest{VolumeId: id, MutableParameters: mutable})
	return err
}

func TestModifyRefusesWhatItCantDoAndChangesNothing(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("refuses", 8*mib))
	before := b.Record(id)
	for _, pairs := range [][]string{
		{volume.ParamIOPSLimit, "2000", "thin", "false"}, {volume.ParamIOPSLimit, "2000", "unknown", "1"},
		{volume.ParamIOPSLimit, "2000", volume.ParamReplicas, "0"}, {volume.ParamIOPSLimit, "-1"},
	} {
		wantCode(t, b.modify(id, pairs...), codes.InvalidArgument)
	}
	if err := b.modify(id, volume.ParamIOPSLimit, "2000", volume.ParamReplicas, "4"); !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("four replicas on three nodes: %v", err)
	}
	if now := b.Record(id); now.Revision != before.Revision {
		t.Errorf("the record has changed to %+v", now)
	}
	wantCode(t, b.modify("", volume.ParamIOPSLimit, "2000"), codes.InvalidArgument)
	if err := b.modify(volume.IDFor("none"), volume.ParamIOPSLimit, "2000"); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("a volume that isn't there: %v", err)
	}
	b.Sim("n3").Kill()
	if err := b.modify(id, volume.ParamReplicas, "4"); !errors.Is(err, spdk.ErrUnreachable) && !errors.Is(err, volume.ErrNodeDown) {
		t.Errorf("while a node doesn't answer: %v", err)
	}
}

func TestLimitsOfACreatedVolumeAreInForceWhenItIsPublishedAndAfterAChange(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	r := order("limited", 8*mib, volume.ParamReplicas, "2")
	r.MutableParameters = map[string]string{volume.ParamIOPSLimit: "3000"}
	id := b.mustCreate(r)
	b.must(b.publish(id))
	inForce := func(want volume.Limits) {
		t.Helper()
		v := b.Record(id)
		if !v.LimitsInForce(b.Observe(v)) || v.Parameters.Limits != want {
			t.Errorf("on record are %+v, wanted and in force is %+v", v.Parameters.Limits, want)
		}
	}
	inForce(volume.Limits{IOPS: 3000})
	b.must(b.modify(id, volume.ParamBandwidthLimit, "200Mi"))
	inForce(volume.Limits{IOPS: 3000, Bandwidth: 200 << 20})
	if again := b.mustCreate(r); again != id { // the CO's retry knows nothing of the change
		t.Errorf("another volume: %s", again)
	}
	b.must(b.modify(id, volume.ParamIOPSLimit, "none", volume.ParamBandwidthLimit, "none"))
	inForce(volume.Limits{})
}

func TestEveryStepOfModifyMayFail(t *testing.T) {
	everyStep(t, published,
		func(b *bench, _, id string) error {
			return b.modify(id, volume.ParamIOPSLimit, "2000", volume.ParamReplicas, "3")
		},
		func(b *bench, id string) {
			v := b.Record(id)
			if len(v.Replicas) != 3 || v.Parameters.Replicas != 3 || !v.LimitsInForce(b.Observe(v)) || v.Parameters.Limits.IOPS != 2000 {
				b.t.Errorf("it is %+v", v)
			}
			for _, r := range v.Replicas {
				if b.Observe(v).Nodes[r.Node].Replicas[r.ID].SizeBytes != v.SizeBytes {
					b.t.Errorf("replica %s on %s was not made", r.ID, r.Node)
				}
			}
		})
}

func TestEveryStepOfModifyToFewerReplicasMayFail(t *testing.T) {
	everyStep(t, made,
		func(b *bench, _, id string) error { return b.modify(id, volume.ParamReplicas, "1") },
		func(b *bench, id string) {
			b.must(b.Sweep(within(b.t)))
			if v := b.Record(id); len(v.Replicas) != 1 || len(v.InState(volume.ReplicaInSync)) != 1 {
				b.t.Errorf("its replicas are %+v", v.Replicas)
			}
		})
}
