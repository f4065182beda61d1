package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

const (
	// pauseLimit bounds a pause of I/O: what has not been taken by then is done without.
	pauseLimit = 3 * time.Second
	// pauseCallLimit bounds the call that begins a pause, and one attempt to end it: a raid host that hangs is not kept from being left for
	// longer. The next look tries again.
	pauseCallLimit = time.Second
	// wishLimit bounds the carrying out of one wish.
	wishLimit = 15 * time.Second
)

// errNotWanted: the attempt was ended by someone else.
var errNotWanted = fmt.Errorf("%w: the snapshot is not wanted any more", volume.ErrConflict)

// carryOutWishes begins to do what is wanted of this node for volumes that are staged here. It waits for none.
func (w *watcher) carryOutWishes(ctx context.Context) {
	if !w.wishing.CompareAndSwap(false, true) {
		return
	}
	w.running.Go(func() {
		defer w.wishing.Store(false)
		reading, cancel := context.WithTimeout(ctx, storeLimit)
		defer cancel()
		ids, err := w.server.store.Wishes(reading, w.server.name)
		if err != nil {
			klog.FromContext(ctx).V(2).Info("It can't be found out what is wanted of this node", "err", err)
			return
		}
		for _, id := range ids {
			w.mu.Lock()
			wv := w.watched[id]
			w.mu.Unlock()
			if wv != nil {
				w.beginWish(ctx, wv)
			}
		}
	})
}

// beginWish begins to do what a volume wants of this node, unless that is being done.
func (w *watcher) beginWish(ctx context.Context, wv *watchedVolume) {
	if !wv.wish.CompareAndSwap(false, true) {
		return
	}
	w.running.Go(func() {
		defer wv.wish.Store(false)
		if err := w.carryOut(ctx, wv); err != nil && !errors.Is(err, volume.ErrConflict) {
			klog.FromContext(ctx).V(2).Info("What a volume wants of this node can't be done yet", "volumeID", wv.id, "err", err)
		}
	})
}

// carryOut does the next thing that a volume wants of this node.
func (w *watcher) carryOut(ctx context.Context, wv *watchedVolume) error {
	v, err := w.server.get(ctx, wv.id)
	if err != nil {
		return err
	}
	if v.Owner != w.server.name {
		return w.follow(ctx, wv)
	}
	ctx, cancel := context.WithTimeout(ctx, wishLimit)
	defer cancel()
	switch p := v.Publication(w.server.name); {
	case p != nil && p.Inherits:
		return w.takeOver(ctx, wv)
	case v.Review:
		return w.review(ctx, wv)
	}
	if err := w.snapshot(ctx, wv); err != nil {
		return fmt.Errorf("take a snapshot: %w", err)
	}
	return nil
}

// snapshot takes the snapshot that is wanted of a volume (docs/design.md, "Snapshots"). Nothing else is done to what runs of the volume while
// its I/O is paused.
func (w *watcher) snapshot(ctx context.Context, wv *watchedVolume) error {
	if w.raidHostDown(wv) {
		return nil // it is about to be left, or comes back
	}
	release, err := wv.hold(ctx)
	if err != nil {
		return err
	}
	t, err := w.pauseAndTake(ctx, wv)
	release()
	if t == nil {
		return err
	}
	if err == nil {
		err = w.confirm(ctx, t)
	}
	return w.report(ctx, wv, t, err)
}

// raidHostDown says whether the raid host did not answer when it was last looked at.
func (w *watcher) raidHostDown(wv *watchedVolume) bool {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	return wv.record != nil && slices.Contains(w.down(), wv.record.Assembly.RaidHost)
}

// taking is one attempt to take a snapshot.
type taking struct {
	// v is the record as it was when the pause began.
	v    *volume.Volume
	wish *volume.SnapshotWish
	// failed says by their IDs which lvols are not part of it, and why.
	failed map[string]error
	// cntlids are the ids of the legs' controllers in the pause, by replica.
	cntlids map[string]int
	at      time.Time
}

// fail notes that the lvol of a replica is not part of the snapshot.
func (t *taking) fail(replica string, err error) {
	for _, l := range t.wish.Replicas {
		if l.Replica == replica && t.failed[l.ID] == nil {
			t.failed[l.ID] = err
		}
	}
}

