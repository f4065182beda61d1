package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

const (
	// attempts is how often one call tries to take a snapshot. The last may lack replicas that others have.
	attempts = 3
	// awaitLimit bounds the wait for a node service to take a snapshot. It finds the wish within a watch interval.
	awaitLimit = 20 * time.Second
	// awaitInterval is how often the record is read meanwhile.
	awaitInterval = 100 * time.Millisecond
	// takeLimit bounds the taking of the lvols of a volume that nobody uses.
	takeLimit = 10 * time.Second
)

// take has a snapshot taken: by the volume's node service, or by the controller while nobody owns the volume. A replica whose node answers
// is not done without before the last attempt.
func (s *Server) take(ctx context.Context, sn *volume.Snapshot) (*volume.Snapshot, error) {
	for attempt := 1; ; attempt++ {
		v, err := s.source(ctx, sn)
		if err != nil {
			return nil, err
		}
		if v.Snapshot == nil || v.Snapshot.State == volume.WishFailed {
			if sn, v, err = s.planSnapshot(ctx, sn); err != nil {
				return nil, err
			}
		}
		if v, err = s.carryOut(ctx, v); err != nil {
			return nil, err
		}
		wish := v.Snapshot
		if last := attempt == attempts; wish.State == volume.WishTaken && (last || s.complete(ctx, wish)) {
			return s.collected(ctx, v)
		} else if last {
			return nil, errors.Join(fmt.Errorf("%w: %s", volume.ErrNoGoodReplica, wish.Reason), s.discard(ctx, v))
		}
		klog.FromContext(ctx).Info("Snapshot is tried again", "snapshotID", sn.ID, "volumeID", v.ID, "taken", len(wish.Taken), "of", len(wish.Replicas), "reason", wish.Reason)
		if err := s.discard(ctx, v); err != nil {
			return nil, err
		}
	}
}

// source returns the record of the volume, on which is the wish for this snapshot or none. A snapshot whose volume is gone is given up.
func (s *Server) source(ctx context.Context, sn *volume.Snapshot) (*volume.Volume, error) {
	v, err := s.get(ctx, sn.Source)
	if err == nil {
		err = mayBeSource(v)
	}
	if errors.Is(err, volume.ErrNotFound) || errors.Is(err, volume.ErrPrecondition) {
		return nil, errors.Join(err, s.deleteSnapshot(ctx, sn.ID))
	}
	if err != nil {
		return nil, err
	}
	if v.Snapshot != nil && v.Snapshot.Snapshot != sn.ID {
		if !v.Snapshot.Ended() {
			return nil, fmt.Errorf("%w: another snapshot of it, %s, is being taken", volume.ErrBusy, v.Snapshot.Snapshot)
		}
		if _, err := s.collect(ctx, v); err != nil {
			return nil, err
		}
		return s.source(ctx, sn)
	}
	return v, nil
}

// planSnapshot puts another attempt on record, with the snapshot first and then with the volume.
func (s *Server) planSnapshot(ctx context.Context, sn *volume.Snapshot) (*volume.Snapshot, *volume.Volume, error) {
	v, err := s.get(ctx, sn.Source)
	if err == nil {
		err = hasAlikeReplicas(v)
	}
	if err != nil {
		return nil, nil, err
	}
	planned, err := s.planLvols(ctx, v)
	if err != nil {
		return nil, nil, err
	}
	sn, err = s.modifySnapshot(ctx, sn.ID, func(sn *volume.Snapshot) (bool, error) {
		if sn.Phase != volume.SnapshotTaking {
			return false, fmt.Errorf("%w: it is %s", volume.ErrConflict, sn.Phase)
		}
		sn.GiveUpAttempt()
		sn.Replicas = append(sn.Replicas, planned...)
		sn.SizeBytes = v.SizeBytes
		return true, nil
	})
	if err != nil {
		return nil, nil, err
	}
	v, err = s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		if v.Snapshot != nil && (v.Snapshot.Snapshot != sn.ID || v.Snapshot.State != volume.WishFailed) {
			return false, fmt.Errorf("%w: another attempt has begun", volume.ErrBusy)
		}
		if err := mayBeSource(v); err != nil {
			return false, err
		}
		if err := hasAlikeReplicas(v); err != nil {
			return false, err
		}
		v.Snapshot = &volume.SnapshotWish{Snapshot: sn.ID, UUID: sn.UUID, Replicas: slices.Clone(planned), SizeBytes: v.SizeBytes, State: volume.WishWanted}
		return true, nil
	})
	return sn, v, err
}

