package operator

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// CheckMove says why a volume can't be moved to an SPDK node; nil if it can. A volume.ErrBusy passes by itself. Only the node service
// that has the volume staged moves it, so that one that nobody has staged has nobody to ask.
func CheckMove(v *volume.Volume, to string, s condition.Sight) error {
	switch err := s.Err(to); {
	case v.Phase != volume.PhaseReady:
		return fmt.Errorf("%w: it is %s", ErrRefused, v.Phase)
	case v.Assembly == nil || v.Assembly.Stopping:
		return fmt.Errorf("%w: it runs nowhere, so that there is nothing to move", ErrRefused)
	case v.Owner == "":
		return fmt.Errorf("%w: no node service has it staged, and only one that has moves a volume", ErrRefused)
	case err != nil:
		return err
	case s[to].Cordoned:
		return fmt.Errorf("%w: %s is cordoned; \"holdfast node uncordon %s\" opens it", ErrRefused, to, to)
	case v.IsRetiredOn(to):
		return fmt.Errorf("%w: what a former assembly left on %s is being taken apart; try again in a minute", volume.ErrBusy, to)
	}
	return nil
}

// Move asks the owner of a volume to make an SPDK node its raid host; Await waits for it. A wish for another node is replaced. To
// ask for the node where it runs withdraws the wish.
func (o *Operator) Move(ctx context.Context, id, to string) (*volume.Volume, error) {
	if _, err := o.cluster.Node(to); err != nil {
		return nil, err
	}
	sight := o.lookAt(ctx, to)
	v, err := volume.Modify(ctx, o.store, id, func(v *volume.Volume) (bool, error) {
		wish := to
		if a := v.Assembly; a != nil && !a.Stopping && a.RaidHost == to {
			wish = ""
		} else if err := CheckMove(v, to, sight); err != nil {
			return false, err
		}
		changed := v.MoveTo != wish
		v.MoveTo = wish
		return changed, nil
	})
	if err != nil {
		return nil, fmt.Errorf("move volume %s to %s: %w", id, to, err)
	}
	return v, nil
}

// Stage is how far a move is.
type Stage string

// Stages of a move, in their order; a move may skip any but the last.
const (
	// StageAsked: the owner has yet to read the wish.
	StageAsked Stage = "asked"
	// StageWaiting: a replica is being rebuilt or under suspicion; the owner moves the volume when that is over.
	StageWaiting Stage = "waiting"
	// StagePrepared: an assembly is ready on the new raid host.
	StagePrepared Stage = "prepared"
	// StageSwitching: the host's I/O waits for the new raid host.
	StageSwitching Stage = "switching"
	StageMoved     Stage = "moved"
)

// stageOf says how far the move of a volume is, or that there is none any more.
func stageOf(v *volume.Volume, to string) (Stage, error) {
	a := v.Assembly
	switch {
	case a == nil || a.Stopping || v.Owner == "":
		return "", fmt.Errorf("%w: nobody uses it any more", ErrRefused)
	case a.RaidHost == to && a.Running && !a.Held:
		return StageMoved, nil
	case a.RaidHost == to:
		return StageSwitching, nil
	case v.MoveTo == "":
		return "", fmt.Errorf("%w: the node service on %s has given the move up, and its log says why; the volume runs on %s",
			ErrRefused, v.Owner, a.RaidHost)
	case v.MoveTo != to:
		return "", fmt.Errorf("%w: it was asked to move to %s meanwhile", volume.ErrConflict, v.MoveTo)
	case len(v.InState(volume.ReplicaRebuilding, volume.ReplicaSuspect)) > 0:
		return StageWaiting, nil
	case v.Standby != nil && v.Standby.RaidHost == to && v.Standby.Running:
		return StagePrepared, nil
	}
	return StageAsked, nil
}

// Await returns when a volume runs on an SPDK node, and tells each stage on the way. It reads the record again and again until ctx
// ends, also while the store doesn't answer; the wish then stays on record.
func (o *Operator) Await(ctx context.Context, id, to string, tell func(v *volume.Volume, stage Stage)) error {
	ticker := o.clock.NewTicker(timeouts.WatchInterval)
	defer ticker.Stop()
	var last Stage
	for {
		v, err := o.store.Get(ctx, id)
		if err == nil {
			var stage Stage
			if stage, err = stageOf(v, to); err != nil {
				return fmt.Errorf("volume %s: %w", id, err)
			}
			if stage != last {
				tell(v, stage)
				last = stage
			}
			if stage == StageMoved {
				return nil
			}
		}
		if errors.Is(err, volume.ErrNotFound) {
			return err
		}
		select {
		case <-ticker.C():
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("volume %s has not moved to %s in time: the wish stays on record and is granted when it can be; "+
				"to withdraw it, ask for the node where the volume runs: %w", id, to, ctx.Err()), err)
		}
	}
}
