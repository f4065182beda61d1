package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// takeGroup has the snapshots of a group taken at one moment, and decides: all of them are ready, or an attempt is given up as a whole. A
// replica whose node answers is not done without before the last attempt.
func (s *Server) takeGroup(ctx context.Context, leadID string) ([]*volume.Snapshot, error) {
	for n := 1; ; n++ {
		lead, err := s.store.GetSnapshot(ctx, leadID)
		if err != nil {
			return nil, err
		}
		attempt := lead.Group.Attempt
		if attempt == "" {
			attempt = volume.NewGroupAttempt()
			if err := s.planGroup(ctx, lead, attempt); err != nil {
				return nil, errors.Join(err, s.giveUpAttempt(ctx, lead.Group, attempt), s.giveUpUnless(ctx, lead, err))
			}
		}
		taken, failed, err := s.awaitGroup(ctx, lead.Group, attempt)
		if err != nil {
			return nil, err
		}
		if failed == nil && (n == attempts || s.allComplete(ctx, taken)) {
			return s.decide(ctx, lead, attempt)
		}
		klog.FromContext(ctx).Info("Group snapshot is tried again", "groupSnapshotID", lead.Group.ID, "attempt", n, "reason", failed)
		if err := s.giveUpAttempt(ctx, lead.Group, attempt); err != nil {
			return nil, err
		}
		if n == attempts {
			return nil, errors.Join(fmt.Errorf("%w: not all volumes could be taken at one moment: %w", volume.ErrBusy, failed), s.giveUpUnless(ctx, lead, failed))
		}
	}
}

// planGroup puts an attempt on record: with the snapshots first, the lead's before the others', and then with the volumes.
func (s *Server) planGroup(ctx context.Context, lead *volume.Snapshot, attempt string) error {
	members, planned := lead.Group.Members(), map[string]*volume.SnapshotWish{}
	for i, id := range lead.Group.Volumes {
		v, err := s.vacant(ctx, id)
		if err != nil {
			return err
		}
		lvols, err := s.planLvols(ctx, v)
		if err != nil {
			return fmt.Errorf("volume %s: %w", id, err)
		}
		sn, err := s.modifySnapshot(ctx, members[i], func(sn *volume.Snapshot) (bool, error) {
			if sn.Phase != volume.SnapshotTaking {
				return false, fmt.Errorf("%w: it is %s", volume.ErrConflict, sn.Phase)
			}
			sn.GiveUpGroupAttempt()
			sn.Replicas = append(sn.Replicas, lvols...)
			sn.SizeBytes, sn.Group.Attempt = v.SizeBytes, attempt
			return true, nil
		})
		if err != nil {
			return err
		}
		planned[id] = &volume.SnapshotWish{
			Snapshot: sn.ID, UUID: sn.UUID, Replicas: lvols, SizeBytes: v.SizeBytes, State: volume.WishWanted,
			Group: &volume.GroupWish{ID: lead.Group.ID, Attempt: attempt, Volumes: lead.Group.Volumes},
		}
	}
	for _, id := range lead.Group.Volumes {
		if err := s.wish(ctx, id, planned[id]); err != nil {
			return err
		}
	}
	return nil
}

// vacant returns the record of a volume of which a snapshot can be planned, without the outcome of an earlier one.
func (s *Server) vacant(ctx context.Context, id string) (*volume.Volume, error) {
	v, err := s.get(ctx, id)
	if err != nil {
		return nil, err
	}
	if v.Snapshot != nil && v.Snapshot.Ended() {
		if _, err := s.collect(ctx, v); err != nil {
			return nil, err
		}
	}
	if err := mayBeSource(v); err != nil {
		return nil, err
	}
	return v, hasAlikeReplicas(v)
}

