package console

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/operator"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/show"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
)

// now is the time of the tests.
var now = time.Date(2026, 11, 23, 2, 0, 0, 0, time.UTC)

// bench is an API server in memory in which a controller has shown what it saw, and an operator who reads it.
type bench struct {
	t      *testing.T
	client client.Client
	clock  *clocktesting.FakeClock
	sight  condition.Sight
	nodes  []condition.NodePicture
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, clock: clocktesting.NewFakeClock(now), sight: condition.Sight{}}
	b.client = fake.NewClientBuilder().WithScheme(kube.Scheme()).WithStatusSubresource(&v1alpha1.Volume{}, &v1alpha1.SPDKNode{}).Build()
	return b
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// spdkNode adds an SPDK node, some percent of whose lvstore is used; a silent one doesn't answer.
func (b *bench) spdkNode(name, zone string, usedPercent int64, silent bool) {
	pool := spdk.LvStore{Name: "pool", TotalBytes: 1 << 40, FreeBytes: (100 - usedPercent) << 40 / 100}
	picture := condition.NodePicture{Node: &converge.Node{Name: name, Zone: zone}, LvStores: []spdk.LvStore{pool}}
	seen := condition.NodeSight{
		Health: spdk.Health{Raids: map[string]spdk.RaidState{}, Controllers: map[string]spdk.LegState{}},
		Pools:  map[string]condition.Pool{"pool": {TotalBytes: pool.TotalBytes, FreeBytes: pool.FreeBytes}},
	}
	if silent {
		seen = condition.NodeSight{Err: fmt.Errorf("node %s: get version: no route to host", name)}
	}
	b.sight[name] = seen
	b.nodes = append(b.nodes, picture)
}

// volume puts a volume on record that has a replica on each of the nodes, called after it; a claim gets it.
func (b *bench) volume(claim string, sizeGiB int64, change func(v *volume.Volume), nodes ...string) *volume.Volume {
	b.t.Helper()
	namespace, name, _ := strings.Cut(claim, "/")
	p, err := volume.ParseParameters(map[string]string{volume.ParamReplicas: fmt.Sprint(len(nodes)), volume.ParamReplicaStallBudget: "20s"})
	b.must(err)
	v := &volume.Volume{
		ID: volume.IDFor("pvc-" + name), Name: "pvc-" + name, UUID: uuid.NewSHA1(uuid.Nil, []byte(name)), SizeBytes: sizeGiB << 30, Parameters: p,
		Phase: volume.PhaseReady, CreatedAt: now.Add(-time.Hour),
	}
	for _, n := range nodes {
		v.Replicas = append(v.Replicas, volume.Replica{ID: "0000000" + n[1:], Node: n, LvStore: "pool", State: volume.ReplicaInSync, Since: now.Add(-time.Hour)})
	}
	change(v)
	b.must(kube.New(b.client).Create(b.t.Context(), v))
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: v.Name}, Spec: corev1.PersistentVolumeSpec{
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: kube.DriverName, VolumeHandle: v.ID}},
		ClaimRef:               &corev1.ObjectReference{Namespace: namespace, Name: name},
	}}
	b.must(b.client.Create(b.t.Context(), pv))
	pvc := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: pv.Name}}
	b.must(b.client.Create(b.t.Context(), pvc))
	return v
}

// runOn has a volume run, published to a machine, with all its replicas as legs but those that are out-of-sync.
func runOn(v *volume.Volume, host, standby, machine string) {
	v.Assembly = &volume.Assembly{Number: 1, RaidHost: host, Running: true}
	for _, r := range v.Replicas {
		if r.State != volume.ReplicaOutOfSync {
			v.Assembly.Legs = append(v.Assembly.Legs, r.ID)
		}
	}
	v.Standby = &volume.Assembly{Number: 2, RaidHost: standby, Running: true, Legs: v.GoodLegs(*v.Assembly)}
	v.Owner, v.Assemblies = machine, 2
	v.Publications = []volume.Publication{{Node: machine, Mode: volume.AccessSingleNodeWriter}}
}

// lead has a controller hold the lease, which it renewed some time ago.
func (b *bench) lead(ago time.Duration) {
	b.t.Helper()
	holder, seconds, renewed := "holdfast-controller-7c9d8f6b5-x2kqv_4f1c", int32(15), metav1.NewMicroTime(now.Add(-ago))
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: "holdfast", Name: kube.LeaseName},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &renewed},
	}
	b.must(client.IgnoreNotFound(b.client.Delete(b.t.Context(), lease.DeepCopy())))
	b.must(b.client.Create(b.t.Context(), lease))
}

// show has the controller show everything as it sees it.
func (b *bench) show() {
	b.t.Helper()
	volumes, err := kube.New(b.client).List(b.t.Context(), "", 0)
	b.must(err)
	display := show.NewDisplay(b.client, record.NewFakeRecorder(1000), b.clock)
	b.must(display.Show(b.t.Context(), condition.Picture{Volumes: volumes, Sight: b.sight, Nodes: b.nodes}))
}

// AddFlags implements Access.
func (b *bench) AddFlags(*cobra.Command) {}

// Open implements Access.
func (b *bench) Open(ctx context.Context) (*operator.Operator, func(), error) {
	o, err := operator.NewByReport(ctx, kube.New(b.client), show.Reports{Client: b.client, Namespace: "holdfast", Clock: b.clock}, b.clock)
	if err != nil {
		return nil, nil, err
	}
	return o.WithClaims(kube.Claims{Client: b.client, Namespace: "shop"}), func() {}, nil
}

// run runs a command.
func (b *bench) run(command func(Cluster) *cobra.Command, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := command(func() Access { return b })
	cmd.SetArgs(append([]string{}, args...))
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.ExecuteContext(b.t.Context())
	return out.String(), err
}

// want runs a command that is to succeed.
func (b *bench) want(command func(Cluster) *cobra.Command, args ...string) string {
	b.t.Helper()
	out, err := b.run(command, args...)
	b.must(err)
	return out
}
