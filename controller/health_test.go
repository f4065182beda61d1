package controller_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// healthOf returns what a controller that has just begun says of a volume's health.
func (b *bench) healthOf(id string) []*csi.VolumeHealth_VolumeHealthEntry {
	b.t.Helper()
	resp, err := b.ControllerGetVolumeHealth(within(b.t), &csi.ControllerGetVolumeHealthRequest{VolumeId: id})
	b.must(err)
	if got := resp.GetVolumeHealth().GetVolumeId(); got != id {
		b.t.Errorf("the health is that of %q", got)
	}
	return resp.GetVolumeHealth().GetHealthStatuses()
}

// wantHealth checks statuses and reasons, and that some message has each of the texts.
func wantHealth(t *testing.T, got []*csi.VolumeHealth_VolumeHealthEntry, want []string, texts ...string) {
	t.Helper()
	var have, messages []string
	for _, e := range got {
		t.Logf("%s %s: %s", e.GetStatus(), e.GetReason(), e.GetMessage())
		have, messages = append(have, fmt.Sprintf("%s %s", e.GetStatus(), e.GetReason())), append(messages, e.GetMessage())
	}
	if !slices.Equal(have, want) {
		t.Errorf("got %q, want %q", have, want)
	}
	for _, text := range texts {
		if !strings.Contains(strings.Join(messages, "\n"), text) {
			t.Errorf("no %q in %q", text, messages)
		}
	}
}

func entry(severity csi.VolumeHealthErrorType, reason condition.Reason) string {
	return fmt.Sprintf("%s %s", severity, reason)
}

// wellAt makes a volume, publishes it without a standby, and returns its ID.
func (b *bench) wellAt(name string, replicas string) string {
	b.t.Helper()
	id := b.mustCreate(order(name, 8*mib, volume.ParamReplicas, replicas, volume.ParamStandby, "false"))
	b.must(b.publish(id))
	return id
}

func TestVolumeHealthFollowsWhatFails(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.wellAt("x", "2")
	wantHealth(t, b.healthOf(id), nil)

	v := b.Record(id)
	other := v.Replicas[slices.IndexFunc(v.Replicas, func(r volume.Replica) bool { return r.Node != v.Assembly.RaidHost })]
	since := time.Now().UTC().Truncate(time.Second)
	v.SetReplicaState(other.ID, volume.ReplicaOutOfSync, since)
	b.must(b.Store.Update(t.Context(), v))
	b.Sim(other.Node).Kill()
	b.restart()
	wantHealth(t, b.healthOf(id), []string{entry(csi.VolumeHealthErrorType_DEGRADED, condition.ReasonAtRisk)},
		fmt.Sprintf("replica %s on %s is out-of-sync since %s: %s does not answer", other.ID, other.Node, since.Format(time.RFC3339), other.Node))

	b.Sim(v.Assembly.RaidHost).Kill()
	b.restart()
	wantHealth(t, b.healthOf(id), []string{entry(csi.VolumeHealthErrorType_DEGRADED, condition.ReasonRaidHostSilent)}, v.Assembly.RaidHost+" does not answer")
}

// The volume is used by nobody: what no node can serve can't be published.
func TestVolumeWithoutAReplicaInReachIsInaccessible(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	id := b.mustCreate(order("x", 8*mib, volume.ParamReplicas, "2"))
	b.Sim("n1").Kill()
	b.Sim("n2").Kill()
	wantHealth(t, b.healthOf(id), []string{entry(csi.VolumeHealthErrorType_INACCESSIBLE, condition.ReasonNoGoodReplica)}, "n1 does not answer", "n2 does not answer")
}

func TestLostLastCopyIsDataLoss(t *testing.T) {
	b := newBench(t, 1, cluster.Options{})
	id := b.mustCreate(order("x", 8*mib, volume.ParamReplicas, "1"))
	v := b.Record(id)
	node, err := b.Node("n1")
	b.must(err)
	b.must(node.DeleteLvol(t.Context(), cluster.Pool, v.LvolName(v.Replicas[0])))
	b.must(b.Sweep(within(t)))
	wantHealth(t, b.healthOf(id), []string{
		entry(csi.VolumeHealthErrorType_DATA_LOSS, condition.ReasonLastCopyLost), entry(csi.VolumeHealthErrorType_INACCESSIBLE, condition.ReasonSalvageNeeded),
	}, "its lvol is not in lvstore "+cluster.Pool)
}

func TestHealthOfNoVolumeIsRefused(t *testing.T) {
	b := newBench(t, 1, cluster.Options{})
	_, err := b.ControllerGetVolumeHealth(within(t), &csi.ControllerGetVolumeHealthRequest{})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v", err)
	}
	_, err = b.ControllerGetVolumeHealth(within(t), &csi.ControllerGetVolumeHealthRequest{VolumeId: volume.IDFor("absent")})
	wantError(t, err, volume.ErrNotFound)
}

func TestListOfVolumeHealthHasWhatIsAbnormalPageByPage(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	var want []string
	for i := range 7 {
		id := b.mustCreate(order(fmt.Sprint("v", i), 8*mib, volume.ParamReplicas, "2"))
		if i%3 == 0 {
			continue
		}
		v := b.Record(id)
		v.SetReplicaState(v.Replicas[0].ID, volume.ReplicaOutOfSync, time.Now())
		b.must(b.Store.Update(t.Context(), v))
		want = append(want, id)
	}
	slices.Sort(want)
	for _, limit := range []int32{0, 1, 2, 3, 4, 5} {
		var got []string
		token, pages := "", 0
		for more := true; more; more = token != "" {
			resp, err := b.ControllerListVolumeHealth(within(t), &csi.ControllerListVolumeHealthRequest{MaxEntries: limit, StartingToken: token})
			b.must(err)
			if limit > 0 && len(resp.GetEntries()) > int(limit) || len(resp.GetEntries()) == 0 {
				t.Errorf("a page of %d has %d entries", limit, len(resp.GetEntries()))
			}
			for _, h := range resp.GetEntries() {
				got = append(got, h.GetVolumeId())
				wantHealth(t, h.GetHealthStatuses(), []string{entry(csi.VolumeHealthErrorType_DEGRADED, condition.ReasonAtRisk)})
			}
			token = resp.GetNextToken()
			pages++
		}
		if !slices.Equal(got, want) {
			t.Errorf("with %d a page: got %v, want %v", limit, got, want)
		}
		if limit > 0 && pages != (len(want)+int(limit)-1)/int(limit) {
			t.Errorf("%d pages of %d", pages, limit)
		}
	}
	for code, req := range map[codes.Code]*csi.ControllerListVolumeHealthRequest{
		codes.InvalidArgument: {MaxEntries: -1},
		codes.Aborted:         {StartingToken: "never given"},
	} {
		if _, err := b.ControllerListVolumeHealth(within(t), req); status.Code(err) != code {
			t.Errorf("got %v, want %s", err, code)
		}
	}
}
