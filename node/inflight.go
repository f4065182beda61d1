package node

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Writes that were under way when a raid host was lost are sent again by the hosts, so that replicas become alike where they differ. A machine that is lost
// as well, or whose kernel has given the volume up, sends nothing again: then only one replica can be a source (docs/design.md, "Writes in flight").

// setIdle notes whether this machine may have anything under way that is not accounted for. A process that has only just begun takes it that it may.
func (wv *watchedVolume) setIdle(idle bool) {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	wv.idle = idle
}

func (wv *watchedVolume) isIdle() bool {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	return wv.idle
}

// gaveUp says whether this machine sends nothing again of what it may have had under way: it is connected to nothing of the volume.
func (w *watcher) gaveUp(ctx context.Context, wv *watchedVolume, v *volume.Volume) (bool, error) {
	if wv.isIdle() || !v.StagedToWriteOn(w.server.name) {
		return false, nil
	}
	paths, err := w.server.fabrics.Paths(ctx, v.NQN())
	return err == nil && len(paths) == 0, err
}

// heedGivingUp puts on record that this machine, the volume's owner, sends nothing again. lost: so is the raid host that it had it at; one that isn't
// finishes what it has been given.
func (w *watcher) heedGivingUp(ctx context.Context, wv *watchedVolume, v *volume.Volume, lost bool) (*volume.Volume, error) {
	if v.InFlight == volume.InFlightLost || !lost && v.InFlight == volume.InFlightNone {
		return v, nil
	}
	if gaveUp, err := w.gaveUp(ctx, wv, v); err != nil || !gaveUp {
		return v, err
	}
	v, err := w.modify(ctx, wv, v.Assembly.Number, func(v *volume.Volume) (bool, error) {
		v.InFlight = volume.InFlightLost
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	klog.FromContext(ctx).Info("This machine doesn't send again what was under way when the raid host was lost; the volume goes on from one replica", "volumeID", v.ID)
	wv.setIdle(true)
	return v, nil
}

// guestGaveUp is heedGivingUp where the volume is another node's, whose node service has the volume go on from one replica.
func (w *watcher) guestGaveUp(ctx context.Context, wv *watchedVolume, v *volume.Volume) (*volume.Volume, error) {
	gaveUp, err := w.gaveUp(ctx, wv, v)
	if err != nil || !gaveUp {
		return v, err
	}
	v, err = volume.Modify(ctx, w.server.store, v.ID, func(v *volume.Volume) (bool, error) {
		lost := v.Assembly != nil && (v.Assembly.Leaving || v.Assembly.Held) || v.InFlight == volume.InFlightResent
		if v.InFlight == volume.InFlightLost || !lost || v.Owner == w.server.name {
			return false, nil
		}
		v.InFlight, v.Review = volume.InFlightLost, true
		return true, nil
	})
	if err == nil && v.InFlight == volume.InFlightLost {
		klog.FromContext(ctx).Info("This machine doesn't send again what was under way when the raid host was lost", "volumeID", v.ID, "owner", v.Owner)
		wv.setIdle(true)
	}
	return v, err
}

// goOn puts on record that a volume goes on from one replica if what was under way is lost, and what its hosts send again. ErrConflict: that was lost
// since the legs were chosen.
func (w *watcher) goOn(v *volume.Volume, legs []string) error {
	if v.InFlight != volume.InFlightLost {
		return nil
	}
	if len(legs) > 1 {
		return fmt.Errorf("%w: a node that has it staged was lost", volume.ErrConflict)
	}
	v.GoOnWith(legs[0], w.clock.Now().UTC())
	if writer(v.Guests()) != "" {
		v.SendAgain()
	}
	return nil
}

// sole returns one of these legs, one whose disk answers.
func (w *watcher) sole(ctx context.Context, v *volume.Volume, legs []string) (string, error) {
	var err error
	for _, id := range legs {
		if err = w.diskAnswers(ctx, *v.Replica(id)); err == nil {
			return id, nil
		}
	}
	return "", fmt.Errorf("%w: writes that were under way are lost, so that the volume goes on from one of %v: %w", volume.ErrNoGoodReplica, legs, err)
}

// singleOut has a volume that runs go on from one replica if what was under way is lost.
func (w *watcher) singleOut(ctx context.Context, wv *watchedVolume, v *volume.Volume) (*volume.Volume, error) {
	if v.InFlight != volume.InFlightLost {
		return v, nil
	}
	legs, ok := w.legsOf(ctx, v, *v.Assembly)
	if !ok {
		return nil, fmt.Errorf("%w: raid host %s doesn't tell which legs it has", volume.ErrNodeDown, v.Assembly.RaidHost)
	}
	id, err := w.sole(ctx, v, slices.DeleteFunc(v.GoodLegs(*v.Assembly), func(id string) bool { return !legs[id].Member || !legs[id].Connected }))
	if err != nil {
		return nil, err
	}
	return w.modify(ctx, wv, v.Assembly.Number, func(v *volume.Volume) (bool, error) {
		if !slices.Contains(v.GoodLegs(*v.Assembly), id) {
			return false, fmt.Errorf("%w: replica %s is no source any more", volume.ErrConflict, id)
		}
		return true, w.goOn(v, []string{id})
	})
}

// readAlike returns when a volume reads alike from every leg that its raid has, before this machine is connected to it.
func (w *watcher) readAlike(ctx context.Context, wv *watchedVolume, v *volume.Volume) (*volume.Volume, error) {
	v, err := w.heedGivingUp(ctx, wv, v, false)
	if err != nil || v.InFlight != volume.InFlightLost {
		return v, err
	}
	if v, err = w.singleOut(ctx, wv, v); err != nil {
		return nil, err
	}
	if err := w.converger.Run(ctx, v, w.down()...); err != nil {
		klog.FromContext(ctx).V(2).Info("Not all replicas could be taken out of the raid at once", "volumeID", v.ID, "err", err)
	}
	legs, ok := w.legsOf(ctx, v, *v.Assembly)
	left := slices.DeleteFunc(slices.Clone(v.Assembly.Legs), func(id string) bool { return !legs[id].Member || v.Replica(id).State == volume.ReplicaInSync })
	if !ok || len(left) > 0 {
		return nil, fmt.Errorf("%w: its raid still has the legs %v, which may differ", volume.ErrBusy, left)
	}
	return v, nil
}

// settleInFlight puts on record that whatever was under way has been sent again: for a whole stall budget every host that may write has been connected to
// what runs, which answers all that it is sent in that time.
func (w *watcher) settleInFlight(ctx context.Context, wv *watchedVolume, v *volume.Volume) (*volume.Volume, error) {
	if v.InFlight != volume.InFlightResent {
		return v, nil
	}
	connected, err := w.writersConnected(ctx, wv, v)
	if err != nil || !wv.resentFor(connected, v, w.clock.Now()) {
		return v, err
	}
	return w.modify(ctx, wv, v.Assembly.Number, func(v *volume.Volume) (bool, error) {
		changed := v.InFlight == volume.InFlightResent
		if changed {
			v.InFlight = volume.InFlightNone
		}
		return changed, nil
	})
}

// resentFor says whether all writers have been connected to the assembly for a whole stall budget.
func (wv *watchedVolume) resentFor(connected bool, v *volume.Volume, now time.Time) bool {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	if !connected || wv.resending.number != v.Assembly.Number || wv.resending.since.IsZero() {
		wv.resending = resending{}
		if connected {
			wv.resending = resending{number: v.Assembly.Number, since: now}
		}
		return false
	}
	return now.Sub(wv.resending.since) >= v.Parameters.Budgets.ReplicaStall
}

// resending is since when all writers have been connected to an assembly.
type resending struct {
	number uint32
	since  time.Time
}

func (w *watcher) writersConnected(ctx context.Context, wv *watchedVolume, v *volume.Volume) (bool, error) {
	for _, p := range v.Guests() {
		if p.Writes() && p.Path != v.Assembly.Number {
			return false, nil
		}
	}
	if wv.isIdle() || !v.StagedToWriteOn(w.server.name) {
		return true, nil
	}
	paths, err := w.server.fabrics.Paths(ctx, v.NQN())
	address := w.address(v.Assembly.RaidHost)
	return slices.ContainsFunc(paths, func(p nvmeof.PathState) bool { return p.Address == address && p.State == nvmeof.StateLive }), err
}
