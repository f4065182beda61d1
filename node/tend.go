package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

const (
	// tendLimit bounds one tending of a volume.
	tendLimit = time.Minute
	// A volume that can't be made whole now is tended again after a pause that doubles from shortestPause to longestPause, to longestWait while
	// its I/O waits for that or may be under way again.
	shortestPause = timeouts.WatchInterval
	longestPause  = 10 * time.Second
	longestWait   = 2 * time.Second
	// maxRebuilds is how many rebuilds may run on one raid host at a time.
	maxRebuilds = 2
)

// tendIfDue has a volume tended in the background: at once if its raid host is lost, else when something is to be done and it is due.
func (w *watcher) tendIfDue(ctx context.Context, wv *watchedVolume, l loss) {
	wv.mu.Lock()
	now := w.clock.Now()
	due := l.why != "" || !now.Before(wv.next) && wv.wants()
	first, calm := !now.Before(wv.next), l.why == "" && wv.record != nil && !wv.record.Assembly.Held
	if wv.record == nil || wv.switching || !due || calm && (wv.waiting || w.leaving.Load() > 0) {
		wv.mu.Unlock()
		return
	}
	if calm {
		wv.waiting = true
		wv.mu.Unlock()
		w.running.Go(func() { w.tendCalmly(ctx, wv) })
		return
	}
	select {
	case wv.tending <- struct{}{}:
	default:
		if wv.interrupt != nil {
			wv.interrupt() // the raid host is left with the next look
		}
		wv.mu.Unlock()
		return
	}
	wv.switching = l.why != "" && !l.gone
	wv.mu.Unlock()
	if first { // one that can't leave, and tries again at every look, must not keep the others waiting
		w.leaving.Add(1)
	}
	w.running.Go(func() {
		if first {
			defer w.leaving.Add(-1)
		}
		defer func() { <-wv.tending }()
		w.tendOnce(ctx, wv, l)
	})
}

// tendCalmly tends a volume that works meanwhile, when there is a slot and none leaves its raid host. It is interrupted if the raid host turns
// out to be lost: a rebuild may wait long for a leg that can't be attached.
func (w *watcher) tendCalmly(ctx context.Context, wv *watchedVolume) {
	ctx, interrupt := context.WithCancel(ctx)
	defer interrupt()
	release, err := w.calm.take(ctx)
	if err == nil {
		defer release()
	}
	wv.mu.Lock()
	wv.waiting = false
	mayBegin := err == nil && w.leaving.Load() == 0 && !wv.switching
	if mayBegin {
		select {
		case wv.tending <- struct{}{}:
			wv.interrupt = interrupt
		default:
			mayBegin = false
		}
	}
	wv.mu.Unlock()
	if !mayBegin {
		return
	}
	w.tendOnce(ctx, wv, loss{})
	wv.mu.Lock()
	defer wv.mu.Unlock()
	wv.interrupt = nil
	<-wv.tending
}

// hold waits until nobody tends the volume and keeps it so until release is called.
func (wv *watchedVolume) hold(ctx context.Context) (release func(), err error) {
	select {
	case wv.tending <- struct{}{}:
		return func() { <-wv.tending }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: what it runs on is being changed: %w", volume.ErrBusy, ctx.Err())
	}
}

// wants says whether anything about the volume is not as it should be. The caller holds wv.mu.
func (wv *watchedVolume) wants() bool {
	v := wv.record
	if v == nil || v.Assembly == nil {
		return false
	}
	if v.Assembly.Held || v.Assembly.Leaving || v.InFlight != volume.InFlightNone || v.MoveTo != "" || v.GrowingFrom > 0 || len(v.Retired) > 0 || wv.seen == 0 || !wv.unreachedSince.IsZero() {
		return true
	}
	if wv.limits == nil || *wv.limits != v.Parameters.Limits || len(v.InState(volume.ReplicaInSync)) > v.Parameters.Replicas {
		return true
	}
	if len(v.InState(volume.ReplicaOutOfSync, volume.ReplicaRemoving)) > 0 {
		return true
	}
	for _, r := range v.InState(volume.ReplicaRebuilding) {
		if !wv.memory[r.ID].Listed {
			return true
		}
	}
	for _, r := range v.InState(volume.ReplicaInSync, volume.ReplicaSuspect) {
		if slices.Contains(v.Assembly.Legs, r.ID) && wv.memory[r.ID].Since.IsZero() { // its target may be back and lack the export
			return true
		}
	}
	return v.Standby == nil && wantsStandby(v) || v.Standby != nil && (wv.ready != v.Standby.Number || stale(v))
}

