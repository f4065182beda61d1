package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/timestamppb"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// GroupControllerGetCapabilities implements csi.GroupControllerServer.
func (s *Server) GroupControllerGetCapabilities(context.Context, *csi.GroupControllerGetCapabilitiesRequest) (*csi.GroupControllerGetCapabilitiesResponse, error) {
	return &csi.GroupControllerGetCapabilitiesResponse{Capabilities: []*csi.GroupControllerServiceCapability{{
		Type: &csi.GroupControllerServiceCapability_Rpc{Rpc: &csi.GroupControllerServiceCapability_RPC{
			Type: csi.GroupControllerServiceCapability_RPC_CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT,
		}},
	}}}, nil
}

// CreateVolumeGroupSnapshot implements csi.GroupControllerServer. It returns when all snapshots are taken, at one moment.
func (s *Server) CreateVolumeGroupSnapshot(ctx context.Context, req *csi.CreateVolumeGroupSnapshotRequest) (*csi.CreateVolumeGroupSnapshotResponse, error) {
	name, sources := req.GetName(), slices.Sorted(slices.Values(req.GetSourceVolumeIds()))
	if err := checkName(name); err != nil {
		return nil, err
	}
	switch {
	case len(sources) == 0:
		return nil, invalid("source_volume_ids is empty")
	case slices.Contains(sources, ""):
		return nil, invalid("source_volume_ids has an empty ID")
	case len(slices.Compact(slices.Clone(sources))) < len(sources):
		return nil, invalid("source_volume_ids names a volume twice")
	}
	if err := checkNoParameters("VolumeGroupSnapshotClass", req.GetParameters()); err != nil {
		return nil, err
	}
	id := volume.GroupIDFor(name)
	unlock, err := s.locks.Try(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	members, err := s.createGroup(ctx, id, name, sources)
	if err != nil {
		return nil, fmt.Errorf("create group snapshot %q of %d volumes: %w", name, len(sources), err)
	}
	return &csi.CreateVolumeGroupSnapshotResponse{GroupSnapshot: describeGroup(members)}, nil
}

// createGroup finds the records of an earlier call or makes them, and has the snapshots taken. sources are sorted.
func (s *Server) createGroup(ctx context.Context, id, name string, sources []string) ([]*volume.Snapshot, error) {
	group := volume.SnapshotGroup{ID: id, Volumes: sources}
	lead, err := s.store.GetSnapshot(ctx, volume.GroupLead(id))
	switch {
	case errors.Is(err, volume.ErrNoSnapshot):
	case err != nil:
		return nil, err
	case !lead.Leads() || lead.Name != name || !slices.Equal(lead.Group.Volumes, sources):
		return nil, fmt.Errorf("%w: a group snapshot of that name is one of other volumes", volume.ErrSnapshotDiffers)
	case lead.Phase == volume.SnapshotDeleting:
		return nil, fmt.Errorf("%w: a group snapshot of that name is still being deleted; if volumes made of it are the reason, it goes with all but one of them", volume.ErrBusy)
	case lead.Phase == volume.SnapshotReady:
		return s.spreadReady(ctx, lead)
	}
	for _, source := range sources { // nothing of a group that can't be
		v, err := s.get(ctx, source)
		if err == nil {
			err = mayBeSource(v)
		}
		if err != nil {
			return nil, errors.Join(err, s.giveUpUnless(ctx, lead, err))
		}
	}
	members := group.Members()
	for i, member := range members {
		if err := s.recordMember(ctx, &volume.Snapshot{ID: member, Name: name, Source: sources[i], Group: &volume.SnapshotGroup{ID: id, Volumes: sources}}); err != nil {
			return nil, err
		}
	}
	return s.takeGroup(ctx, members[0])
}

// recordMember puts a member of a group on record, unless it is.
func (s *Server) recordMember(ctx context.Context, sn *volume.Snapshot) error {
	found, err := s.store.GetSnapshot(ctx, sn.ID)
	switch {
	case errors.Is(err, volume.ErrNoSnapshot):
		_, err := s.recordSnapshot(ctx, sn)
		return err
	case err == nil && found.Phase == volume.SnapshotDeleting:
		return fmt.Errorf("%w: snapshot %s of a former group of that name is still being deleted", volume.ErrBusy, sn.ID)
	}
	return err
}

// giveUpUnless gives a group up whose volumes are gone. A group that may still come about, or none (nil), is left alone.
func (s *Server) giveUpUnless(ctx context.Context, lead *volume.Snapshot, err error) error {
	if lead == nil || !errors.Is(err, volume.ErrNotFound) && !errors.Is(err, volume.ErrPrecondition) {
		return nil
	}
	return s.deleteGroup(ctx, lead)
}

// spreadReady makes all members of a group ready whose lead is, and returns them.
func (s *Server) spreadReady(ctx context.Context, lead *volume.Snapshot) ([]*volume.Snapshot, error) {
	members := []*volume.Snapshot{lead}
	for _, id := range lead.Group.Members()[1:] {
		sn, err := s.modifySnapshot(ctx, id, func(sn *volume.Snapshot) (bool, error) { return follow(sn, lead), nil })
		if err != nil {
			return nil, fmt.Errorf("snapshot %s of the group: %w", id, err)
		}
		members = append(members, sn)
	}
	return members, nil
}

// follow makes a member ready if its lead is.
func follow(sn, lead *volume.Snapshot) (changed bool) {
	if sn.Phase != volume.SnapshotTaking || lead.Phase != volume.SnapshotReady || !sn.TakenIn(lead.Group.Attempt) {
		return false
	}
	sn.Phase = volume.SnapshotReady
	return true
}

// DeleteVolumeGroupSnapshot implements csi.GroupControllerServer. What can't go yet Sweep deletes later.
func (s *Server) DeleteVolumeGroupSnapshot(ctx context.Context, req *csi.DeleteVolumeGroupSnapshotRequest) (*csi.DeleteVolumeGroupSnapshotResponse, error) {
	id := req.GetGroupSnapshotId()
	switch {
	case id == "":
		return nil, invalid("group_snapshot_id is empty")
	case !volume.ValidGroupID(id):
		return &csi.DeleteVolumeGroupSnapshotResponse{}, nil
	}
	unlock, err := s.locks.Try(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	lead, err := s.store.GetSnapshot(ctx, volume.GroupLead(id))
	if errors.Is(err, volume.ErrNoSnapshot) {
		return &csi.DeleteVolumeGroupSnapshotResponse{}, nil
	}
	if err == nil {
		err = isGroupOf(lead, req.GetSnapshotIds())
	}
	if err == nil {
		err = s.deleteGroup(ctx, lead)
	}
	if err != nil {
		return nil, fmt.Errorf("delete group snapshot %s: %w", id, err)
	}
	return &csi.DeleteVolumeGroupSnapshotResponse{}, nil
}

// isGroupOf refuses a list of snapshots that is not that of the group. An empty one says nothing.
func isGroupOf(lead *volume.Snapshot, ids []string) error {
	if !lead.Leads() {
		return fmt.Errorf("%w: snapshot %s is none of a group", volume.ErrNoSnapshot, lead.ID)
	}
	if len(ids) > 0 && !slices.Equal(slices.Sorted(slices.Values(ids)), slices.Sorted(slices.Values(lead.Group.Members()))) {
		return invalid("snapshot_ids are %v, the group has %v", ids, lead.Group.Members())
	}
	return nil
}

// deleteGroup deletes a group: its lead's record says so first, then those of the others, so that what is cut short is done by Sweep. The
// lead's record goes only after all others say so.
func (s *Server) deleteGroup(ctx context.Context, lead *volume.Snapshot) error {
	if err := s.withdraw(ctx, lead); err != nil {
		return err
	}
	lead, err := s.modifySnapshot(ctx, lead.ID, func(sn *volume.Snapshot) (bool, error) {
		changed := sn.Phase != volume.SnapshotDeleting
		sn.Delete()
		return changed, nil
	})
	if errors.Is(err, volume.ErrNoSnapshot) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.deleteOthers(ctx, lead); err != nil {
		return err
	}
	if err := s.clearSnapshot(ctx, lead); err != nil {
		klog.FromContext(ctx).V(2).Info("What is left of a snapshot is deleted later", "snapshotID", lead.ID, "err", err)
	}
	return nil
}

// deleteOthers deletes the snapshots of a group whose lead is being deleted.
func (s *Server) deleteOthers(ctx context.Context, lead *volume.Snapshot) error {
	for _, id := range lead.Group.Members()[1:] {
		if err := s.deleteSnapshot(ctx, id); err != nil {
			return fmt.Errorf("snapshot %s of the group: %w", id, err)
		}
	}
	return nil
}

// GetVolumeGroupSnapshot implements csi.GroupControllerServer. As with ListSnapshots, a group is there when it is taken and not being deleted.
func (s *Server) GetVolumeGroupSnapshot(ctx context.Context, req *csi.GetVolumeGroupSnapshotRequest) (*csi.GetVolumeGroupSnapshotResponse, error) {
	id := req.GetGroupSnapshotId()
	switch {
	case id == "":
		return nil, invalid("group_snapshot_id is empty")
	case !volume.ValidGroupID(id):
		return nil, fmt.Errorf("%w: group %q", volume.ErrNoSnapshot, id)
	}
	members, err := s.group(ctx, id, req.GetSnapshotIds())
	if err != nil {
		return nil, fmt.Errorf("get group snapshot %s: %w", id, err)
	}
	return &csi.GetVolumeGroupSnapshotResponse{GroupSnapshot: describeGroup(members)}, nil
}

// group returns the members of a group that is ready.
func (s *Server) group(ctx context.Context, id string, snapshots []string) ([]*volume.Snapshot, error) {
	lead, err := s.store.GetSnapshot(ctx, volume.GroupLead(id))
	if err != nil {
		return nil, err
	}
	if err := isGroupOf(lead, snapshots); err != nil {
		return nil, err
	}
	if lead.Phase != volume.SnapshotReady {
		return nil, fmt.Errorf("%w: the group is %s", volume.ErrNoSnapshot, lead.Phase)
	}
	members := []*volume.Snapshot{lead}
	for _, member := range lead.Group.Members()[1:] {
		sn, err := s.store.GetSnapshot(ctx, member)
		if err != nil {
			return nil, err
		}
		members = append(members, sn)
	}
	return members, nil
}

// describeGroup describes a group by its members. Its moment is that of the last.
func describeGroup(members []*volume.Snapshot) *csi.VolumeGroupSnapshot {
	group := &csi.VolumeGroupSnapshot{GroupSnapshotId: members[0].Group.ID, ReadyToUse: true}
	at := members[0].TakenAt
	for _, sn := range members {
		group.Snapshots = append(group.Snapshots, describeSnapshot(sn))
		group.ReadyToUse = group.ReadyToUse && sn.Usable()
		if sn.TakenAt.After(at) {
			at = sn.TakenAt
		}
	}
	group.CreationTime = timestamppb.New(at)
	return group
}