// pauseAndTake takes the lvols while I/O is paused. It returns nil if there is nothing to report: the wish is not wanted any more, or its
// pause could not be ended.
func (w *watcher) pauseAndTake(ctx context.Context, wv *watchedVolume) (*taking, error) {
	v, err := w.server.get(ctx, wv.id)
	if err != nil || v.Owner != w.server.name || v.Snapshot == nil || v.Snapshot.Ended() {
		return nil, err
	}
	if v.Snapshot.State == volume.WishPausing {
		return nil, w.endPause(ctx, wv, v)
	}
	if v.Assembly == nil || !v.Assembly.Running || v.Assembly.Held || v.Assembly.Stopping || v.InFlight != volume.InFlightNone {
		return nil, fmt.Errorf("%w: it is on its way to another raid host, or just arrived", volume.ErrBusy)
	}
	host, err := w.server.cluster.Node(v.Assembly.RaidHost)
	if err != nil {
		return nil, err
	}
	pause, err := host.PreparePause(ctx, v.NQN(), host.NVMf)
	if err != nil {
		return nil, err
	}
	if v.Snapshot.Group != nil {
		if err := w.gather(ctx, wv, v); err != nil {
			return nil, err
		}
	}
	if v, err = w.beginPause(ctx, wv, v); err != nil {
		return nil, err
	}
	t := &taking{v: v, wish: v.Snapshot, failed: map[string]error{}, cntlids: map[string]int{}}
	limit := w.lift(ctx, wv, v, host.Name)
	begin := w.clock.Now()
	takeErr, resumeErr := w.takeInPause(ctx, wv, host, pause, t)
	limit()
	paused := w.clock.Since(begin)
	w.observer.SnapshotPaused(paused, takeErr == nil && resumeErr == nil)
	klog.FromContext(ctx).V(2).Info("I/O was paused for a snapshot", "volumeID", v.ID, "for", paused.Round(time.Millisecond).String(), "err", takeErr)
	if resumeErr != nil {
		return nil, errors.Join(takeErr, resumeErr) // the record still says that it is paused: the next look ends that
	}
	return t, takeErr
}

// beginPause puts on record that I/O is about to be paused.
func (w *watcher) beginPause(ctx context.Context, wv *watchedVolume, v *volume.Volume) (*volume.Volume, error) {
	return w.changeWish(ctx, wv, v, volume.WishWanted, func(v *volume.Volume) {
		v.Snapshot.State, v.Snapshot.Assembly, v.Snapshot.FileSystem = volume.WishPausing, v.Assembly.Number, v.FileSystem
	})
}

// changeWish changes the attempt that is on the record as it was read, if it is still in that state.
func (w *watcher) changeWish(ctx context.Context, wv *watchedVolume, read *volume.Volume, state volume.WishState, change func(*volume.Volume)) (*volume.Volume, error) {
	return w.modify(ctx, wv, read.Assembly.Number, func(v *volume.Volume) (bool, error) {
		if !read.Snapshot.Same(v.Snapshot) || v.Snapshot.State != state {
			return false, errNotWanted
		}
		change(v)
		return true, nil
	})
}

// takeInPause pauses I/O, takes the lvols and ends the pause; resumeErr says that it may not be over. The steps, and what each owes:
//
//   - begin: no command that comes from now on is executed;
//   - drain: none that came before executes any more. A raid answers a write when each of its legs has, so that none of them has one in flight;
//   - lvols: one call each, whose answer says that the lvol is of this moment;
//   - members, at the same time: the legs that have every acknowledged write are those that the raid writes to;
//   - the other volumes of a group: all pauses have a moment in common;
//   - end: nobody has ended the pause before.
func (w *watcher) takeInPause(ctx context.Context, wv *watchedVolume, host *converge.Node, pause *spdk.Pause, t *taking) (takeErr, resumeErr error) {
	limited, cancel := context.WithTimeout(ctx, pauseCallLimit)
	defer cancel()
	if err := pause.Begin(limited); errors.Is(err, spdk.ErrUnknownOutcome) {
		return nil, err // a pause that comes late must not come after its end
	} else if err != nil {
		return err, nil
	}
	takeErr = w.takeDrained(ctx, wv, host, pause, t)
	ending, cancelEnding := context.WithTimeout(context.WithoutCancel(ctx), pauseCallLimit)
	defer cancelEnding()
	held, resumeErr := pause.End(ending)
	if takeErr == nil && !held {
		takeErr = fmt.Errorf("%w: the pause was over before the last lvol was taken", volume.ErrConflict)
	}
	return takeErr, resumeErr
}

func (w *watcher) takeDrained(ctx context.Context, wv *watchedVolume, host *converge.Node, pause *spdk.Pause, t *taking) error {
	ctx, cancel := context.WithTimeout(ctx, pauseLimit)
	defer cancel()
	if err := pause.Drain(ctx); err != nil {
		return err
	}
	var health spdk.Health
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		health, err = host.Health(groupCtx)
		return err
	})
	group.Go(func() error { return w.markPaused(groupCtx, wv, t) })
	failed := w.converger.TakeSnapshots(ctx, t.v, t.wish.UUID, t.wish.Replicas)
	t.at = w.clock.Now().UTC()
	if err := group.Wait(); err != nil {
		return err
	}
	t.failed = failed
	if err := w.leaveOut(t, health); err != nil {
		return err
	}
	return w.awaitPaused(ctx, wv, t)
}

