package show_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/show"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/storetest"
)

// bench is an API server in memory with the record of a volume that is healthy while b answers.
type bench struct {
	*show.Display
	t      *testing.T
	client client.Client
	events *record.FakeRecorder
	clock  *clocktesting.FakeClock
	v      *volume.Volume
}

func newBench(t *testing.T, objects ...client.Object) *bench {
	t.Helper()
	v := storetest.Volume("pvc-1")
	v.Assembly, v.Retired, v.Publications, v.Parameters.Replicas = nil, nil, nil, 2
	v.Replicas[1].State = volume.ReplicaInSync
	c := fake.NewClientBuilder().WithScheme(kube.Scheme()).WithStatusSubresource(&v1alpha1.Volume{}, &v1alpha1.SPDKNode{}).WithObjects(objects...).Build()
	if err := kube.New(c).Create(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, client: c, v: v, clock: clocktesting.NewFakeClock(time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC))}
	b.start()
	return b
}

// start begins again, as a controller that was started anew.
func (b *bench) start() {
	b.events = record.NewFakeRecorder(16)
	b.events.IncludeObject = true
	b.Display = show.NewDisplay(b.client, b.events, b.clock)
}

// show shows the volume while nodes are down, and returns the status and the events that came of it.
func (b *bench) show(down ...string) (v1alpha1.VolumeStatus, []string) {
	b.t.Helper()
	sight := condition.Sight{"a": {}, "b": {}}
	for _, name := range down {
		sight[name] = condition.NodeSight{Err: errors.New("silent")}
	}
	nodes := []condition.NodePicture{{Node: &converge.Node{Name: "a", Zone: "z1"}, LvStores: []spdk.LvStore{{Name: "lvs", FreeBytes: 1 << 30, TotalBytes: 2 << 30}}}, {Node: &converge.Node{Name: "b"}}}
	if err := b.Show(b.t.Context(), condition.Picture{Volumes: []*volume.Volume{b.v}, Sight: sight, Nodes: nodes}); err != nil {
		b.t.Fatal(err)
	}
	var o v1alpha1.Volume
	if err := b.client.Get(b.t.Context(), client.ObjectKey{Name: b.v.ID}, &o); err != nil {
		b.t.Fatal(err)
	}
	var events []string
	for len(b.events.Events) > 0 {
		events = append(events, <-b.events.Events)
	}
	return o.Status, events
}

func TestStatusAndEventsFollowTheVolume(t *testing.T) {
	b := newBench(t)
	status, events := b.show()
	if status.Size != "1Gi" || status.Replicas != "2/2" || status.State != "healthy" || !meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionHealthy) || len(events) > 0 {
		t.Fatalf("a healthy volume is shown as %+v with %v", status, events)
	}
	since := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionAvailable).LastTransitionTime
	b.clock.Step(time.Minute)
	status, events = b.show("b")
	healthy := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionHealthy)
	if status.Replicas != "1/2" || healthy.Status != metav1.ConditionFalse || healthy.Reason != "AtRisk" || !strings.Contains(healthy.Message, "b does not answer") {
		t.Errorf("with a node down it is shown as %+v", status)
	}
	if available := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionAvailable); !available.LastTransitionTime.Equal(&since) || available.Status != metav1.ConditionTrue {
		t.Errorf("it is available as before, and shown as %+v", available)
	}
	if len(events) != 1 || !strings.HasPrefix(events[0], "Warning AtRisk") {
		t.Errorf("told is %q", events)
	}
	if _, events = b.show("b"); len(events) > 0 {
		t.Errorf("told twice: %q", events)
	}
	b.start()
	if _, events = b.show("b"); len(events) > 0 {
		t.Errorf("told again by another controller: %q", events)
	}
	if status, events = b.show(); len(events) != 1 || !strings.HasPrefix(events[0], "Normal Healed") || status.State != "healthy" {
		t.Errorf("healed, it is shown as %+v with %q", status, events)
	}
}

func TestEventIsAboutTheClaim(t *testing.T) {
	v := storetest.Volume("pvc-1")
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pvc-1"},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "csi.holdfast.dev", VolumeHandle: v.ID}},
			ClaimRef:               &corev1.ObjectReference{Namespace: "shop", Name: "data"},
		},
	}
	stranger := pv.DeepCopy()
	stranger.Spec.CSI.Driver = "other"
	for name, test := range map[string]struct {
		object client.Object
		kind   string
	}{"claimed": {pv, "PersistentVolumeClaim"}, "of another driver": {stranger, "Volume"}} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, test.object)
			b.show()
			if _, events := b.show("b"); len(events) != 1 || !strings.Contains(events[0], "kind="+test.kind+",") {
				t.Errorf("told is %q", events)
			}
		})
	}
}

func TestChangeOfTheRaidHostIsTold(t *testing.T) {
	b := newBench(t)
	b.v.Assembly = &volume.Assembly{Number: 1, RaidHost: "a", Running: true}
	b.show()
	b.v.Assembly = &volume.Assembly{Number: 2, RaidHost: "b", Running: true}
	if status, events := b.show(); len(events) != 1 || !strings.Contains(events[0], "RaidHostChanged") || status.RaidHost != "b" {
		t.Errorf("told is %q, shown %+v", events, status)
	}
}

func TestNodeOfTheConfigurationIsShown(t *testing.T) {
	b := newBench(t)
	b.show("b")
	var a, silent v1alpha1.SPDKNode
	for name, o := range map[string]*v1alpha1.SPDKNode{"a": &a, "b": &silent} {
		if err := b.client.Get(t.Context(), client.ObjectKey{Name: name}, o); err != nil {
			t.Fatal(err)
		}
	}
	if a.Status.Free != "1Gi" || a.Status.Size != "2Gi" || a.Status.Zone != "z1" || !meta.IsStatusConditionTrue(a.Status.Conditions, v1alpha1.ConditionReady) {
		t.Errorf("a is shown as %+v", a.Status)
	}
	if !meta.IsStatusConditionFalse(silent.Status.Conditions, v1alpha1.ConditionReady) {
		t.Errorf("b, which is silent, is shown as %+v", silent.Status)
	}
}
