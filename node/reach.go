package node

import (
	"context"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// reachInterval is how often this machine's paths to all volumes are looked at, in one sweep. A path that ends with its raid host is
// noticed sooner (lost).
const reachInterval = 4 * time.Second

// reach looks which volumes this machine doesn't reach, whatever their raid hosts answer: as when a target has forgotten its host.
func (w *watcher) reach(ctx context.Context) {
	now := w.clock.Now()
	w.mu.Lock()
	due := now.Sub(w.reachedAt) >= reachInterval
	if due {
		w.reachedAt, w.pathStates = now, nil
	}
	w.mu.Unlock()
	if !due {
		return
	}
	all := w.all()
	if len(all) == 0 {
		return
	}
	controllers, err := w.server.fabrics.Controllers(volume.NQNPrefix)
	if err != nil {
		klog.FromContext(ctx).Info("Paths to staged volumes can't be looked at", "err", err)
		return
	}
	live, there, states := map[[2]string]bool{}, map[[2]string]bool{}, map[string]int{}
	for _, c := range controllers {
		there[[2]string{c.NQN, c.Address}] = true
		live[[2]string{c.NQN, c.Address}] = c.State == nvmeof.StateLive
		states[c.State]++
	}
	w.mu.Lock()
	w.pathStates = states
	w.mu.Unlock()
	for _, wv := range all {
		if w.strayed(wv, there) {
			w.beginWish(ctx, wv)
		}
		wv.mu.Lock()
		if last := wv.last; wv.noteWaiting(now, last != nil && live[[2]string{last.NQN(), w.address(last.Assembly.RaidHost)}]) {
			w.observer.PathReconnected()
		}
		switch v := wv.record; {
		case v == nil || v.Assembly.Held || live[[2]string{v.NQN(), w.address(v.Assembly.RaidHost)}]:
			wv.unreachedSince = time.Time{}
		case wv.unreachedSince.IsZero():
			wv.unreachedSince = now
		}
		wv.mu.Unlock()
	}
}

// strayed says whether this machine, a guest of the volume, lacks a controller of an assembly that it is to be connected to: the kernel gives
// one up that a target refuses. there are the controllers by NQN and address.
func (w *watcher) strayed(wv *watchedVolume, there map[[2]string]bool) bool {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	v := wv.guest
	return v != nil && slices.ContainsFunc(v.GuestPaths(), func(a volume.Assembly) bool { return !there[[2]string{v.NQN(), w.address(a.RaidHost)}] })
}

// reconnect makes sure of this machine's path to the raid host where a sweep has missed it.
func (w *watcher) reconnect(ctx context.Context, wv *watchedVolume, v *volume.Volume) error {
	wv.mu.Lock()
	since := wv.unreachedSince
	wv.mu.Unlock()
	if since.IsZero() {
		return nil
	}
	paths, err := w.server.fabrics.Paths(ctx, v.NQN())
	if err != nil || len(paths) == 0 { // being attached or detached
		return err
	}
	klog.FromContext(ctx).Info("Volume isn't reached", "volumeID", v.ID, "raidHost", v.Assembly.RaidHost, "since", since)
	return w.connectPath(ctx, v, v.Assembly.RaidHost)
}

// unreached says that a raid host is to be left which this machine hasn't reached for a whole stall budget, though it answers.
func (w *watcher) unreached(ctx context.Context, wv *watchedVolume, v *volume.Volume) loss {
	wv.mu.Lock()
	since := wv.unreachedSince
	wv.mu.Unlock()
	if since.IsZero() || v.Standby == nil || w.clock.Since(since) < v.Parameters.Budgets.ReplicaStall {
		return loss{}
	}
	paths, live := w.paths(ctx, v)
	if live || len(paths) == 0 { // being attached or detached, or not attached again yet
		return loss{}
	}
	return loss{why: "its target lets this machine in no more", departure: departure{cause: CauseRefused}, address: w.address(v.Assembly.RaidHost), paths: paths}
}

// excuse has the time in which a volume is not reached begin again: its raid host is lost.
func (wv *watchedVolume) excuse(now time.Time) {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	if !wv.unreachedSince.IsZero() {
		wv.unreachedSince = now
	}
}

// blind says that a raid host is to be left which has lost sight of all its legs while the standby sees a good one: its raid is about to lose
// its last leg, and the host its namespace. It acknowledges nothing meanwhile, and tells which legs it had when the host has left it. One
// that still has a leg that was rebuilt, and isn't good on record yet, goes on with that, and no other leg has what it writes from then on.
func (w *watcher) blind(ctx context.Context, v *volume.Volume, seen watchedNode) loss {
	legs, _ := converge.LegHealth(v, *v.Assembly, seen.health)
	if v.Standby == nil || !v.Standby.Running || seesALeg(v, legs) || !w.standbySees(ctx, v) {
		return loss{}
	}
	return loss{why: "it has lost sight of every good leg", departure: departure{cause: CauseLegsLost}, asked: true, address: w.address(v.Assembly.RaidHost)}
}

// seesALeg says whether a raid has a leg that it may go on with alone.
func seesALeg(v *volume.Volume, legs map[string]volume.LegHealth) bool {
	good := v.GoodLegs(*v.Assembly)
	return slices.ContainsFunc(v.Assembly.Legs, func(id string) bool {
		return legs[id].Connected && (legs[id].Member || slices.Contains(good, id))
	})
}
