package random_test

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// drawOther makes a new snapshot one of a group, with one of another volume, now and then.
func (s *snap) drawOther() {
	v := s.w.volumes[s.w.rng.IntN(len(s.w.volumes))]
	if v != s.of && v.done >= created && !v.deleting {
		s.with = s.w.newSnap(v)
		s.with.lead = s
	}
}

func (s *snap) createGroup(ctx context.Context) error {
	resp, err := s.w.controller.CreateVolumeGroupSnapshot(ctx, &csi.CreateVolumeGroupSnapshotRequest{Name: s.name, SourceVolumeIds: []string{s.of.id(), s.with.of.id()}})
	if err != nil {
		return err
	}
	for _, sn := range resp.GetGroupSnapshot().GetSnapshots() {
		member := s
		if sn.GetSourceVolumeId() == s.with.of.id() {
			member = s.with
		}
		member.group, member.sizeBytes = sn.GetSnapshotId(), sn.GetSizeBytes()
	}
	return nil
}

func (s *snap) removeGroup(ctx context.Context) error {
	_, err := s.w.controller.DeleteVolumeGroupSnapshot(ctx, &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: volume.GroupIDFor(s.name)})
	return err
}

// checkOrder fails the run if one volume of a group has a write that began after one was acknowledged that the other lacks.
func (s *snap) checkOrder() {
	for _, err := range []error{inOrder(s.latest, s.with.missing), inOrder(s.with.latest, s.missing)} {
		if err != nil {
			s.w.fail("the group of %s and %s is not of one moment: %v", s.name, s.with.name, err)
		}
	}
}
