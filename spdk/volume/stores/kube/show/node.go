package show

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
)

// showNode shows an SPDK node by a resource, which is made if there is none. One whose name no resource can have isn't shown.
func (d *Display) showNode(ctx context.Context, n condition.NodePicture, sight condition.Sight) error {
	if len(validation.IsDNS1123Subdomain(n.Name)) > 0 {
		return nil
	}
	o := &v1alpha1.SPDKNode{ObjectMeta: metav1.ObjectMeta{Name: n.Name}}
	last, known := d.nodes[n.Name]
	if !known {
		if err := client.IgnoreAlreadyExists(d.create(ctx, o)); err != nil {
			return err
		}
	}
	next := d.nodeStatusOf(n, sight, last.status)
	if !due(last, next, d.clock.Now(), func(s v1alpha1.SPDKNodeStatus) v1alpha1.SPDKNodeStatus {
		return v1alpha1.SPDKNodeStatus{Address: s.Address, Zone: s.Zone, Conditions: withoutMessages(s.Conditions)}
	}) {
		return nil
	}
	if err := d.write(ctx, o, next); err != nil {
		delete(d.nodes, n.Name) // it may have been deleted, and is made again
		return err
	}
	d.nodes[n.Name] = shown[v1alpha1.SPDKNodeStatus]{next, d.clock.Now()}
	return nil
}

func (d *Display) create(ctx context.Context, o client.Object) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return d.client.Create(ctx, o)
}

// nodeStatusOf returns what is to be shown of a node. Of one that doesn't answer the sizes stay as they were.
func (d *Display) nodeStatusOf(n condition.NodePicture, sight condition.Sight, last v1alpha1.SPDKNodeStatus) v1alpha1.SPDKNodeStatus {
	s := v1alpha1.SPDKNodeStatus{
		Address: n.NVMf.String(), Zone: n.Zone, Free: last.Free, Size: last.Size, LvStores: last.LvStores, Conditions: slices.Clone(last.Conditions),
	}
	if n.LvStores != nil {
		s.LvStores = nil
		var free, size int64
		for _, l := range n.LvStores {
			free, size = free+l.FreeBytes, size+l.TotalBytes
			s.LvStores = append(s.LvStores, v1alpha1.LvStoreStatus{Name: l.Name, FreeBytes: l.FreeBytes, SizeBytes: l.TotalBytes})
		}
		s.Free, s.Size = resource.NewQuantity(free, resource.BinarySI).String(), resource.NewQuantity(size, resource.BinarySI).String()
	}
	ready := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: "Answers", LastTransitionTime: metav1.NewTime(d.clock.Now().Truncate(1e9))}
	if err := sight.Err(n.Name); err != nil {
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, "Silent", err.Error()
	}
	meta.SetStatusCondition(&s.Conditions, ready)
	return s
}
