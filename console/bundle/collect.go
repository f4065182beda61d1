package bundle

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
)

// DriverPods selects the pods of the driver by the label that the chart gives them.
var DriverPods = client.MatchingLabels{"app.kubernetes.io/name": "holdfast"}

// object is what is taken of a resource of the driver.
type object struct {
	Name    string       `json:"name"`
	Created metav1.Time  `json:"created"`
	Deleted *metav1.Time `json:"deleted,omitempty"`
	Spec    any          `json:"spec"`
	Status  any          `json:"status,omitempty"`
}

func objectOf(o client.Object, spec, status any) object {
	return object{Name: o.GetName(), Created: o.GetCreationTimestamp(), Deleted: o.GetDeletionTimestamp(), Spec: spec, Status: status}
}

// records writes the resources of the driver.
func (s Source) records(ctx context.Context, w *writer) {
	var volumes v1alpha1.VolumeList
	var snapshots v1alpha1.SnapshotList
	var hosts v1alpha1.HostList
	var nodes v1alpha1.SPDKNodeList
	for name, kind := range map[string]struct {
		list    client.ObjectList
		objects func() []object
	}{
		"volumes.json": {&volumes, func() (all []object) {
			for _, o := range volumes.Items {
				all = append(all, objectOf(&o, o.Spec, o.Status))
			}
			return all
		}},
		"snapshots.json": {&snapshots, func() (all []object) {
			for _, o := range snapshots.Items {
				all = append(all, objectOf(&o, o.Spec, nil))
			}
			return all
		}},
		"hosts.json": {&hosts, func() (all []object) {
			for _, o := range hosts.Items {
				all = append(all, objectOf(&o, o.Spec, nil))
			}
			return all
		}},
		"spdknodes.json": {&nodes, func() (all []object) {
			for _, o := range nodes.Items {
				all = append(all, objectOf(&o, o.Spec, o.Status))
			}
			return all
		}},
	} {
		if err := s.Client.List(ctx, kind.list); err != nil {
			w.lacks(name, err)
			continue
		}
		w.object(name, kind.objects())
	}
}

// events writes the events that tell of the driver: about its pods, from it and its sidecars, and those that name one of its volumes.
func (s Source) events(ctx context.Context, w *writer) {
	var list corev1.EventList
	var volumes v1alpha1.VolumeList
	err := s.Client.List(ctx, &list)
	if err == nil {
		err = s.Client.List(ctx, &volumes)
	}
	if err != nil {
		w.lacks("events.txt", err)
		return
	}
	var names []string
	for _, v := range volumes.Items {
		names = append(names, v.Name, v.Spec.Name)
	}
	about := func(e corev1.Event) bool {
		return e.InvolvedObject.Namespace == s.Namespace || strings.Contains(e.Source.Component+e.ReportingController+e.Message, kube.DriverName) ||
			slices.ContainsFunc(names, func(name string) bool { return name != "" && strings.Contains(e.Message, name) })
	}
	slices.SortFunc(list.Items, func(a, b corev1.Event) int { return lastSeen(a).Compare(lastSeen(b)) })
	var text strings.Builder
	for _, e := range list.Items {
		if about(e) {
			fmt.Fprintf(&text, "%s %s %s %s/%s/%s x%d: %s\n", lastSeen(e).UTC().Format(time.RFC3339), e.Type, e.Reason,
				e.InvolvedObject.Kind, e.InvolvedObject.Namespace, e.InvolvedObject.Name, max(e.Count, 1), e.Message)
		}
	}
	w.text("events.txt", text.String())
}

// lastSeen is when an event was told last; the old and the new form of events have it in different places.
func lastSeen(e corev1.Event) time.Time {
	switch {
	case e.Series != nil:
		return e.Series.LastObservedTime.Time
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp.Time
	case !e.EventTime.IsZero():
		return e.EventTime.Time
	}
	return e.CreationTimestamp.Time
}

// pod is what is taken of a pod.
type pod struct {
	Name       string            `json:"name"`
	Node       string            `json:"node"`
	Phase      string            `json:"phase"`
	Created    metav1.Time       `json:"created"`
	Containers []containerStatus `json:"containers"`
}

type containerStatus struct {
	Name     string                 `json:"name"`
	Image    string                 `json:"image"`
	ImageID  string                 `json:"imageID"`
	Ready    bool                   `json:"ready"`
	Restarts int32                  `json:"restarts"`
	State    corev1.ContainerState  `json:"state"`
	Last     *corev1.ContainerState `json:"last,omitempty"`
}

// pods writes how the driver's pods are, which images they run, and their logs.
func (s Source) pods(ctx context.Context, w *writer) {
	var list corev1.PodList
	if err := s.Client.List(ctx, &list, client.InNamespace(s.Namespace), DriverPods); err != nil {
		w.lacks("pods.json", err)
		return
	}
	if len(list.Items) == 0 {
		w.lacks("pods.json", fmt.Errorf("there are no pods of the driver in namespace %s; --driver-namespace names another", s.Namespace))
	}
	var pods []pod
	for _, p := range list.Items {
		shown := pod{Name: p.Name, Node: p.Spec.NodeName, Phase: string(p.Status.Phase), Created: p.CreationTimestamp}
		for _, c := range p.Status.ContainerStatuses {
			status := containerStatus{Name: c.Name, Image: c.Image, ImageID: c.ImageID, Ready: c.Ready, Restarts: c.RestartCount, State: c.State}
			if c.LastTerminationState != (corev1.ContainerState{}) {
				status.Last = &c.LastTerminationState
			}
			shown.Containers = append(shown.Containers, status)
			s.log(ctx, w, p.Name, c.Name, false)
			if c.RestartCount > 0 {
				s.log(ctx, w, p.Name, c.Name, true)
			}
		}
		pods = append(pods, shown)
	}
	w.object("pods.json", pods)
}

// log writes the log of a container.
func (s Source) log(ctx context.Context, w *writer, pod, container string, previous bool) {
	name := "logs/" + pod + "/" + container + ".log"
	if previous {
		name = "logs/" + pod + "/" + container + ".previous.log"
	}
	from, err := s.Logs(ctx, s.Namespace, pod, container, previous)
	if err != nil {
		w.lacks(name, err)
		return
	}
	defer func() { _ = from.Close() }() // it was only read
	if err := w.file(name, from); err != nil {
		w.lacks(name, err)
	}
}