// tendOnce tends the volume and notes when it is to be tended again: soon if its record has changed, later and later if not.
func (w *watcher) tendOnce(ctx context.Context, wv *watchedVolume, l loss) {
	ctx, cancel := context.WithTimeout(ctx, tendLimit)
	defer cancel()
	err := w.tend(ctx, wv, l)
	var blocked *converge.BlockedError
	switch {
	case err == nil || errors.Is(err, volume.ErrConflict):
	case errors.As(err, &blocked) && l.why == "":
		klog.FromContext(ctx).V(2).Info("Volume waits", "volumeID", wv.id, "err", err)
	default:
		klog.FromContext(ctx).Info("Volume can't be made whole yet", "volumeID", wv.id, "err", err)
	}
	wv.mu.Lock()
	defer wv.mu.Unlock()
	wv.switching = false
	var revision uint64 = 1
	if wv.record != nil {
		revision = wv.record.Revision
	}
	longest := longestPause
	if v := wv.last; v != nil && v.Assembly != nil && (v.Assembly.Held || v.InFlight != volume.InFlightNone) {
		longest = longestWait
	}
	if revision != wv.seen {
		wv.pause = shortestPause
	} else {
		wv.pause = min(max(2*wv.pause, shortestPause), longest)
	}
	wv.seen, wv.next = revision, w.clock.Now().Add(wv.pause)
}

// tend does the next thing that the volume needs. The caller holds the volume's token.
func (w *watcher) tend(ctx context.Context, wv *watchedVolume, l loss) error {
	reading, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	v, err := w.server.get(reading, wv.id)
	if err != nil || v.Owner != w.server.name || v.Assembly == nil || v.Assembly.Stopping {
		wv.forget()
		return err
	}
	wv.remember(w, v)
	if l.number != v.Assembly.Number {
		l = loss{} // it was left meanwhile
	}
	if v, err = w.heedGivingUp(ctx, wv, v, l.why != "" || v.Assembly.Held); err != nil {
		return err
	}
	switch {
	case l.gone && (!w.standbyReady(wv, v) || wv.unknown(v, w.clock.Now())):
		noticed := cmp.Or(wv.underWay().since, w.clock.Now())
		if err := w.makeAgain(ctx, wv, v, l); err != nil {
			return err
		}
		w.endFailover(wv, w.beginFailover(wv, l.cause, noticed))
		return nil
	case l.why != "":
		return w.switchOver(ctx, wv, v, l)
	case v.Assembly.Held:
		return w.resumeSwitch(ctx, wv, v)
	case v.Assembly.Leaving && wv.inTime(v, w.clock.Now()):
		return w.stay(ctx, wv, v)
	}
	if v, err = w.singleOut(ctx, wv, v); err != nil {
		return err
	}
	if v, err = w.settleInFlight(ctx, wv, v); err != nil {
		return err
	}
	var moveErr error
	if v.MoveTo != "" && len(v.InState(volume.ReplicaRebuilding, volume.ReplicaSuspect)) == 0 {
		if moveErr = w.move(ctx, wv, v); moveErr == nil {
			return nil
		}
		if v, err = w.server.get(ctx, wv.id); err != nil || v.Owner != w.server.name || v.Assembly == nil || v.Assembly.Held || v.Assembly.Stopping {
			return errors.Join(moveErr, err)
		}
	}
	v, growErr := w.grow(ctx, wv, v)
	if v == nil {
		return errors.Join(moveErr, growErr)
	}
	v, healErr := w.heal(ctx, wv, v)
	if v == nil {
		return errors.Join(moveErr, growErr, healErr)
	}
	return errors.Join(moveErr, growErr, healErr, w.reconnect(ctx, wv, v), w.keepStandby(ctx, wv, v))
}

// remember keeps the record as it was just read or written.
func (wv *watchedVolume) remember(w *watcher, v *volume.Volume) {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	wv.record, wv.readAt = v, w.clock.Now()
}

func (wv *watchedVolume) forget() {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	wv.record = nil
}

