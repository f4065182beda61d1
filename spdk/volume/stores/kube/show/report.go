package show

import (
	"context"
	"fmt"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
)

// readTimeout bounds one read.
const readTimeout = 10 * time.Second

// Reports reads what a Display has written. It implements operator.Reporter.
type Reports struct {
	Client client.Client
	// Namespace is that of the controllers' lease.
	Namespace string
	Clock     clock.PassiveClock
}

// Report implements operator.Reporter.
func (r Reports) Report(ctx context.Context) (condition.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var volumes v1alpha1.VolumeList
	var nodes v1alpha1.SPDKNodeList
	for _, list := range []client.ObjectList{&volumes, &nodes} {
		if err := r.Client.List(ctx, list); err != nil {
			return condition.Report{}, fmt.Errorf("read what the controller tells: %w", err)
		}
	}
	report := condition.Report{Teller: r.teller(ctx), Nodes: map[string]condition.NodeReport{}, Told: map[string]condition.Told{}}
	for _, o := range nodes.Items {
		report.Nodes[o.Name] = nodeReport(o)
	}
	for _, o := range volumes.Items {
		if t, ok := told(o.Status); ok {
			report.Told[o.Name] = t
		}
	}
	return report, nil
}

// teller says who leads.
func (r Reports) teller(ctx context.Context) condition.Teller {
	var lease coordinationv1.Lease
	err := r.Client.Get(ctx, client.ObjectKey{Namespace: r.Namespace, Name: kube.LeaseName}, &lease)
	switch s := lease.Spec; {
	case apierrors.IsNotFound(err):
		return condition.Teller{Problem: fmt.Sprintf("there is no lease %s in namespace %s, so that no controller has led there; is it another namespace (--driver-namespace)?", kube.LeaseName, r.Namespace)}
	case err != nil:
		return condition.Teller{Problem: fmt.Sprintf("it can't be told whether a controller leads: %v", err)}
	case s.HolderIdentity == nil || *s.HolderIdentity == "" || s.RenewTime == nil || s.LeaseDurationSeconds == nil:
		return condition.Teller{Problem: "no controller leads"}
	default:
		name, _, _ := strings.Cut(*s.HolderIdentity, "_")
		t := condition.Teller{Controller: name}
		if end := s.RenewTime.Add(time.Duration(*s.LeaseDurationSeconds) * time.Second); r.Clock.Now().After(end) {
			t.Problem = fmt.Sprintf("no controller leads; the lease of %s ran out at %s", name, end.UTC().Format(time.RFC3339))
		}
		return t
	}
}

func nodeReport(o v1alpha1.SPDKNode) condition.NodeReport {
	n := condition.NodeReport{NVMf: o.Status.Address, Host: o.Spec.Host, Zone: o.Status.Zone, Pools: map[string]condition.Pool{}}
	for _, l := range o.Status.LvStores {
		n.Pools[l.Name] = condition.Pool{TotalBytes: l.SizeBytes, FreeBytes: l.FreeBytes}
	}
	switch ready := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionReady); {
	case ready == nil:
		n.Silent = "the controller has not told of it"
	case ready.Status != metav1.ConditionTrue:
		n.Silent = ready.Message
	}
	return n
}

// told is the way back from what statusOf makes; false if it has made nothing yet.
func told(s v1alpha1.VolumeStatus) (condition.Told, bool) {
	t := condition.Told{Condition: condition.Condition{State: condition.State(s.State)}}
	if n, err := fmt.Sscanf(s.Replicas, "%d/%d", &t.Good, &t.Wanted); n != 2 || err != nil {
		return condition.Told{}, false
	}
	if b := s.Rebuild; b != nil {
		t.Rebuild = &condition.Rebuild{Replica: b.Replica, Percent: int(b.Percent), Copied: b.Copied}
	}
	healthy, available := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionHealthy), meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionAvailable)
	if healthy == nil || healthy.Status != metav1.ConditionFalse {
		return t, true
	}
	t.Worst = condition.Finding{Severity: condition.Degraded, Reason: condition.Reason(healthy.Reason), Message: healthy.Message}
	switch {
	case t.Worst.Reason == condition.ReasonLastCopyLost:
		t.Worst.Severity = condition.DataLoss
	case available != nil && available.Status == metav1.ConditionFalse:
		t.Worst.Severity = condition.Inaccessible
	}
	return t, true
}
