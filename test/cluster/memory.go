package cluster

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// memory keeps records in memory. It never waits.
type memory struct {
	*Snapshots
	*Cordons
	volumes table[volume.Volume]

	mu    sync.Mutex
	hosts map[string]volume.Host
}

func newMemory() *memory {
	return &memory{
		Snapshots: NewSnapshots(), Cordons: &Cordons{}, hosts: map[string]volume.Host{},
		volumes: table[volume.Volume]{
			clone: (*volume.Volume).Clone, absent: volume.ErrNotFound,
			of: func(v *volume.Volume) (string, *uint64) { return v.ID, &v.Revision },
		},
	}
}

func (m *memory) Get(ctx context.Context, id string) (*volume.Volume, error) {
	return m.volumes.get(ctx, id)
}

func (m *memory) Create(ctx context.Context, v *volume.Volume) error { return m.volumes.create(ctx, v) }

func (m *memory) Update(ctx context.Context, v *volume.Volume) error { return m.volumes.update(ctx, v) }

func (m *memory) Delete(ctx context.Context, v *volume.Volume) error { return m.volumes.remove(ctx, v) }

func (m *memory) List(ctx context.Context, after string, limit int) ([]*volume.Volume, error) {
	return m.volumes.list(ctx, after, limit)
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

func (m *memory) Wishes(ctx context.Context, node string) ([]string, error) {
	all, err := m.volumes.list(ctx, "", 0)
	var found []string
	for _, v := range all {
		if slices.Contains(v.Wanted(), node) {
			found = append(found, v.ID)
		}
	}
	return found, err
}
