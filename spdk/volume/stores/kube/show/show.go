// Package show writes what people are to see of volumes and SPDK nodes into the status of their resources, and tells of changes by events on
// the claims. Nothing is ever decided by what it writes.
package show

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
)

// component is who the events are from.
const component = kube.DriverName

const (
	// numbersInterval is how often figures and messages are written that change by themselves, as that of a rebuild that goes on. Whatever
	// else changes is written at once.
	numbersInterval = 30 * time.Second
	// writeTimeout bounds one write.
	writeTimeout = 5 * time.Second
)

// Display shows pictures. It is used by one goroutine at a time.
type Display struct {
	client  client.Client
	events  record.EventRecorder
	clock   clock.PassiveClock
	volumes map[string]shown[v1alpha1.VolumeStatus]
	nodes   map[string]shown[v1alpha1.SPDKNodeStatus]
	end     func()
}

// shown is a status as it was last written, and when; the zero time is before this process.
type shown[S any] struct {
	status S
	at     time.Time
}

// New returns a Display for an API server. Close ends it.
func New(ctx context.Context, c *rest.Config, kube client.Client) (*Display, error) {
	core, err := typedcorev1.NewForConfig(c)
	if err != nil {
		return nil, fmt.Errorf("record events: %w", err)
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: core.Events("")})
	d := NewDisplay(kube, broadcaster.NewRecorder(kube.Scheme(), corev1.EventSource{Component: component}), clock.RealClock{})
	d.end = broadcaster.Shutdown
	return d, nil
}

// NewDisplay returns a Display that writes with a client and tells a recorder.
func NewDisplay(c client.Client, events record.EventRecorder, now clock.PassiveClock) *Display {
	return &Display{client: c, events: events, clock: now, end: func() {}}
}

// Close ends the recording of events.
func (d *Display) Close() { d.end() }

// Show writes what has changed since the last picture, or since what the resources show if this is the first.
func (d *Display) Show(ctx context.Context, p condition.Picture) error {
	if d.volumes == nil {
		if err := d.read(ctx); err != nil {
			return err
		}
	}
	var errs []error
	there := map[string]bool{}
	for _, v := range p.Volumes {
		there[v.ID] = true
		if err := d.showVolume(ctx, v, p.Sight); err != nil {
			errs = append(errs, fmt.Errorf("show how volume %s is: %w", v.ID, err))
		}
	}
	for id := range d.volumes {
		if !there[id] {
			delete(d.volumes, id)
		}
	}
	for _, n := range p.Nodes {
		if err := d.showNode(ctx, n, p.Sight); err != nil {
			errs = append(errs, fmt.Errorf("show how SPDK node %s is: %w", n.Name, err))
		}
	}
	return errors.Join(errs...)
}

// read begins with what the resources show, so that nothing is told twice.
func (d *Display) read(ctx context.Context) error {
	var volumes v1alpha1.VolumeList
	var nodes v1alpha1.SPDKNodeList
	for _, list := range []client.ObjectList{&volumes, &nodes} {
		if err := d.client.List(ctx, list); err != nil {
			return fmt.Errorf("read what is shown: %w", err)
		}
	}
	d.volumes, d.nodes = map[string]shown[v1alpha1.VolumeStatus]{}, map[string]shown[v1alpha1.SPDKNodeStatus]{}
	for _, o := range volumes.Items {
		d.volumes[o.Name] = shown[v1alpha1.VolumeStatus]{status: o.Status}
	}
	for _, o := range nodes.Items {
		d.nodes[o.Name] = shown[v1alpha1.SPDKNodeStatus]{status: o.Status}
	}
	return nil
}

// due says whether a status is to be written: at once if the plain form of it has changed, which leaves out what changes by itself.
func due[S any](last shown[S], next S, now time.Time, plain func(S) S) bool {
	if !reflect.DeepEqual(plain(last.status), plain(next)) {
		return true
	}
	return now.Sub(last.at) >= numbersInterval && !reflect.DeepEqual(last.status, next)
}

// write puts a status in place of what is there.
func (d *Display) write(ctx context.Context, o client.Object, status any) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	body, err := json.Marshal([]map[string]any{{"op": "add", "path": "/status", "value": status}})
	if err != nil {
		return err
	}
	return d.client.Status().Patch(ctx, o, client.RawPatch(types.JSONPatchType, body))
}

// withoutMessages returns conditions without what changes by itself.
func withoutMessages(conditions []metav1.Condition) []metav1.Condition {
	var plain []metav1.Condition
	for _, c := range conditions {
		plain = append(plain, metav1.Condition{Type: c.Type, Status: c.Status, Reason: c.Reason})
	}
	return plain
}
