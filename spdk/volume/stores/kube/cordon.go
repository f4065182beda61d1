package kube

import (
	"context"
	"fmt"
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
)

// Cordoned implements volume.CordonStore.
func (s *Store) Cordoned(ctx context.Context) ([]string, error) {
	nodes, err := s.SPDKNodes(ctx)
	if err != nil {
		return nil, fmt.Errorf("read which SPDK nodes are cordoned: %w", err)
	}
	var names []string
	for _, n := range nodes {
		if n.Spec.Cordoned {
			names = append(names, n.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// SetCordon implements volume.CordonStore. A node of which there is no resource yet gets one.
func (s *Store) SetCordon(ctx context.Context, node string, cordoned bool) error {
	err := checkName(node)
	if err == nil {
		err = s.put(ctx, &v1alpha1.SPDKNode{}, node, func(o client.Object) { o.(*v1alpha1.SPDKNode).Spec.Cordoned = cordoned })
	}
	if err != nil {
		return fmt.Errorf("put on record whether SPDK node %s is cordoned: %w", node, err)
	}
	return nil
}

// SPDKNodes returns the resources of all SPDK nodes.
func (s *Store) SPDKNodes(ctx context.Context) ([]v1alpha1.SPDKNode, error) {
	var list v1alpha1.SPDKNodeList
	if err := listPage(ctx, s.client, &list, nil); err != nil {
		return nil, failure(err, "", errAbsent)
	}
	return list.Items, nil
}