// modify changes the record as long as the volume is ours and runs as the assembly of that number.
func (w *watcher) modify(ctx context.Context, wv *watchedVolume, number uint32, change func(*volume.Volume) (bool, error)) (*volume.Volume, error) {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	var before *volume.Volume
	v, err := volume.Modify(ctx, w.server.store, wv.id, func(v *volume.Volume) (bool, error) {
		if v.Owner != w.server.name || v.Assembly == nil || v.Assembly.Number != number || v.Assembly.Stopping {
			return false, fmt.Errorf("%w: it is not assembly %d of this node any more", volume.ErrConflict, number)
		}
		before = v.Clone()
		return change(v)
	})
	if err != nil {
		wv.record = nil // read it again
		return nil, err
	}
	wv.record, wv.readAt = v, w.clock.Now()
	w.tell(before, v)
	return v, nil
}

// down returns the SPDK nodes that did not answer when they were last looked at.
func (w *watcher) down() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for name, n := range w.nodes {
		if !n.downSince.IsZero() {
			names = append(names, name)
		}
	}
	return names
}

// makeAgain makes a lost raid and its target again where they were, of the legs that are in-sync on record. The same host is still
// attached and sends every write again that was not acknowledged, so that all of them may be used at once. Legs whose nodes don't
// answer are left out, and on record as out-of-sync before; and so are those that the raid host may have acknowledged writes without,
// which the leg beside it can't be.
func (w *watcher) makeAgain(ctx context.Context, wv *watchedVolume, v *volume.Volume, l loss) error {
	paths, _ := w.paths(ctx, v)
	l.unproven = slices.DeleteFunc(slices.Clone(l.unproven), func(id string) bool { return v.Replica(id) == nil || v.Replica(id).Node == v.Assembly.RaidHost })
	good := l.usable(v, *v.Assembly, l.proven(paths) && !wv.unknown(v, w.clock.Now()))
	if len(good) == 0 {
		return fmt.Errorf("%w: raid host %s may have acknowledged writes without any leg that is left", volume.ErrNoGoodReplica, v.Assembly.RaidHost)
	}
	if v.InFlight == volume.InFlightLost {
		id, err := w.sole(ctx, v, good)
		if err != nil {
			return err
		}
		good = []string{id}
	}
	v, err := w.modify(ctx, wv, v.Assembly.Number, func(v *volume.Volume) (bool, error) {
		if v.InFlight != volume.InFlightLost {
			v.SendAgain()
		} else if err := w.goOn(v, good); err != nil {
			return false, err
		}
		v.ArriveAgain()
		for _, r := range v.InState(volume.ReplicaRebuilding, volume.ReplicaInSync) {
			if !slices.Contains(good, r.ID) {
				v.SetReplicaState(r.ID, volume.ReplicaOutOfSync, w.clock.Now().UTC())
			}
		}
		v.Assembly.Leaving = false
		return true, nil
	})
	if err != nil {
		return err
	}
	release, err := w.makes.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	wv.settle(w.clock.Now()) // what was in doubt is on record now
	wv.readLimitsAgain()
	err = w.converger.Run(ctx, v, w.down()...)
	var blocked *converge.BlockedError
	if !errors.As(err, &blocked) || blocked.Waits(v.Assembly.RaidHost) {
		return err
	}
	v, modifyErr := w.modify(ctx, wv, v.Assembly.Number, func(v *volume.Volume) (bool, error) {
		for _, leg := range v.GoodLegs(*v.Assembly) {
			if blocked.Waits(v.Replica(leg).Node) {
				v.SetReplicaState(leg, volume.ReplicaOutOfSync, w.clock.Now().UTC())
			}
		}
		if len(v.GoodLegs(*v.Assembly)) == 0 {
			return false, errors.Join(volume.ErrNoGoodReplica, blocked)
		}
		return true, nil
	})
	if modifyErr != nil {
		return modifyErr
	}
	return w.converger.Run(ctx, v, w.down()...)
}

