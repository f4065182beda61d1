package cluster

import (
	"context"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Snapshots keeps the records of snapshots in memory.
type Snapshots struct{ taken table[volume.Snapshot] }

// NewSnapshots returns no records.
func NewSnapshots() *Snapshots {
	return &Snapshots{taken: table[volume.Snapshot]{
		clone: (*volume.Snapshot).Clone, absent: volume.ErrNoSnapshot,
		of: func(s *volume.Snapshot) (string, *uint64) { return s.ID, &s.Revision },
	}}
}

// GetSnapshot implements volume.SnapshotStore.
func (m *Snapshots) GetSnapshot(ctx context.Context, id string) (*volume.Snapshot, error) {
	return m.taken.get(ctx, id)
}

// CreateSnapshot implements volume.SnapshotStore.
func (m *Snapshots) CreateSnapshot(ctx context.Context, s *volume.Snapshot) error {
	return m.taken.create(ctx, s)
}

// UpdateSnapshot implements volume.SnapshotStore.
func (m *Snapshots) UpdateSnapshot(ctx context.Context, s *volume.Snapshot) error {
	return m.taken.update(ctx, s)
}

// DeleteSnapshot implements volume.SnapshotStore.
func (m *Snapshots) DeleteSnapshot(ctx context.Context, s *volume.Snapshot) error {
	return m.taken.remove(ctx, s)
}

// ListSnapshots implements volume.SnapshotStore.
func (m *Snapshots) ListSnapshots(ctx context.Context, after string, limit int) ([]*volume.Snapshot, error) {
	return m.taken.list(ctx, after, limit)
}
