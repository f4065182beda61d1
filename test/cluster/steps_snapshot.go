package cluster

import (
	"context"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

func (s *store) GetSnapshot(ctx context.Context, id string) (sn *volume.Snapshot, err error) {
	err = s.do("get snapshot", true, func() error { sn, err = s.real.GetSnapshot(ctx, id); return err })
	return sn, err
}

func (s *store) CreateSnapshot(ctx context.Context, sn *volume.Snapshot) error {
	return s.do("create snapshot", false, func() error { return s.real.CreateSnapshot(ctx, sn) })
}

func (s *store) UpdateSnapshot(ctx context.Context, sn *volume.Snapshot) error {
	return s.do("update snapshot", false, func() error { return s.real.UpdateSnapshot(ctx, sn) })
}

func (s *store) DeleteSnapshot(ctx context.Context, sn *volume.Snapshot) error {
	return s.do("delete snapshot", false, func() error { return s.real.DeleteSnapshot(ctx, sn) })
}

func (s *store) ListSnapshots(ctx context.Context, after string, limit int) (all []*volume.Snapshot, err error) {
	err = s.do("list snapshots", true, func() error { all, err = s.real.ListSnapshots(ctx, after, limit); return err })
	return all, err
}

func (s *store) Wishes(ctx context.Context, owner string) (ids []string, err error) {
	err = s.do("wishes", true, func() error { ids, err = s.real.Wishes(ctx, owner); return err })
	return ids, err
}

func (s *store) Cordoned(ctx context.Context) (names []string, err error) {
	err = s.do("cordoned", true, func() error { names, err = s.real.Cordoned(ctx); return err })
	return names, err
}

func (s *store) SetCordon(ctx context.Context, node string, cordoned bool) error {
	return s.do("set cordon", false, func() error { return s.real.SetCordon(ctx, node, cordoned) })
}
