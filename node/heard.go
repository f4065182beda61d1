package node

import (
	"context"
	"errors"
	"slices"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// heard is what a former raid host tells of its legs.
type heard struct {
	number uint32 // of the assembly there
	memory map[string]volume.Steady
}

// servesOn says whether the raid host of an assembly serves this machine although it may have lost a leg since anybody looked. One whose target
// doesn't answer hangs: its path is live until the kernel has noticed, but it acknowledges nothing.
func (w *watcher) servesOn(ctx context.Context, wv *watchedVolume, v *volume.Volume, a volume.Assembly, paths []nvmeof.PathState) bool {
	address := w.address(a.RaidHost)
	return wv.mayHaveLost(v, a, w.clock.Now()) &&
		slices.ContainsFunc(paths, func(p nvmeof.PathState) bool { return p.Address == address && p.State == nvmeof.StateLive }) &&
		w.answers(ctx, a.RaidHost)
}

// whileServed does what may take long, as connecting to a new raid host that is cut off, and watches meanwhile whether the former one serves this
// machine: it may be gone again by the time that it could be left.
func (w *watcher) whileServed(ctx context.Context, s *switching, do func() error) error {
	done := make(chan error, 1)
	go func() { done <- do() }()
	ticker := w.clock.NewTicker(timeouts.WatchInterval)
	defer ticker.Stop()
	var errs []error
	for {
		select {
		case err := <-done:
			return errors.Join(append(errs, err)...)
		case <-ticker.C():
			paths, err := w.server.fabrics.Paths(ctx, s.v.NQN())
			if err == nil {
				err = w.doubtServed(ctx, s, paths)
			}
			errs = append(errs, err)
		}
	}
}

// doubtServed puts all good legs in doubt where the former raid host serves this machine unwatched: nothing else tells which of them it still has.
// That is on record before this machine's path to it goes.
func (w *watcher) doubtServed(ctx context.Context, s *switching, paths []nvmeof.PathState) error {
	former := s.v.LastServed()
	if former == nil || !w.servesOn(ctx, s.wv, s.v, *former, paths) {
		return nil
	}
	v, err := w.modify(ctx, s.wv, s.v.Assembly.Number, func(v *volume.Volume) (bool, error) {
		good := v.InState(volume.ReplicaInSync)
		for _, r := range good {
			v.SetReplicaState(r.ID, volume.ReplicaSuspect, w.clock.Now().UTC())
		}
		if len(good) > 0 {
			klog.FromContext(ctx).Info("Former raid host has gone on serving; it is asked which legs it has", "volumeID", v.ID, "raidHost", former.RaidHost)
		}
		return len(good) > 0, nil
	})
	if err != nil {
		return err
	}
	s.v, s.l.unproven, s.l.refuted = v, slices.Clone(v.Assembly.Legs), true
	s.wv.doubtAll(s.l.unproven)
	return nil
}

// hear has the former raid host say which of the legs in doubt are good, when no other is: it is back, and was not gone for good. Nothing is
// sent to it any more, so that the legs that it still has, have all that it has acknowledged. As anywhere, a leg counts that has been
// a connected member with one controller id for a whole stall budget; until then the switch is tried again.
func (w *watcher) hear(ctx context.Context, s *switching) error {
	former := s.v.LastServed()
	if former == nil || slices.Contains(w.down(), former.RaidHost) || len(s.v.InState(volume.ReplicaSuspect)) == 0 {
		return nil
	}
	good := w.told(ctx, s, former)
	if len(good) == 0 {
		return nil
	}
	klog.FromContext(ctx).Info("Former raid host is back and has legs that were in doubt", "volumeID", s.v.ID, "raidHost", former.RaidHost, "legs", good)
	v, err := w.modify(ctx, s.wv, s.v.Assembly.Number, func(v *volume.Volume) (bool, error) {
		for _, id := range good {
			v.SetReplicaState(id, volume.ReplicaInSync, w.clock.Now().UTC())
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	s.v, s.l.unproven = v, s.wv.believe(good)
	s.legs = s.l.usable(v, *v.Assembly, false)
	return nil
}

// hearLast has the former raid host say which legs are good before the volume is given back in the middle of a switch: nobody asks it later. One
// that doesn't answer, or has no leg, is left to an operator.
func (w *watcher) hearLast(ctx context.Context, wv *watchedVolume, v *volume.Volume) error {
	ticker := w.clock.NewTicker(timeouts.WatchInterval)
	defer ticker.Stop()
	for len(v.InState(volume.ReplicaInSync)) == 0 && len(v.InState(volume.ReplicaSuspect)) > 0 && w.tells(ctx, v) {
		s := &switching{wv: wv, v: v}
		if err := w.hear(ctx, s); err != nil {
			return err
		}
		v = s.v
		select {
		case <-ticker.C():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// tells says whether the former raid host answers and has a leg.
func (w *watcher) tells(ctx context.Context, v *volume.Volume) bool {
	former := v.LastServed()
	if former == nil {
		return false
	}
	legs, _ := w.legsOf(ctx, v, *former)
	return slices.ContainsFunc(former.Legs, func(id string) bool { return legs[id].Member && legs[id].Connected })
}

// told returns the legs in doubt that a former assembly has had for long enough, none if it can't be asked.
func (w *watcher) told(ctx context.Context, s *switching, former *volume.Assembly) (good []string) {
	legs, ok := w.legsOf(ctx, s.v, *former)
	if !ok {
		return nil
	}
	there := s.v.Clone()
	there.Assembly = former
	changes := volume.Judge(there, legs, s.wv.hearing(former.Number), s.v.Parameters.Budgets.ReplicaStall, w.clock.Now())
	for id, state := range changes {
		if state == volume.ReplicaInSync && s.v.Replica(id).State == volume.ReplicaSuspect && slices.Contains(s.v.Assembly.Legs, id) {
			good = append(good, id)
		}
	}
	slices.Sort(good)
	return good
}

// hearing is the memory of what the raid host of that assembly tells.
func (wv *watchedVolume) hearing(number uint32) map[string]volume.Steady {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	if wv.heard.number != number {
		wv.heard = heard{number: number, memory: map[string]volume.Steady{}}
	}
	return wv.heard.memory
}

// believe ends the doubts about these legs, and returns those that are left.
func (wv *watchedVolume) believe(good []string) []string {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	wv.noticed.unproven = slices.DeleteFunc(slices.Clone(wv.noticed.unproven), func(id string) bool { return slices.Contains(good, id) })
	return wv.noticed.unproven
}
