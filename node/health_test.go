package node_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// alone is published without a standby, which no watcher would make here.
func (b *bench) alone(name string) string {
	b.t.Helper()
	id := b.published(name)
	v := b.Record(id)
	v.Parameters.Standby = false
	b.must(b.Store.Update(b.t.Context(), v))
	return id
}

func (b *bench) healthOf(id string) []*csi.VolumeHealth_VolumeHealthEntry {
	b.t.Helper()
	resp, err := b.NodeGetVolumeHealth(within(b.t), &csi.NodeGetVolumeHealthRequest{VolumeId: id, VolumePublishPath: b.target(), StagingTargetPath: b.staging()})
	b.must(err)
	if got := resp.GetVolumeHealth().GetVolumeId(); got != id {
		b.t.Errorf("the health is that of %q", got)
	}
	return resp.GetVolumeHealth().GetHealthStatuses()
}

// wantHealth checks statuses and reasons, and that some message has each of the texts.
func (b *bench) wantHealth(id string, want []string, texts ...string) {
	b.t.Helper()
	have, messages := describe(b.healthOf(id))
	b.t.Log(strings.Join(messages, "\n"))
	if !slices.Equal(have, want) {
		b.t.Errorf("got %q, want %q", have, want)
	}
	for _, text := range texts {
		if !strings.Contains(strings.Join(messages, "\n"), text) {
			b.t.Errorf("no %q in %q", text, messages)
		}
	}
}

func describe(entries []*csi.VolumeHealth_VolumeHealthEntry) (statuses, messages []string) {
	for _, e := range entries {
		statuses, messages = append(statuses, fmt.Sprintf("%s %s", e.GetStatus(), e.GetReason())), append(messages, e.GetMessage())
	}
	return statuses, messages
}

func TestHealthOfAStagedVolume(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.alone("x")
	b.wantHealth(id, []string{"INACCESSIBLE NotStaged"}, "no call to stage it has come")
	b.must(b.stage(id))
	b.must(b.publish(id))
	b.wantHealth(id, nil)

	v := b.Record(id)
	v.Replicas[1].State = volume.ReplicaOutOfSync
	b.must(b.Store.Update(t.Context(), v))
	b.must(b.machine.Damage(b.staging()))
	b.wantHealth(id, []string{"DEGRADED FileSystemReadOnly", "DEGRADED AtRisk"}, "refuses writes", "00000002 on n2 is out-of-sync")

	b.must(b.machine.Disconnect(t.Context(), v.NQN()))
	b.wantHealth(id, []string{"INACCESSIBLE DeviceGone", "DEGRADED AtRisk"}, "the block device under "+b.staging()+" is gone")
	b.must(b.unpublish(id))
	b.must(b.unstage(id))
	b.wantHealth(id, []string{"INACCESSIBLE NotStaged", "DEGRADED AtRisk"})
}

func TestVolumeThatIsMountedReadOnlyIsWell(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.alone("x")
	b.must(b.stage(id))
	b.must(b.unstage(id))
	v := b.Record(id)
	v.Publications[0].ReadOnly = true
	b.must(b.Store.Update(t.Context(), v))
	b.must(b.stage(id))
	b.wantHealth(id, nil)
}

func TestRawBlockVolumeWhoseDeviceIsGone(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.alone("x")
	b.must(b.stageAs(id, raw()))
	_, err := b.NodePublishVolume(within(t), &csi.NodePublishVolumeRequest{VolumeId: id, StagingTargetPath: b.staging(), TargetPath: b.target(), VolumeCapability: raw()})
	b.must(err)
	b.wantHealth(id, nil)
	b.must(b.machine.Disconnect(t.Context(), b.Record(id).NQN()))
	b.wantHealth(id, []string{"INACCESSIBLE DeviceGone"}, b.target())
}

// hungStore answers nothing before its caller has had enough.
type hungStore struct{ volume.Store }

func (hungStore) Get(ctx context.Context, _ string) (*volume.Volume, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (hungStore) Host(ctx context.Context, _ string) (volume.Host, error) {
	<-ctx.Done()
	return volume.Host{}, ctx.Err()
}

// The raid host is dead, the file system with it, and the store hangs: the node tells what it sees.
func TestHealthIsToldWithTheTargetDeadAndTheStoreAway(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.alone("x")
	b.must(b.stage(id))
	b.must(b.publish(id))
	b.Store = hungStore{b.Store}
	b.restart()
	b.wantHealth(id, nil)
	b.Sim("n1").Kill()
	ctx := within(t)
	for {
		statuses, messages := describe(b.healthOf(id))
		if len(statuses) == 0 && ctx.Err() == nil { // the machine has not noticed yet
			continue
		}
		if !slices.Equal(statuses, []string{"DEGRADED IOWaiting"}) || !strings.Contains(messages[0], "is connecting") {
			t.Errorf("got %q, %q", statuses, messages)
		}
		break
	}
	resp, err := b.NodeGetStorageHealth(within(t), &csi.NodeGetStorageHealthRequest{})
	b.must(err)
	var got []string
	for _, h := range resp.GetBackendHealth() {
		got = append(got, fmt.Sprintf("%s %s", h.GetStatus(), h.GetReason()))
	}
	if want := []string{"STORAGE_UNREACHABLE NoPath", "STORAGE_DEGRADED StoreSilent"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestHealthOfAVolumeThatIsNotHereIsRefused(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.published("elsewhere")
	v := b.Record(id)
	v.Publications[0].Node = "other"
	b.must(b.Store.Update(t.Context(), v))
	for _, absent := range []string{id, volume.IDFor("absent"), "no ID of ours"} {
		_, err := b.NodeGetVolumeHealth(within(t), &csi.NodeGetVolumeHealthRequest{VolumeId: absent})
		wantError(t, err, volume.ErrNotFound)
	}
	for _, req := range []*csi.NodeGetVolumeHealthRequest{{}, {VolumeId: id, VolumePublishPath: "relative"}, {VolumeId: id, StagingTargetPath: "relative"}} {
		if _, err := b.NodeGetVolumeHealth(within(t), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%+v: got %v", req, err)
		}
	}
}

func TestStorageIsWellWhereNothingIsStaged(t *testing.T) {
	b := newBench(t, 1, cluster.Options{})
	resp, err := b.NodeGetStorageHealth(within(t), &csi.NodeGetStorageHealthRequest{})
	b.must(err)
	if len(resp.GetBackendHealth()) > 0 {
		t.Errorf("got %v", resp.GetBackendHealth())
	}
}
