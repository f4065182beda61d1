package remote

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// GetSnapshot implements volume.SnapshotStore.
func (s *Store) GetSnapshot(ctx context.Context, id string) (*volume.Snapshot, error) {
	var r snapshotRecord
	if err := s.call(ctx, http.MethodGet, pathSnapshots+"/"+url.PathEscape(id), nil, &r); err != nil {
		return nil, err
	}
	return r.unpack(), nil
}

// CreateSnapshot implements volume.SnapshotStore.
func (s *Store) CreateSnapshot(ctx context.Context, sn *volume.Snapshot) error {
	return s.writeSnapshot(ctx, http.MethodPost, sn)
}

// UpdateSnapshot implements volume.SnapshotStore.
func (s *Store) UpdateSnapshot(ctx context.Context, sn *volume.Snapshot) error {
	return s.writeSnapshot(ctx, http.MethodPut, sn)
}

// DeleteSnapshot implements volume.SnapshotStore.
func (s *Store) DeleteSnapshot(ctx context.Context, sn *volume.Snapshot) error {
	var r snapshotRecord
	return s.call(ctx, http.MethodDelete, pathSnapshots, packSnapshot(sn), &r)
}

func (s *Store) writeSnapshot(ctx context.Context, method string, sn *volume.Snapshot) error {
	var r snapshotRecord
	if err := s.call(ctx, method, pathSnapshots, packSnapshot(sn), &r); err != nil {
		return err
	}
	sn.Revision = r.Revision
	return nil
}

// ListSnapshots implements volume.SnapshotStore.
func (s *Store) ListSnapshots(ctx context.Context, after string, limit int) ([]*volume.Snapshot, error) {
	query := url.Values{"after": {after}, "limit": {strconv.Itoa(limit)}}
	var records []snapshotRecord
	if err := s.call(ctx, http.MethodGet, pathSnapshots+"?"+query.Encode(), nil, &records); err != nil {
		return nil, err
	}
	found := make([]*volume.Snapshot, 0, len(records))
	for _, r := range records {
		found = append(found, r.unpack())
	}
	return found, nil
}

// Wishes implements volume.SnapshotStore.
func (s *Store) Wishes(ctx context.Context, owner string) ([]string, error) {
	var ids []string
	err := s.call(ctx, http.MethodGet, pathWishes+"/"+url.PathEscape(owner), nil, &ids)
	return ids, err
}
