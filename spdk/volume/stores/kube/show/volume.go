package show

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
)

// Reasons of conditions and events beside those of findings.
const (
	reasonHealthy   = "Healthy"
	reasonAvailable = "Available"
	reasonNone      = "NothingToRebuild"
	reasonCopying   = "ReplicaIsRebuilt"
	// reasonHealed and reasonRaidHostChanged are of events alone.
	reasonHealed          = "Healed"
	reasonRaidHostChanged = "RaidHostChanged"
)

func (d *Display) showVolume(ctx context.Context, v *volume.Volume, sight condition.Sight) error {
	last := d.volumes[v.ID]
	next := d.statusOf(v, sight, last.status)
	if !due(last, next, d.clock.Now(), func(s v1alpha1.VolumeStatus) v1alpha1.VolumeStatus {
		s.Conditions, s.Rebuild = withoutMessages(s.Conditions), nil
		return s
	}) {
		return nil
	}
	o := &v1alpha1.Volume{ObjectMeta: metav1.ObjectMeta{Name: v.ID}}
	if err := client.IgnoreNotFound(d.write(ctx, o, next)); err != nil {
		return err
	}
	d.volumes[v.ID] = shown[v1alpha1.VolumeStatus]{next, d.clock.Now()}
	return d.tell(ctx, v, last.status, next)
}

// statusOf returns what is to be shown of a volume, with the times since when.
func (d *Display) statusOf(v *volume.Volume, sight condition.Sight, last v1alpha1.VolumeStatus) v1alpha1.VolumeStatus {
	c := condition.Assess(v, sight)
	s := v1alpha1.VolumeStatus{
		Size: resource.NewQuantity(v.SizeBytes, resource.BinarySI).String(), Replicas: fmt.Sprintf("%d/%d", c.Good, c.Wanted), State: string(c.State),
		Conditions: slices.Clone(last.Conditions),
	}
	if v.Assembly != nil && !v.Assembly.Stopping {
		s.RaidHost = v.Assembly.RaidHost
	}
	var nodes []string
	for _, p := range v.Publications {
		nodes = append(nodes, p.Node)
	}
	s.PublishedTo = strings.Join(nodes, ",")
	healthy, available := conditionsOf(v, sight)
	rebuilding := metav1.Condition{Type: v1alpha1.ConditionRebuilding, Status: metav1.ConditionFalse, Reason: reasonNone}
	if c.Rebuild != nil {
		s.Rebuild = &v1alpha1.RebuildStatus{Replica: c.Rebuild.Replica, Percent: int32(min(max(c.Rebuild.Percent, 0), 100)), Copied: c.Rebuild.Copied}
		rebuilding.Status, rebuilding.Reason, rebuilding.Message = metav1.ConditionTrue, reasonCopying, fmt.Sprintf("replica %s: %s", c.Rebuild.Replica, c.Rebuild)
	}
	for _, c := range []metav1.Condition{healthy, available, rebuilding} {
		c.LastTransitionTime = metav1.NewTime(d.clock.Now().Truncate(1e9))
		meta.SetStatusCondition(&s.Conditions, c)
	}
	return s
}

// conditionsOf says whether a volume is healthy and whether it can be used, by the worst that is wrong with it.
func conditionsOf(v *volume.Volume, sight condition.Sight) (healthy, available metav1.Condition) {
	healthy = metav1.Condition{Type: v1alpha1.ConditionHealthy, Status: metav1.ConditionTrue, Reason: reasonHealthy}
	available = metav1.Condition{Type: v1alpha1.ConditionAvailable, Status: metav1.ConditionTrue, Reason: reasonAvailable}
	if v.Phase != volume.PhaseReady {
		phase := strings.ToUpper(string(v.Phase[:1])) + string(v.Phase[1:])
		healthy.Status, healthy.Reason = metav1.ConditionUnknown, phase
		available.Status, available.Reason = metav1.ConditionFalse, phase
		return healthy, available
	}
	findings := condition.Findings(v, sight)
	severities := []condition.Severity{condition.DataLoss, condition.Inaccessible, condition.Degraded}
	slices.SortStableFunc(findings, func(a, b condition.Finding) int {
		return slices.Index(severities, a.Severity) - slices.Index(severities, b.Severity)
	})
	var messages []string
	for _, f := range findings {
		messages = append(messages, f.Message)
		if f.Severity != condition.Degraded && available.Status == metav1.ConditionTrue {
			available.Status, available.Reason, available.Message = metav1.ConditionFalse, string(f.Reason), f.Message
		}
	}
	if len(findings) > 0 {
		healthy.Status, healthy.Reason, healthy.Message = metav1.ConditionFalse, string(findings[0].Reason), strings.Join(messages, "; ")
	}
	return healthy, available
}

// tell records events for what has changed.
func (d *Display) tell(ctx context.Context, v *volume.Volume, last, next v1alpha1.VolumeStatus) error {
	before, now := meta.FindStatusCondition(last.Conditions, v1alpha1.ConditionHealthy), meta.FindStatusCondition(next.Conditions, v1alpha1.ConditionHealthy)
	wrong := func(c *metav1.Condition) bool { return c != nil && c.Status == metav1.ConditionFalse }
	type event struct{ kind, reason, message string }
	var events []event
	switch {
	case wrong(now) && now.Reason == string(condition.ReasonRebuilding) && (!wrong(before) || before.Reason != now.Reason):
		events = append(events, event{corev1.EventTypeNormal, now.Reason, now.Message})
	case wrong(now) && (!wrong(before) || before.Reason != now.Reason):
		events = append(events, event{corev1.EventTypeWarning, now.Reason, now.Message})
	case wrong(before) && now.Status == metav1.ConditionTrue:
		events = append(events, event{corev1.EventTypeNormal, reasonHealed, "nothing is wrong with the volume any more: " + next.Replicas + " replicas are good"})
	}
	if last.RaidHost != "" && next.RaidHost != "" && last.RaidHost != next.RaidHost && last.PublishedTo == next.PublishedTo {
		events = append(events, event{corev1.EventTypeNormal, reasonRaidHostChanged, fmt.Sprintf("the volume runs on SPDK node %s, before on %s", next.RaidHost, last.RaidHost)})
	}
	if len(events) == 0 {
		return nil
	}
	about, err := d.about(ctx, v)
	for _, e := range events {
		d.events.Event(about, e.kind, e.reason, e.message)
	}
	return err
}

// about returns what an event is about: the volume's claim, else its PersistentVolume, else its own resource.
func (d *Display) about(ctx context.Context, v *volume.Volume) (*corev1.ObjectReference, error) {
	own := &corev1.ObjectReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Volume", Name: v.ID}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	var pv corev1.PersistentVolume
	err := d.client.Get(ctx, client.ObjectKey{Name: v.Name}, &pv)
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsInvalid(err):
		return own, nil
	case err != nil:
		return own, fmt.Errorf("find the claim of the volume: %w", err)
	case pv.Spec.CSI == nil || pv.Spec.CSI.Driver != component || pv.Spec.CSI.VolumeHandle != v.ID:
		return own, nil
	case pv.Spec.ClaimRef == nil:
		return &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolume", Name: pv.Name, UID: pv.UID}, nil
	}
	claim := *pv.Spec.ClaimRef
	claim.APIVersion, claim.Kind, claim.ResourceVersion = "v1", "PersistentVolumeClaim", ""
	return &claim, nil
}
