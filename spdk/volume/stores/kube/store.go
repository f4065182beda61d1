package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
)

// Get implements volume.Store.
func (s *Store) Get(ctx context.Context, id string) (*volume.Volume, error) {
	return volumes.get(ctx, s.client, id)
}

// Create implements volume.Store.
func (s *Store) Create(ctx context.Context, v *volume.Volume) error {
	return volumes.create(ctx, s.client, v)
}

// Update implements volume.Store.
func (s *Store) Update(ctx context.Context, v *volume.Volume) error {
	return volumes.update(ctx, s.client, v)
}

// Delete implements volume.Store.
func (s *Store) Delete(ctx context.Context, v *volume.Volume) error {
	return volumes.delete(ctx, s.client, v)
}

// List implements volume.Store.
func (s *Store) List(ctx context.Context, after string, limit int) ([]*volume.Volume, error) {
	return volumes.list(ctx, s.client, after, limit)
}

// GetSnapshot implements volume.SnapshotStore.
func (s *Store) GetSnapshot(ctx context.Context, id string) (*volume.Snapshot, error) {
	return snapshots.get(ctx, s.client, id)
}

// CreateSnapshot implements volume.SnapshotStore.
func (s *Store) CreateSnapshot(ctx context.Context, sn *volume.Snapshot) error {
	return snapshots.create(ctx, s.client, sn)
}

// UpdateSnapshot implements volume.SnapshotStore.
func (s *Store) UpdateSnapshot(ctx context.Context, sn *volume.Snapshot) error {
	return snapshots.update(ctx, s.client, sn)
}

// DeleteSnapshot implements volume.SnapshotStore.
func (s *Store) DeleteSnapshot(ctx context.Context, sn *volume.Snapshot) error {
	return snapshots.delete(ctx, s.client, sn)
}

// ListSnapshots implements volume.SnapshotStore.
func (s *Store) ListSnapshots(ctx context.Context, after string, limit int) ([]*volume.Snapshot, error) {
	return snapshots.list(ctx, s.client, after, limit)
}

// Wishes implements volume.Store. For the node that the store was opened for it is answered from the watch.
func (s *Store) Wishes(ctx context.Context, node string) ([]string, error) {
	if s.wishes != nil && s.wishes.node == node {
		return s.wishes.ids(ctx)
	}
	var ids []string
	for _, fields := range wishFields(node) {
		some, err := volumes.list(ctx, s.client, "", 0, client.MatchingFieldsSelector{Selector: fields})
		if err != nil {
			return nil, fmt.Errorf("find what is wanted of %s: %w", node, err)
		}
		for _, v := range some {
			if slices.Contains(v.Wanted(), node) {
				ids = append(ids, v.ID)
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// Host implements volume.Store.
func (s *Store) Host(ctx context.Context, name string) (volume.Host, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var o v1alpha1.Host
	if err := failure(s.client.Get(ctx, client.ObjectKey{Name: name}, &o), name, volume.ErrHostUnknown); err != nil {
		return volume.Host{}, fmt.Errorf("read the record of node %s: %w", name, err)
	}
	return volume.Host{Name: name, MachineID: o.Spec.MachineID}, nil
}

// PutHost implements volume.Store.
func (s *Store) PutHost(ctx context.Context, h volume.Host) error {
	err := checkName(h.Name)
	if err == nil {
		err = s.put(ctx, &v1alpha1.Host{}, h.Name, func(o client.Object) { o.(*v1alpha1.Host).Spec.MachineID = h.MachineID })
	}
	if err != nil {
		return fmt.Errorf("write the record of node %s: %w", h.Name, err)
	}
	return nil
}

// put changes an object, or makes it. Another writer in between has it begin again.
func (s *Store) put(ctx context.Context, o client.Object, name string, change func(client.Object)) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	for {
		err := failure(s.client.Get(ctx, client.ObjectKey{Name: name}, o), name, errAbsent)
		switch {
		case err == nil:
			change(o)
			err = s.client.Update(ctx, o)
		case errors.Is(err, errAbsent):
			o.SetName(name)
			o.SetResourceVersion("")
			change(o)
			err = s.client.Create(ctx, o)
		default:
			return err
		}
		err = failure(err, name, errAbsent)
		again := errors.Is(err, errAbsent) || errors.Is(err, volume.ErrConflict) || errors.Is(err, volume.ErrExists)
		if !again || ctx.Err() != nil {
			return err
		}
	}
}

// errAbsent: the object to be changed is not there.
var errAbsent = errors.New("no such object")

// validName says what is wrong with the name of an object.
func validName(name string) []string { return validation.IsDNS1123Subdomain(name) }
