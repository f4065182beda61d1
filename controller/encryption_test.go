package controller_test

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

func secretOrder(name string, bytes int64) *csi.CreateVolumeRequest {
	return order(name, bytes, volume.ParamEncryption, "luks2", volume.ParamReplicas, "2")
}

// Whatever tells a capacity tells what a pod can use; the header is in the replicas alone.
func TestHeaderOfAnEncryptedVolumeComesOnTopOfItsCapacity(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	request := secretOrder("secret", 30*mib)
	resp, err := b.CreateVolume(within(t), request)
	b.must(err)
	id := resp.GetVolume().GetVolumeId()
	if got := resp.GetVolume().GetCapacityBytes(); got != 32*mib || b.Record(id).SizeBytes != 48*mib {
		t.Errorf("it offers %d bytes and has %d", got, b.Record(id).SizeBytes)
	}
	b.wantCreated(id, 2)
	if again, err := b.create(request); err != nil || again != id {
		t.Errorf("asked for again: %s, %v", again, err)
	}
	wantError(t, func() error { _, err := b.create(order("secret", 30*mib, volume.ParamReplicas, "2")); return err }(), volume.ErrIncompatible)
	request.CapacityRange.RequiredBytes = 48 * mib
	_, err = b.create(request)
	wantError(t, err, volume.ErrIncompatible)

	list, err := b.ListVolumes(within(t), &csi.ListVolumesRequest{})
	b.must(err)
	if len(list.GetEntries()) != 1 || list.GetEntries()[0].GetVolume().GetCapacityBytes() != 32*mib {
		t.Errorf("the list says %v", list.GetEntries())
	}
	got, err := b.ControllerGetVolume(within(t), &csi.ControllerGetVolumeRequest{VolumeId: id})
	if err != nil || got.GetVolume().GetCapacityBytes() != 32*mib {
		t.Errorf("got %v, %v", got, err)
	}

	_, err = b.expand(id, 0, 31*mib)
	wantCode(t, err, codes.OutOfRange)
	bytes, err := b.expand(id, 33*mib, 36*mib)
	if err != nil || bytes != 36*mib {
		t.Errorf("grown to %d bytes, %v", bytes, err)
	}
	b.wantGrown(id, 52*mib)
}

func TestLimitHoldsForWhatAnEncryptedVolumeOffers(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	request := secretOrder("limited", 0)
	request.CapacityRange = &csi.CapacityRange{LimitBytes: 8 * mib}
	resp, err := b.CreateVolume(within(t), request)
	if err != nil || resp.GetVolume().GetCapacityBytes() != 8*mib {
		t.Errorf("got %v, %v", resp, err)
	}
	request = secretOrder("xfs", 0)
	request.VolumeCapabilities[0].GetMount().FsType = "xfs"
	request.CapacityRange = &csi.CapacityRange{LimitBytes: 300 * mib}
	resp, err = b.CreateVolume(within(t), request)
	if err != nil || resp.GetVolume().GetCapacityBytes() != 300*mib {
		t.Errorf("an xfs gets %v, %v", resp, err)
	}
}

func TestCapacityOfEncryptedVolumesIsWhatTheyCanOffer(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	ask := func(encryption string) *csi.GetCapacityResponse {
		t.Helper()
		r := order("", 0, volume.ParamReplicas, "2", volume.ParamEncryption, encryption)
		resp, err := b.GetCapacity(within(t), &csi.GetCapacityRequest{Parameters: r.GetParameters()})
		b.must(err)
		return resp
	}
	plain, secret := ask("none"), ask("luks2")
	largest := secret.GetMaximumVolumeSize().GetValue()
	if plain.GetMaximumVolumeSize().GetValue()-largest != volume.LUKSHeaderBytes || plain.GetAvailableCapacity()-secret.GetAvailableCapacity() != volume.LUKSHeaderBytes {
		t.Errorf("plain %v, encrypted %v", plain, secret)
	}
	b.mustCreate(secretOrder("largest", largest))
	if left := ask("luks2"); left.GetAvailableCapacity() != 0 || left.GetMaximumVolumeSize().GetValue() != 0 {
		t.Errorf("left is %v", left)
	}
}

func TestWhatIsMadeOfAnEncryptedVolumeIsEncryptedWithIt(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	source := b.mustCreate(secretOrder("source", 8*mib))
	v := b.Record(source)
	v.FileSystem = volume.FileSystem{Type: "ext4", State: volume.FileSystemMade, SizeBytes: 8 * mib, LUKS: volume.FileSystemMade}
	b.must(b.Store.Update(t.Context(), v))
	resp, err := b.CreateSnapshot(within(t), &csi.CreateSnapshotRequest{Name: "snap", SourceVolumeId: source})
	b.must(err)
	if got := resp.GetSnapshot().GetSizeBytes(); got != 8*mib {
		t.Errorf("the snapshot asks for %d bytes", got)
	}
	for _, from := range []*csi.VolumeContentSource{
		{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: resp.GetSnapshot().GetSnapshotId()}}},
		{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: source}}},
	} {
		plain := order("plain", 24*mib, volume.ParamReplicas, "2")
		plain.VolumeContentSource = from
		_, err := b.create(plain)
		wantCode(t, err, codes.InvalidArgument)
		r := secretOrder("made of "+from.String(), 8*mib)
		r.VolumeContentSource = from
		made := b.Record(b.mustCreate(r))
		if made.FileSystem != v.FileSystem || made.CapacityBytes() != 8*mib || made.SizeBytes != 24*mib {
			t.Errorf("it has %d bytes and %+v", made.SizeBytes, made.FileSystem)
		}
	}
}