// wish puts what is planned of a volume on its record.
func (s *Server) wish(ctx context.Context, id string, wish *volume.SnapshotWish) error {
	_, err := s.modify(ctx, id, func(v *volume.Volume) (bool, error) {
		switch {
		case v.Snapshot != nil:
			return false, fmt.Errorf("%w: another snapshot of volume %s, %s, is being taken", volume.ErrBusy, id, v.Snapshot.Snapshot)
		case v.SizeBytes != wish.SizeBytes:
			return false, fmt.Errorf("%w: volume %s grows", volume.ErrBusy, id)
		}
		if err := errors.Join(mayBeSource(v), hasAlikeReplicas(v)); err != nil {
			return false, err
		}
		v.Snapshot = wish
		return true, nil
	})
	return err
}

// groupLook is how far the volumes of a group are in an attempt.
type groupLook struct {
	// taken are those with their outcome on record, unowned those that the controller takes.
	taken, unowned []*volume.Volume
	// waiting says for whom; "" is for nobody. pausing: of one of them I/O may be paused.
	waiting string
	pausing bool
	// failed says why the attempt can't succeed any more.
	failed error
}

// awaitGroup brings an attempt to its end: all volumes are taken, or failed says why that can't be; none is in its pause then. What nobody
// owns is taken after all others were seen paused.
func (s *Server) awaitGroup(ctx context.Context, g *volume.SnapshotGroup, attempt string) (taken []*volume.Volume, failed, err error) {
	limited, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	timer := time.NewTimer(awaitInterval)
	defer timer.Stop()
	for {
		look, err := s.lookAtGroup(ctx, g, attempt)
		switch {
		case err != nil:
			return nil, nil, err
		case look.failed != nil && !look.pausing:
			return nil, look.failed, nil
		case look.failed == nil && look.waiting == "" && len(look.unowned) == 0:
			return look.taken, nil, nil
		case look.failed == nil && look.waiting == "":
			for _, v := range look.unowned {
				if _, err := s.takeUnowned(ctx, v); err != nil {
					return nil, nil, err
				}
			}
			continue
		}
		timer.Reset(awaitInterval)
		select {
		case <-timer.C:
		case <-limited.Done():
			return nil, nil, fmt.Errorf("%w: %s", volume.ErrBusy, look.waiting)
		}
	}
}

func (s *Server) lookAtGroup(ctx context.Context, g *volume.SnapshotGroup, attempt string) (groupLook, error) {
	var look groupLook
	for i, id := range g.Volumes {
		v, err := s.get(ctx, id)
		if errors.Is(err, volume.ErrNotFound) {
			look.failed = err
			continue
		}
		if err == nil && v.Owner == "" && v.Member(attempt) != volume.MemberAbsent && v.Snapshot.State == volume.WishPausing {
			v, err = s.takeUnowned(ctx, v) // which ends the attempt
		}
		if err != nil {
			return look, err
		}
		switch member := v.Member(attempt); {
		case member == volume.MemberAbsent:
			sn, err := s.store.GetSnapshot(ctx, g.Members()[i])
			if err != nil {
				return look, err
			}
			if !sn.TakenIn(attempt) {
				look.failed = fmt.Errorf("%w: volume %s is not asked for it any more", volume.ErrConflict, id)
			}
		case member == volume.MemberFailed:
			look.failed = fmt.Errorf("%w: volume %s: %s", volume.ErrConflict, id, v.Snapshot.Reason)
		case v.Snapshot.State == volume.WishTaken:
			look.taken = append(look.taken, v)
		case v.Owner == "":
			look.unowned = append(look.unowned, v)
		default:
			look.waiting = fmt.Sprintf("the node service on %s, which has volume %s staged, has not taken it yet", v.Owner, id)
			look.pausing = look.pausing || v.Snapshot.State == volume.WishPausing
		}
	}
	return look, nil
}

// allComplete says whether no snapshot of an attempt lacks a replica whose node answers.
func (s *Server) allComplete(ctx context.Context, taken []*volume.Volume) bool {
	return !slices.ContainsFunc(taken, func(v *volume.Volume) bool { return !s.complete(ctx, v.Snapshot) })
}

