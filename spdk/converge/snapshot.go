package converge

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// TakeSnapshots takes the given lvols of a snapshot, side by side, one call each, and returns by their IDs why those that surely hold
// nothing of this moment don't.
func (c *Converger) TakeSnapshots(ctx context.Context, v *volume.Volume, snapshot uuid.UUID, lvols []volume.SnapshotReplica) map[string]error {
	failed := map[string]error{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, l := range lvols {
		wg.Go(func() {
			if err := c.takeSnapshot(ctx, v, snapshot, l); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed[l.ID] = err
			}
		})
	}
	wg.Wait()
	return failed
}

func (c *Converger) takeSnapshot(ctx context.Context, v *volume.Volume, snapshot uuid.UUID, l volume.SnapshotReplica) error {
	node, err := c.cluster.Node(l.Node)
	if err != nil {
		return err
	}
	r := v.Replica(l.Replica)
	if r == nil {
		return fmt.Errorf("%w: the volume has no replica %s any more", volume.ErrConflict, l.Replica)
	}
	return node.TakeSnapshot(ctx, r.LvStore, v.LvolName(*r), volume.SnapshotLvolName(snapshot, l.ID))
}

// DeleteSnapshots deletes the lvols of a snapshot that are to go, side by side. It returns those that are known to be gone, and why others
// are not: nodes that don't answer, and several clones on one lvol (spdk.ErrBusy).
func (c *Converger) DeleteSnapshots(ctx context.Context, s *volume.Snapshot) (gone []string, err error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	for _, l := range s.InState(volume.SnapshotRemoving) {
		wg.Go(func() {
			node, err := c.cluster.Node(l.Node)
			switch {
			case err != nil:
			case l.Unsure:
				err = node.WithdrawSnapshot(ctx, l.LvStore, s.LvolName(l))
			default:
				err = node.DeleteSnapshot(ctx, l.LvStore, s.LvolName(l))
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			gone = append(gone, l.ID)
		})
	}
	wg.Wait()
	return gone, errors.Join(errs...)
}

// createReplica makes a replica's lvol: an empty one, or a clone of a snapshot.
func createReplica(ctx context.Context, v *volume.Volume, r volume.Replica, node *Node) error {
	var err error
	if r.CloneOf != "" {
		_, err = node.CloneLvol(ctx, spdk.CloneSpec{LvStore: r.LvStore, Snapshot: r.CloneOf, Name: v.LvolName(r), SizeBytes: v.SizeBytes, ClearMethod: node.ClearMethod})
	} else {
		_, err = node.CreateLvol(ctx, spdk.LvolSpec{LvStore: r.LvStore, Name: v.LvolName(r), SizeBytes: v.SizeBytes, Thin: v.Parameters.Thin, ClearMethod: node.ClearMethod})
	}
	return err
}

// deleteReplica deletes a replica's lvol, and what the making of a clone may have left beside it.
func deleteReplica(ctx context.Context, v *volume.Volume, r volume.Replica, node *Node) error {
	if err := dropReplicaKeys(ctx, v, r, node); err != nil {
		return err
	}
	if r.CloneOf != "" {
		return node.DeleteClone(ctx, r.LvStore, v.LvolName(r))
	}
	return node.DeleteLvol(ctx, r.LvStore, v.LvolName(r))
}

// unfinished says whether a clone that exists is not yet what it is to be.
func unfinished(ctx context.Context, node *Node, v *volume.Volume, r volume.Replica) (bool, error) {
	if r.State != volume.ReplicaPlanned || r.CloneOf == "" {
		return false, nil
	}
	l, err := node.Lvol(ctx, r.LvStore, v.LvolName(r))
	return l.Base != r.CloneOf || l.SizeBytes != v.SizeBytes, err
}