// heal brings what runs in line with the record, begins the next rebuild, and takes off the record what is gone. It returns the record
// as it is then.
func (w *watcher) heal(ctx context.Context, wv *watchedVolume, v *volume.Volume) (*volume.Volume, error) {
	down := w.down()
	seen, runErr := w.converger.RunAndObserve(ctx, v, down...)
	begin, gone := "", volume.Gone(v, seen)
	if v.OnStandby() == nil && w.mayRebuild(v.Assembly.RaidHost) {
		begin, _ = volume.NextRebuild(v, seen, w.clock.Now())
	}
	wv.sawLimits(v, seen)
	if len(v.InState(volume.ReplicaRebuilding, volume.ReplicaSuspect)) == 0 && volume.NeedsSlots(v, seen) {
		return nil, errors.Join(runErr, w.widen(ctx, wv, v, seen))
	}
	zone := w.server.cluster.Zone
	if begin == "" && gone.Empty() && len(v.Surplus(seen, zone)) == 0 {
		v, err := w.giveUpRebuild(ctx, wv, v, runErr)
		return v, errors.Join(runErr, err)
	}
	v, err := w.modify(ctx, wv, v.Assembly.Number, func(v *volume.Volume) (bool, error) {
		gone.Remove(v)
		now := w.clock.Now().UTC()
		for _, id := range v.Surplus(seen, zone) {
			klog.FromContext(ctx).Info("Replica is not needed any more", "volumeID", v.ID, "replica", id, "node", v.Replica(id).Node, "replicas", v.Parameters.Replicas)
			v.SetReplicaState(id, volume.ReplicaRemoving, now)
		}
		if r := v.Replica(begin); r != nil && r.State == volume.ReplicaOutOfSync && len(v.InState(volume.ReplicaRebuilding)) == 0 {
			v.BeginRebuild(begin, now)
		}
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	if r := v.Replica(begin); r != nil && r.State == volume.ReplicaRebuilding {
		klog.FromContext(ctx).Info("Rebuild begins", "volumeID", v.ID, "replica", begin, "node", r.Node, "raidHost", v.Assembly.RaidHost, "strikes", r.Strikes)
	}
	runErr = w.converger.Run(ctx, v, down...)
	if v, err = w.giveUpRebuild(ctx, wv, v, runErr); err != nil {
		return nil, err
	}
	return v, runErr
}

// giveUpRebuild puts a replica back that can't be added to the raid: it counts as a rebuild that failed, and another may have its turn.
func (w *watcher) giveUpRebuild(ctx context.Context, wv *watchedVolume, v *volume.Volume, runErr error) (*volume.Volume, error) {
	var actions *converge.ActionsError
	var blocked *converge.BlockedError
	errors.As(runErr, &actions)
	errors.As(runErr, &blocked)
	failed := slices.DeleteFunc(v.InState(volume.ReplicaRebuilding), func(r volume.Replica) bool {
		return !blocked.Waits(r.Node) && actions.Of(volume.AttachLeg, r.ID) == nil && actions.Of(volume.AddLeg, r.ID) == nil && actions.Of(volume.ExportReplica, r.ID) == nil
	})
	if len(failed) == 0 {
		return v, nil
	}
	return w.modify(ctx, wv, v.Assembly.Number, func(v *volume.Volume) (bool, error) {
		for _, r := range failed {
			v.SetReplicaState(r.ID, volume.ReplicaOutOfSync, w.clock.Now().UTC())
		}
		return true, nil
	})
}

// mayRebuild says whether a raid host can take one rebuild more.
func (w *watcher) mayRebuild(host string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.nodes[host]
	if n == nil || n.err != nil {
		return false
	}
	running := 0
	for _, raid := range n.health.Raids {
		if raid.Rebuild != nil {
			running++
		}
	}
	return running < maxRebuilds
}

// move makes the raid host the one that an operator asked for. The volume is healed first while a replica is being rebuilt or suspect, and
// goes on being looked after while it can't be moved: what is left of an earlier assembly may be what is in the way.
func (w *watcher) move(ctx context.Context, wv *watchedVolume, v *volume.Volume) error {
	to := v.MoveTo
	if _, err := w.server.cluster.Node(to); err != nil || to == v.Assembly.RaidHost {
		_, err := w.modify(ctx, wv, v.Assembly.Number, func(v *volume.Volume) (bool, error) {
			v.MoveTo = ""
			return true, nil
		})
		return err
	}
	return w.switchOver(ctx, wv, v, loss{why: "an operator asked for it", departure: departure{cause: CausePlanned}, asked: true, works: true, to: to})
}

// stale says whether the standby lacks a leg that is in-sync.
func stale(v *volume.Volume) bool {
	return slices.ContainsFunc(v.InState(volume.ReplicaInSync), func(r volume.Replica) bool { return !slices.Contains(v.Standby.Legs, r.ID) })
}
