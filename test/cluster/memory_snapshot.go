package cluster

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Snapshots keeps the records of snapshots in memory.
type Snapshots struct {
	mu       sync.Mutex
	taken    map[string]*volume.Snapshot
	revision uint64
}

// NewSnapshots returns no records.
func NewSnapshots() *Snapshots { return &Snapshots{taken: map[string]*volume.Snapshot{}} }

// GetSnapshot implements volume.SnapshotStore.
func (m *Snapshots) GetSnapshot(ctx context.Context, id string) (*volume.Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.taken[id]
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case !ok:
		return nil, fmt.Errorf("record %s: %w", id, volume.ErrNoSnapshot)
	}
	return s.Clone(), nil
}

// CreateSnapshot implements volume.SnapshotStore.
func (m *Snapshots) CreateSnapshot(ctx context.Context, s *volume.Snapshot) error {
	return m.writeSnapshot(ctx, s, func(old *volume.Snapshot) error {
		if old != nil {
			return volume.ErrExists
		}
		return nil
	})
}

// UpdateSnapshot implements volume.SnapshotStore.
func (m *Snapshots) UpdateSnapshot(ctx context.Context, s *volume.Snapshot) error {
	return m.writeSnapshot(ctx, s, func(old *volume.Snapshot) error { return unchangedSnapshot(old, s) })
}

func (m *Snapshots) writeSnapshot(ctx context.Context, s *volume.Snapshot, allowed func(old *volume.Snapshot) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := allowed(m.taken[s.ID]); err != nil {
		return fmt.Errorf("record %s: %w", s.ID, err)
	}
	m.revision++
	s.Revision = m.revision
	m.taken[s.ID] = s.Clone()
	return nil
}

func unchangedSnapshot(old, s *volume.Snapshot) error {
	switch {
	case old == nil:
		return volume.ErrNoSnapshot
	case old.Revision != s.Revision:
		return volume.ErrConflict
	}
	return nil
}

// DeleteSnapshot implements volume.SnapshotStore.
func (m *Snapshots) DeleteSnapshot(ctx context.Context, s *volume.Snapshot) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := unchangedSnapshot(m.taken[s.ID], s); err != nil {
		return fmt.Errorf("record %s: %w", s.ID, err)
	}
	delete(m.taken, s.ID)
	return nil
}

// ListSnapshots implements volume.SnapshotStore.
func (m *Snapshots) ListSnapshots(ctx context.Context, after string, limit int) ([]*volume.Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []*volume.Snapshot
	for _, id := range slices.Sorted(maps.Keys(m.taken)) {
		if id > after && (limit == 0 || len(found) < limit) {
			found = append(found, m.taken[id].Clone())
		}
	}
	return found, ctx.Err()
}
