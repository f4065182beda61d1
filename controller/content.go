package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// readContent reads what a volume is to be made of; nil is nothing.
func readContent(source *csi.VolumeContentSource) (*volume.Content, error) {
	switch {
	case source == nil:
		return nil, nil
	case source.GetSnapshot() != nil:
		id := source.GetSnapshot().GetSnapshotId()
		if id == "" {
			return nil, invalid("volume_content_source: snapshot_id is empty")
		}
		return &volume.Content{Snapshot: id}, nil
	case source.GetVolume() != nil:
		id := source.GetVolume().GetVolumeId()
		if id == "" {
			return nil, invalid("volume_content_source: volume_id is empty")
		}
		return &volume.Content{Volume: id}, nil
	}
	return nil, invalid("volume_content_source names neither a snapshot nor a volume")
}

// contentSource is what readContent reads.
func contentSource(c *volume.Content) *csi.VolumeContentSource {
	switch {
	case c == nil:
		return nil
	case c.Volume != "":
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: c.Volume}}}
	}
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: c.Snapshot}}}
}

// sameContent says whether a volume was made of what is asked for.
func sameContent(has, asked *volume.Content) bool {
	if has == nil || asked == nil {
		return has == nil && asked == nil
	}
	return has.Volume == asked.Volume && (asked.Volume != "" || has.Snapshot == asked.Snapshot)
}

// usableSnapshot returns a snapshot of which a volume can be made.
func (s *Server) usableSnapshot(ctx context.Context, id string) (*volume.Snapshot, error) {
	if !volume.ValidSnapshotID(id) {
		return nil, fmt.Errorf("%w: %q", volume.ErrNoSnapshot, id)
	}
	sn, err := s.store.GetSnapshot(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case sn.Phase == volume.SnapshotTaking:
		return nil, fmt.Errorf("%w: snapshot %s has not been taken yet", volume.ErrBusy, id)
	case sn.Phase == volume.SnapshotDeleting:
		return nil, fmt.Errorf("%w: snapshot %s is being deleted", volume.ErrPrecondition, id)
	case !sn.Usable():
		return nil, fmt.Errorf("%w: snapshot %s has no replica left: the lvols that held it are gone", volume.ErrPrecondition, id)
	}
	return sn, nil
}

// describeContent returns the size in bytes of what a volume is to be made of, and how it is encrypted.
func (s *Server) describeContent(ctx context.Context, c *volume.Content) (int64, volume.Encryption, error) {
	if c.Volume == "" {
		sn, err := s.usableSnapshot(ctx, c.Snapshot)
		if err != nil {
			return 0, "", err
		}
		return sn.SizeBytes, sn.Encryption, nil
	}
	v, err := s.get(ctx, c.Volume)
	if err != nil {
		return 0, "", err
	}
	return v.SizeBytes, v.Parameters.Encryption, mayBeSource(v)
}

// contentSize returns the size of a volume that is made of something: what is asked for, and not less than that has. Bytes are copied as they
// are, so that both are encrypted or neither is.
func (s *Server) contentSize(ctx context.Context, o order) (int64, error) {
	size, encryption, err := s.describeContent(ctx, o.content)
	if err != nil {
		return 0, err
	}
	has := size - o.parameters.HeaderBytes()
	switch {
	case !o.parameters.SameEncryption(encryption):
		return 0, invalid("volume_content_source: its %s is %q, asked for is %q; bytes are taken over as they are, so use a StorageClass with the source's",
			volume.ParamEncryption, encryption, o.parameters.Encryption)
	case o.limit > 0 && o.limit < has:
		return 0, status.Errorf(codes.OutOfRange, "capacity_range: limit_bytes %d is below the %d bytes of the content source", o.limit, has)
	case o.required > 0 && (o.required+sizeUnit-1)/sizeUnit*sizeUnit < has:
		return 0, status.Errorf(codes.OutOfRange, "capacity_range: required_bytes %d is below the %d bytes of the content source, and a volume can't be made smaller", o.required, has)
	case o.required == 0:
		return size, nil
	}
	o.required = max(o.required, has)
	return s.size(ctx, o)
}