// decide makes a group ready of which each volume is taken. What the snapshots hold is on their records before the lead's says so.
func (s *Server) decide(ctx context.Context, lead *volume.Snapshot, attempt string) ([]*volume.Snapshot, error) {
	members := lead.Group.Members()
	for i, id := range lead.Group.Volumes {
		v, err := s.get(ctx, id)
		if err == nil && v.Member(attempt) != volume.MemberAbsent {
			_, err = s.collect(ctx, v)
		}
		if err != nil && !errors.Is(err, volume.ErrNotFound) {
			return nil, err
		}
		sn, err := s.store.GetSnapshot(ctx, members[i])
		if err != nil {
			return nil, err
		}
		if !sn.TakenIn(attempt) {
			return nil, fmt.Errorf("%w: what was taken of volume %s is given up", volume.ErrConflict, id)
		}
	}
	lead, err := s.modifySnapshot(ctx, lead.ID, func(sn *volume.Snapshot) (bool, error) {
		if sn.Phase != volume.SnapshotTaking || !sn.TakenIn(attempt) {
			return false, fmt.Errorf("%w: the group is %s", volume.ErrConflict, sn.Phase)
		}
		sn.Phase = volume.SnapshotReady
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	klog.FromContext(ctx).V(2).Info("Group snapshot taken", "groupSnapshotID", lead.Group.ID, "volumes", len(lead.Group.Volumes))
	return s.spreadReady(ctx, lead)
}

// giveUpAttempt gives an attempt up as a whole: no volume is to be taken any more, then the lead's record bars that it is decided, then the
// others let go of what they have. It answers ErrBusy while a volume is in its pause: its owner ends that first.
func (s *Server) giveUpAttempt(ctx context.Context, g *volume.SnapshotGroup, attempt string) error {
	for _, id := range g.Volumes {
		v, err := s.modify(ctx, id, func(v *volume.Volume) (bool, error) {
			switch {
			case v.Member(attempt) == volume.MemberAbsent || v.Snapshot.Ended():
				return false, nil
			case v.Snapshot.State == volume.WishPausing:
				return false, fmt.Errorf("%w: a snapshot of volume %s is being taken", volume.ErrBusy, id)
			}
			v.Snapshot.Fail("the attempt to take the group is given up")
			return true, nil
		})
		if err == nil && v.Member(attempt) != volume.MemberAbsent {
			_, err = s.collect(ctx, v)
		}
		if err != nil && !errors.Is(err, volume.ErrNotFound) {
			return err
		}
	}
	for _, id := range g.Members() {
		sn, err := s.modifySnapshot(ctx, id, func(sn *volume.Snapshot) (bool, error) {
			if sn.Group.Attempt != attempt {
				return false, nil
			}
			if sn.Phase == volume.SnapshotReady {
				return false, fmt.Errorf("%w: snapshot %s is ready", volume.ErrConflict, id)
			}
			sn.GiveUpGroupAttempt()
			return true, nil
		})
		if err == nil {
			s.clearLater(ctx, sn)
		} else if !errors.Is(err, volume.ErrNoSnapshot) {
			return err
		}
	}
	return nil
}

// sweepMember goes on with a snapshot that is taken in a group: it follows its lead. A lead that nobody has asked for again is given up with
// all others.
func (s *Server) sweepMember(ctx context.Context, sn *volume.Snapshot) error {
	lead, err := s.store.GetSnapshot(ctx, volume.GroupLead(sn.Group.ID))
	switch {
	case errors.Is(err, volume.ErrNoSnapshot):
		return s.deleteSnapshot(ctx, sn.ID)
	case err != nil:
		return err
	case lead.Phase == volume.SnapshotTaking && sn.Leads() && s.clock.Since(lead.CreatedAt) >= abandonAfter:
		klog.FromContext(ctx).Info("Group snapshot that was not taken is given up", "groupSnapshotID", lead.Group.ID)
		return s.deleteGroup(ctx, lead)
	case lead.Phase == volume.SnapshotDeleting:
		return s.deleteSnapshot(ctx, sn.ID)
	}
	_, err = s.modifySnapshot(ctx, sn.ID, func(sn *volume.Snapshot) (bool, error) { return follow(sn, lead), nil })
	return err
}