// hasAlikeReplicas says why the replicas of a volume may differ: in size while it is being grown, in what was under way after a raid host was lost.
func hasAlikeReplicas(v *volume.Volume) error {
	switch {
	case v.InFlight != volume.InFlightNone:
		return fmt.Errorf("%w: volume %s has just changed its raid host; a snapshot can be taken when its hosts have sent again what was under way", volume.ErrBusy, v.ID)
	case v.GrowingFrom == 0:
		return nil
	}
	return fmt.Errorf("%w: volume %s is growing from %d to %d bytes; a snapshot can be taken when all its replicas and its host have the new size", volume.ErrBusy, v.ID, v.GrowingFrom, v.SizeBytes)
}

// carryOut brings the wish on a volume's record to its end.
func (s *Server) carryOut(ctx context.Context, v *volume.Volume) (*volume.Volume, error) {
	limited, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	timer := time.NewTimer(awaitInterval)
	defer timer.Stop()
	wish := v.Snapshot
	for {
		switch {
		case !wish.Same(v.Snapshot):
			return nil, fmt.Errorf("%w: another attempt has begun", volume.ErrBusy)
		case v.Snapshot.Ended():
			return v, nil
		case v.Owner == "":
			return s.takeUnowned(ctx, v)
		}
		timer.Reset(awaitInterval)
		select {
		case <-timer.C:
		case <-limited.Done():
			return nil, fmt.Errorf("%w: the node service on %s, which has the volume staged, has not taken it yet", volume.ErrBusy, v.Owner)
		}
		var err error
		if v, err = s.get(ctx, v.ID); err != nil {
			return nil, err
		}
	}
}

// takeUnowned takes the lvols of a volume that nobody owns, and so nobody writes to: its in-sync replicas are alike. A node service that
// takes the volume meanwhile makes the attempt void.
func (s *Server) takeUnowned(ctx context.Context, v *volume.Volume) (*volume.Volume, error) {
	wish := v.Snapshot
	if wish.State == volume.WishWanted {
		limited, cancel := context.WithTimeout(ctx, takeLimit)
		defer cancel()
		failed := s.converger.TakeSnapshots(limited, v, wish.UUID, wish.Replicas)
		return s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
			now := v.Snapshot
			if !wish.Same(now) || now.Ended() {
				return false, nil
			}
			if v.Owner != "" {
				now.Fail("a node service took the volume meanwhile")
				return true, nil
			}
			now.Take(v, failed, s.clock.Now().UTC())
			return true, nil
		})
	}
	return s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		v.VoidSnapshot("the node service that was taking it has lost the volume")
		return true, nil
	})
}

// complete says whether an attempt lacks no replica whose node answers.
func (s *Server) complete(ctx context.Context, wish *volume.SnapshotWish) bool {
	for _, l := range wish.Replicas {
		if slices.Contains(wish.Taken, l.ID) {
			continue
		}
		node, err := s.cluster.Node(l.Node)
		if err != nil {
			continue
		}
		if _, err := node.Version(ctx); err == nil {
			return false
		}
	}
	return true
}

// collect puts the outcome of a wish on its snapshot's record and takes the wish off the volume's. It returns the snapshot, nil if that is
// not on record any more.
func (s *Server) collect(ctx context.Context, v *volume.Volume) (*volume.Snapshot, error) {
	wish := v.Snapshot
	sn, err := s.modifySnapshot(ctx, wish.Snapshot, func(sn *volume.Snapshot) (bool, error) {
		if sn.Phase != volume.SnapshotTaking || wish.Group != nil && wish.Group.Attempt != sn.Group.Attempt {
			return false, nil
		}
		if wish.State == volume.WishTaken {
			sn.Collect(wish)
		} else {
			sn.GiveUpAttempt()
		}
		return true, nil
	})
	if err != nil && !errors.Is(err, volume.ErrNoSnapshot) {
		return nil, err
	}
	if _, err := s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		if !wish.Same(v.Snapshot) {
			return false, nil
		}
		v.Snapshot = nil
		return true, nil
	}); err != nil && !errors.Is(err, volume.ErrNotFound) {
		return nil, err
	}
	if sn == nil {
		return nil, nil
	}
	if sn.Phase == volume.SnapshotReady {
		klog.FromContext(ctx).V(2).Info("Snapshot taken", "snapshotID", sn.ID, "volumeID", v.ID, "replicas", len(wish.Taken), "of", len(wish.Replicas))
	}
	s.clearLater(ctx, sn)
	return s.store.GetSnapshot(ctx, sn.ID)
}

