package random_test

import (
	"context"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

func (s *store) GetSnapshot(ctx context.Context, id string) (*volume.Snapshot, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return s.taken.GetSnapshot(ctx, id)
}

func (s *store) ListSnapshots(ctx context.Context, after string, limit int) ([]*volume.Snapshot, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return s.taken.ListSnapshots(ctx, after, limit)
}

func (s *store) CreateSnapshot(ctx context.Context, sn *volume.Snapshot) error {
	return s.writeSnapshot(ctx, func() error { return s.taken.CreateSnapshot(ctx, sn) })
}

func (s *store) UpdateSnapshot(ctx context.Context, sn *volume.Snapshot) error {
	return s.writeSnapshot(ctx, func() error { return s.taken.UpdateSnapshot(ctx, sn) })
}

func (s *store) DeleteSnapshot(ctx context.Context, sn *volume.Snapshot) error {
	return s.writeSnapshot(ctx, func() error { return s.taken.DeleteSnapshot(ctx, sn) })
}

func (s *store) writeSnapshot(ctx context.Context, write func() error) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := write(); err != nil {
		return err
	}
	return s.failsAfter()
}

func (s storeFor) CreateSnapshot(ctx context.Context, sn *volume.Snapshot) error {
	if err := s.p.dead(); err != nil {
		return err
	}
	return s.store.CreateSnapshot(ctx, sn)
}

func (s storeFor) UpdateSnapshot(ctx context.Context, sn *volume.Snapshot) error {
	if err := s.p.dead(); err != nil {
		return err
	}
	return s.store.UpdateSnapshot(ctx, sn)
}

func (s storeFor) DeleteSnapshot(ctx context.Context, sn *volume.Snapshot) error {
	if err := s.p.dead(); err != nil {
		return err
	}
	return s.store.DeleteSnapshot(ctx, sn)
}
