package cluster

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// memory keeps records in memory. It never waits.
type memory struct {
	*Snapshots
	mu       sync.Mutex
	records  map[string]*volume.Volume
	hosts    map[string]volume.Host
	revision uint64
}

func newMemory() *memory {
	return &memory{records: map[string]*volume.Volume{}, hosts: map[string]volume.Host{}, Snapshots: NewSnapshots()}
}

func (m *memory) Get(ctx context.Context, id string) (*volume.Volume, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.records[id]
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case !ok:
		return nil, fmt.Errorf("record %s: %w", id, volume.ErrNotFound)
	}
	return v.Clone(), nil
}

func (m *memory) Create(ctx context.Context, v *volume.Volume) error {
	return m.write(ctx, v, func(old *volume.Volume) error {
		if old != nil {
			return volume.ErrExists
		}
		return nil
	})
}

func (m *memory) Update(ctx context.Context, v *volume.Volume) error {
	return m.write(ctx, v, func(old *volume.Volume) error { return unchanged(old, v) })
}

func (m *memory) write(ctx context.Context, v *volume.Volume, allowed func(old *volume.Volume) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := allowed(m.records[v.ID]); err != nil {
		return fmt.Errorf("record %s: %w", v.ID, err)
	}
	m.revision++
	v.Revision = m.revision
	m.records[v.ID] = v.Clone()
	return nil
}

func unchanged(old, v *volume.Volume) error {
	switch {
	case old == nil:
		return volume.ErrNotFound
	case old.Revision != v.Revision:
		return volume.ErrConflict
	}
	return nil
}

func (m *memory) Delete(ctx context.Context, v *volume.Volume) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := unchanged(m.records[v.ID], v); err != nil {
		return fmt.Errorf("record %s: %w", v.ID, err)
	}
	delete(m.records, v.ID)
	return nil
}

func (m *memory) List(ctx context.Context, after string, limit int) ([]*volume.Volume, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []*volume.Volume
	for _, id := range slices.Sorted(maps.Keys(m.records)) {
		if id > after && (limit == 0 || len(found) < limit) {
			found = append(found, m.records[id].Clone())
		}
	}
	return found, ctx.Err()
}

func (m *memory) Host(_ context.Context, name string) (volume.Host, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h, ok := m.hosts[name]
	if !ok {
		return volume.Host{}, fmt.Errorf("node %s: %w", name, volume.ErrHostUnknown)
	}
	return h, nil
}

func (m *memory) PutHost(_ context.Context, h volume.Host) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hosts[h.Name] = h
	return nil
}

func (m *memory) Wishes(ctx context.Context, owner string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []string
	for _, id := range slices.Sorted(maps.Keys(m.records)) {
		if v := m.records[id]; v.Owner == owner && v.OwnerWanted() {
			found = append(found, id)
		}
	}
	return found, ctx.Err()
}