// recordContent puts a volume that is made of something on record, before anything of it exists. A snapshot that is being deleted is looked
// for once more when the volume is on record: from then on it stays.
func (s *Server) recordContent(ctx context.Context, id string, o order) (*volume.Volume, error) {
	size, err := s.contentSize(ctx, o)
	if err != nil {
		return nil, err
	}
	content := *o.content
	if content.Volume != "" {
		content.Snapshot = volume.NewSnapshotID()
	}
	v := &volume.Volume{
		ID: id, Name: o.name, UUID: uuid.New(), SizeBytes: size, Parameters: o.parameters, Phase: volume.PhaseCreating,
		Near: o.near, Content: &content, CreatedAt: s.clock.Now().UTC(),
	}
	if err := s.store.Create(ctx, v); err != nil {
		if errors.Is(err, volume.ErrExists) {
			return nil, fmt.Errorf("%w: another controller has just begun it", volume.ErrBusy)
		}
		return nil, err
	}
	return v, nil
}

// makeFromContent makes the replicas of a volume in PhaseCreating that is made of something. Those on the snapshot's nodes have its content
// at once; others begin empty and out-of-sync.
func (s *Server) makeFromContent(ctx context.Context, v *volume.Volume) (*volume.Volume, error) {
	sn, err := s.contentSnapshot(ctx, v)
	if err != nil {
		if volumeCannotBeMade(err) {
			return nil, s.takeBack(ctx, v, err)
		}
		return nil, err
	}
	if len(v.InState(volume.ReplicaPlanned, volume.ReplicaInSync)) == 0 {
		placed := v.Clone()
		placed.FileSystem = sn.FileSystem
		if err := s.placeContent(ctx, placed, sn, nil); errors.Is(err, volume.ErrNodeDown) {
			s.ledger.set(v)
			return nil, err
		} else if err != nil {
			return nil, s.takeBack(ctx, v, err)
		}
		if err := s.store.Update(ctx, placed); err != nil {
			s.ledger.set(v)
			return nil, err
		}
		v = placed
	}
	made, err := s.makeReplicas(ctx, v)
	if err == nil && made.Content.Volume != "" {
		if err := s.deleteSnapshot(ctx, made.Content.Snapshot); err != nil {
			klog.FromContext(ctx).V(2).Info("The snapshot by which a volume was cloned is deleted later", "volumeID", made.ID, "snapshotID", made.Content.Snapshot, "err", err)
		}
	}
	return made, err
}

// volumeCannotBeMade says whether trying again won't help.
func volumeCannotBeMade(err error) bool {
	return errors.Is(err, volume.ErrNoSnapshot) || errors.Is(err, volume.ErrNotFound) || errors.Is(err, volume.ErrPrecondition) || errors.Is(err, volume.ErrNoSpace)
}