// leaveOut leaves out the replicas that are no good members of the raid.
func (w *watcher) leaveOut(t *taking, health spdk.Health) error {
	legs, ok := converge.LegHealth(t.v, *t.v.Assembly, health)
	if !ok {
		return fmt.Errorf("%w: raid host %s has no raid of the volume", volume.ErrPrecondition, t.v.Assembly.RaidHost)
	}
	for _, l := range t.wish.Replicas {
		r, leg := t.v.Replica(l.Replica), legs[l.Replica]
		switch {
		case r == nil || r.State != volume.ReplicaInSync || !leg.Member:
			t.fail(l.Replica, fmt.Errorf("replica %s on %s is not in-sync", l.Replica, l.Node))
		case !leg.Connected:
			t.fail(l.Replica, fmt.Errorf("replica %s on %s is failing", l.Replica, l.Node))
		}
		t.cntlids[l.Replica] = leg.CNTLID
	}
	return nil
}

// resume ends a pause, also when the caller's time is over.
func (w *watcher) resume(ctx context.Context, host *converge.Node, v *volume.Volume) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pauseCallLimit)
	defer cancel()
	err := host.SetANAState(ctx, v.NQN(), host.NVMf, spdk.ANAOptimized)
	if errors.Is(err, spdk.ErrNotFound) {
		return nil // its target is gone, and what takes its place is not paused
	}
	if err != nil {
		return fmt.Errorf("let I/O go on: %w", err)
	}
	return nil
}

// endPause ends a pause that was left, and the attempt that it was for.
func (w *watcher) endPause(ctx context.Context, wv *watchedVolume, v *volume.Volume) error {
	if a := v.Assembly; a != nil && !a.Held && !a.Stopping && a.Number == v.Snapshot.Assembly {
		host, err := w.server.cluster.Node(a.RaidHost)
		if err == nil {
			err = w.resume(ctx, host, v)
		}
		if err != nil {
			return err
		}
	}
	wish := v.Snapshot
	_, err := volume.Modify(ctx, w.server.store, v.ID, func(v *volume.Volume) (bool, error) {
		if v.Owner != w.server.name || !wish.Same(v.Snapshot) || v.Snapshot.State != volume.WishPausing {
			return false, nil
		}
		v.VoidSnapshot("it was cut short")
		return true, nil
	})
	wv.forget()
	klog.FromContext(ctx).Info("A pause of I/O that was left is over", "volumeID", v.ID, "snapshotID", wish.Snapshot)
	return err
}

// confirm looks at the legs once more after a watch interval. A raid that has failed a leg goes on listing it for a moment; by then it has
// ejected it, or its controller is another one or not connected.
func (w *watcher) confirm(ctx context.Context, t *taking) error {
	ticker := w.clock.NewTicker(timeouts.WatchInterval)
	defer ticker.Stop()
	select {
	case <-ticker.C():
	case <-ctx.Done():
		return ctx.Err()
	}
	health, err := w.ask(ctx, t.v.Assembly.RaidHost)
	if err != nil {
		return fmt.Errorf("the legs can't be looked at after the pause: %w", err)
	}
	legs, ok := converge.LegHealth(t.v, *t.v.Assembly, health)
	if !ok {
		return fmt.Errorf("%w: raid host %s has lost the raid after the pause", volume.ErrPrecondition, t.v.Assembly.RaidHost)
	}
	for id, before := range t.cntlids {
		if leg := legs[id]; !leg.Member || !leg.Connected || leg.CNTLID != before {
			t.fail(id, fmt.Errorf("replica %s failed about when the snapshot was taken", id))
		}
	}
	return nil
}

// report puts the outcome on record. A volume that runs elsewhere by now, or has another file system than when the pause began, has the
// attempt fail.
func (w *watcher) report(ctx context.Context, wv *watchedVolume, t *taking, taken error) error {
	_, err := w.changeWish(ctx, wv, t.v, volume.WishPausing, func(v *volume.Volume) {
		switch wish := v.Snapshot; {
		case taken != nil:
			wish.Fail(taken.Error())
		case v.FileSystem != wish.FileSystem:
			wish.Fail("the volume was formatted meanwhile")
		default:
			wish.Take(v, t.failed, t.at)
		}
	})
	return errors.Join(taken, err)
}