// collected is collect for a snapshot that is to be there.
func (s *Server) collected(ctx context.Context, v *volume.Volume) (*volume.Snapshot, error) {
	sn, err := s.collect(ctx, v)
	if err == nil && sn == nil {
		err = fmt.Errorf("%w: %s was deleted while it was taken", volume.ErrConflict, v.Snapshot.Snapshot)
	}
	return sn, err
}

// discard gives an attempt up.
func (s *Server) discard(ctx context.Context, v *volume.Volume) error {
	wish := v.Snapshot
	v, err := s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		if !wish.Same(v.Snapshot) || v.Snapshot.State == volume.WishFailed {
			return false, nil
		}
		v.Snapshot.Fail("it lacks a replica whose node answers")
		return true, nil
	})
	if err == nil && wish.Same(v.Snapshot) {
		_, err = s.collect(ctx, v)
	}
	return err
}

// clearLater deletes what is to go of a snapshot, as far as that can be done now.
func (s *Server) clearLater(ctx context.Context, sn *volume.Snapshot) {
	if len(sn.InState(volume.SnapshotRemoving)) == 0 {
		return
	}
	if err := s.clearSnapshot(ctx, sn); err != nil {
		klog.FromContext(ctx).V(2).Info("What is left of an attempt to take a snapshot is deleted later", "snapshotID", sn.ID, "err", err)
	}
}

// planLvols plans an lvol for each in-sync replica and says whether there is room for what it will hold. A node that doesn't answer has no
// say: it will not be part of the snapshot.
//
// What a replica has allocated becomes the snapshot's, and the replica allocates again as it is written. A thick volume has been promised
// that its writes find room: its snapshot is refused where its lvstore has not that much free.
func (s *Server) planLvols(ctx context.Context, v *volume.Volume) ([]volume.SnapshotReplica, error) {
	var planned []volume.SnapshotReplica
	totals := map[place]int64{}
	for _, r := range v.InState(volume.ReplicaInSync) {
		l := volume.SnapshotReplica{ID: newReplicaID(), Replica: r.ID, Node: r.Node, LvStore: r.LvStore, State: volume.SnapshotPlanned, Bytes: v.SizeBytes}
		lvol, store, err := s.measure(ctx, v, r)
		switch {
		case err != nil:
			klog.FromContext(ctx).V(2).Info("Replica can't be measured for a snapshot", "volumeID", v.ID, "replica", r.ID, "node", r.Node, "err", err)
		case !v.Parameters.Thin && store.FreeBytes < v.SizeBytes:
			return nil, fmt.Errorf("%w: lvstore %s of %s has %d bytes free; a thick volume may need all of its %d again after a snapshot", volume.ErrNoSpace, r.LvStore, r.Node, store.FreeBytes, v.SizeBytes)
		case (condition.Pool{TotalBytes: store.TotalBytes, FreeBytes: store.FreeBytes}).Less(condition.FullPercent):
			return nil, fmt.Errorf("%w: lvstore %s of %s has less than %d %% free, and a volume takes up more after a snapshot; add space there, or delete volumes and snapshots", volume.ErrNoSpace, r.LvStore, r.Node, condition.FullPercent)
		default:
			l.Bytes = lvol.AllocatedBytes
			totals[place{r.Node, r.LvStore}] = store.TotalBytes
		}
		planned = append(planned, l)
	}
	if len(planned) == 0 {
		return nil, volume.ErrNoGoodReplica
	}
	return planned, s.ledger.admits(planned, totals)
}

func (s *Server) measure(ctx context.Context, v *volume.Volume, r volume.Replica) (spdk.Lvol, spdk.LvStore, error) {
	node, err := s.cluster.Node(r.Node)
	if err != nil {
		return spdk.Lvol{}, spdk.LvStore{}, err
	}
	limited, cancel := context.WithTimeout(ctx, inventoryTimeout)
	defer cancel()
	lvol, err := node.Lvol(limited, r.LvStore, v.LvolName(r))
	if err != nil {
		return spdk.Lvol{}, spdk.LvStore{}, err
	}
	stores, err := node.LvStores(limited)
	i := slices.IndexFunc(stores, func(l spdk.LvStore) bool { return l.Name == r.LvStore })
	if err != nil || i < 0 {
		return spdk.Lvol{}, spdk.LvStore{}, errors.Join(err, spdk.ErrNotFound)
	}
	return lvol, stores[i], nil
}