// contentSnapshot returns the snapshot that a volume is made of. A clone's is taken first.
func (s *Server) contentSnapshot(ctx context.Context, v *volume.Volume) (*volume.Snapshot, error) {
	if v.Content.Volume == "" {
		return s.usableSnapshot(ctx, v.Content.Snapshot)
	}
	id := v.Content.Snapshot
	unlock, err := s.locks.Try(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	sn, err := s.store.GetSnapshot(ctx, id)
	if errors.Is(err, volume.ErrNoSnapshot) {
		sn, err = s.recordSnapshot(ctx, &volume.Snapshot{ID: id, Source: v.Content.Volume, For: v.ID})
	}
	if err == nil && sn.Phase == volume.SnapshotTaking {
		sn, err = s.take(ctx, sn)
	}
	if err != nil {
		return nil, err
	}
	if sn.SizeBytes > v.SizeBytes {
		return nil, fmt.Errorf("%w: volume %s has grown to %d bytes meanwhile; ask for a clone of that size", volume.ErrPrecondition, sn.Source, sn.SizeBytes)
	}
	return s.usableSnapshot(ctx, id)
}

// placeContent plans replicas on the snapshot's own lvstores, as many as are missing and as there are, and the rest elsewhere. Without one of
// the former there is no volume.
func (s *Server) placeContent(ctx context.Context, v *volume.Volume, sn *volume.Snapshot, avoid map[string]bool) error {
	lvols := map[place]string{}
	for _, r := range sn.InState(volume.SnapshotTaken) {
		lvols[place{r.Node, r.LvStore}] = sn.LvolName(r)
	}
	pools, _, down := s.open(ctx, v.Parameters)
	if down != nil { // one call that failed is no reason to do without a replica, which then has to be rebuilt
		for _, r := range sn.Replicas {
			s.inventory.forget(r.Node)
		}
		pools, _, down = s.open(ctx, v.Parameters)
	}
	pools = allowedIn(pools, v.Parameters.Access, v.Near)
	pools = slices.DeleteFunc(pools, func(p pool) bool { return lvols[place{p.node.Name, p.Name}] == "" })
	s.ledger.mu.Lock()
	c := newCandidates(s, v, pools, avoid)
	for missing := v.Parameters.Replicas - c.placed; missing > 0; missing-- {
		best, broken := c.best()
		if best == nil || broken != nil {
			break
		}
		c.take(*best)
		v.Replicas = append(v.Replicas, volume.Replica{
			ID: newReplicaID(), Node: best.node.Name, LvStore: best.Name, State: volume.ReplicaPlanned, Since: s.clock.Now().UTC(),
			CloneOf: lvols[place{best.node.Name, best.Name}],
		})
	}
	s.ledger.setLocked(v)
	s.ledger.mu.Unlock()
	if !slices.ContainsFunc(v.InState(volume.ReplicaPlanned, volume.ReplicaInSync), func(r volume.Replica) bool { return r.CloneOf != "" }) {
		return noContentPlace(sn, v, pools, down)
	}
	return s.place(ctx, v, avoid)
}

// lostForGood leaves out of replicas that could not be made the clones whose nodes answer: in their place would be empty ones, to be rebuilt,
// and the retry goes on with them. One for which there is no room is lost.
func (s *Server) lostForGood(ctx context.Context, failed []volume.Replica, cause error) []volume.Replica {
	return slices.DeleteFunc(failed, func(r volume.Replica) bool {
		var actions *converge.ActionsError
		errors.As(cause, &actions)
		if r.CloneOf == "" || errors.Is(actions.Of(volume.CreateReplica, r.ID), spdk.ErrNoSpace) {
			return false
		}
		node, err := s.cluster.Node(r.Node)
		if err == nil {
			_, err = node.Version(ctx)
		}
		return err == nil
	})
}

// noContentPlace says why no node that holds a snapshot can hold a volume made of it.
func noContentPlace(sn *volume.Snapshot, v *volume.Volume, pools []pool, down error) error {
	var nodes []string
	for _, r := range sn.InState(volume.SnapshotTaken) {
		nodes = append(nodes, r.Node)
	}
	switch {
	case down != nil:
		return fmt.Errorf("snapshot %s is on %v: none of these that answers has room: %w", sn.ID, nodes, down)
	case len(pools) == 0:
		return fmt.Errorf("%w: snapshot %s is on %v, and none of these matches lvstore %q and nodeSelector %v", volume.ErrPrecondition, sn.ID, nodes, v.Parameters.LvStore, v.Parameters.NodeSelector)
	}
	return fmt.Errorf("%w: snapshot %s is on %v, and none of these has room for %d bytes under timeouts that hold the volume's budgets", volume.ErrNoSpace, sn.ID, nodes, v.SizeBytes)
}
