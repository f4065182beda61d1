package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// followLimit bounds one attempt of a guest to be connected as the record says.
const followLimit = 20 * time.Second

// follow connects this machine, a guest of the volume, as the record says: to where the volume runs and to the standby, and to nothing else
// (docs/design.md, "Several nodes"). What it has left is on record as soon as no answer can come from there any more.
func (w *watcher) follow(ctx context.Context, wv *watchedVolume) error {
	ctx, cancel := context.WithTimeout(ctx, followLimit)
	defer cancel()
	release, err := wv.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	v, err := w.server.get(ctx, wv.id)
	if err != nil {
		return err
	}
	p := v.Publication(w.server.name)
	if p == nil || !p.Staged || v.Owner == w.server.name || v.Assembly == nil || v.Assembly.Stopping {
		return nil
	}
	paths, err := w.server.fabrics.Paths(ctx, v.NQN())
	if err != nil {
		return err
	}
	to := v.GuestPaths()
	if len(paths) == 0 { // being attached, which isn't done from here, or given up by the kernel
		if v, err = w.guestGaveUp(ctx, wv, v); err != nil {
			return err
		}
		return w.left(ctx, v, v.Assemblies)
	}
	if len(to) == 0 {
		return fmt.Errorf("%w: there is no standby yet to go to from raid host %s", volume.ErrBusy, v.Assembly.RaidHost)
	}
	if v, err = w.comeBack(ctx, v); err != nil {
		return err
	}
	connecting, stop := w.whileWanted(ctx, v, to)
	err = w.connectAll(connecting, v, to)
	stop()
	if err != nil {
		return err
	}
	return w.leaveOthers(ctx, v, to, paths)
}

// comeBack puts on record that this machine may get answers again of an assembly that it had left. The volume must be on its way to no
// other assembly meanwhile, which is so as long as the record says the same.
func (w *watcher) comeBack(ctx context.Context, v *volume.Volume) (*volume.Volume, error) {
	if p := v.Publication(w.server.name); p == nil || !v.MayReturn(*p) {
		return v, nil
	}
	to := v.GuestPaths()
	return volume.Modify(ctx, w.server.store, v.ID, func(v *volume.Volume) (bool, error) {
		p := v.Publication(w.server.name)
		if p == nil || !sameAssemblies(to, v.GuestPaths()) {
			return false, fmt.Errorf("%w: it is on its way to another raid host", volume.ErrConflict)
		}
		v.Return(p)
		return true, nil
	})
}

// arriveAsGuest readies the record for this machine to attach a volume that is another node's.
func (s *Server) arriveAsGuest(ctx context.Context, wv *watchedVolume, v *volume.Volume) (*volume.Volume, error) {
	if a := v.Assembly; a == nil || a.Held || a.Leaving || a.Stopping {
		return nil, fmt.Errorf("%w: node %s is moving it to another raid host", volume.ErrBusy, v.Owner)
	}
	v, err := s.watcher.guestGaveUp(ctx, wv, v)
	if err != nil {
		return nil, err
	}
	if v.InFlight == volume.InFlightLost {
		return nil, fmt.Errorf("%w: replicas may differ; node %s is about to have it go on from one of them", volume.ErrBusy, v.Owner)
	}
	return s.watcher.comeBack(ctx, v)
}

// whileWanted returns a context that ends when the record says that this machine, a guest, is to be connected to other assemblies than these, or
// is no guest any more: a raid host that doesn't answer must not keep it from leaving that in time.
func (w *watcher) whileWanted(ctx context.Context, v *volume.Volume, to []volume.Assembly) (wanted context.Context, stop func()) {
	wanted, end := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ticker := w.clock.NewTicker(timeouts.WatchInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C():
			case <-wanted.Done():
				return
			}
			now, err := w.server.get(wanted, v.ID)
			if err == nil && (now.Owner == w.server.name || !sameAssemblies(to, now.GuestPaths())) {
				end(fmt.Errorf("%w: it is on its way to another raid host", volume.ErrConflict))
				return
			}
		}
	}()
	return wanted, func() { end(nil); <-ended }
}

func sameAssemblies(a, b []volume.Assembly) bool {
	return slices.EqualFunc(a, b, func(a, b volume.Assembly) bool { return a.Number == b.Number })
}

// connectAll connects this machine to the raid hosts of these assemblies.
func (w *watcher) connectAll(ctx context.Context, v *volume.Volume, to []volume.Assembly) error {
	errs := make([]error, len(to))
	var wg sync.WaitGroup
	for i, a := range to {
		wg.Go(func() {
			if err := w.connectPath(ctx, v, a.RaidHost); err != nil {
				errs[i] = fmt.Errorf("connect to raid host %s: %w", a.RaidHost, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// leaveOthers deletes this machine's paths to whatever else, and puts on record what has been left. before are the paths as they were at
// first. A path that had ended before its deletion began answers nothing any more, however long the deletion takes: with a peer that hangs
// the kernel takes 10 s.
func (w *watcher) leaveOthers(ctx context.Context, v *volume.Volume, to []volume.Assembly, before []nvmeof.PathState) error {
	var keep []string
	for _, a := range to {
		keep = append(keep, w.address(a.RaidHost))
	}
	other := func(p nvmeof.PathState) bool { return !slices.Contains(keep, p.Address) }
	paths, err := w.server.fabrics.Paths(ctx, v.NQN())
	if err != nil {
		return err
	}
	if v.Assembly.Leaving {
		if before, err = w.awaitLoss(ctx, v, other); err != nil {
			return err
		}
	}
	var ended loss
	for _, p := range before {
		if other(p) {
			ended.paths = append(ended.paths, p)
		}
	}
	leave := slices.DeleteFunc(paths, func(p nvmeof.PathState) bool { return !other(p) })
	failed := make([]error, len(leave))
	deleted := make(chan struct{})
	go func() {
		defer close(deleted)
		var wg sync.WaitGroup
		for i, p := range leave {
			wg.Go(func() { failed[i] = w.server.fabrics.DisconnectPath(ctx, v.NQN(), p.Address) })
		}
		wg.Wait()
	}()
	err = w.awaitEnd(ctx, v, deleted, func(p nvmeof.PathState) bool {
		return !other(p) || strings.HasPrefix(p.State, nvmeof.StateDeleting) && ended.ended(p)
	})
	if err == nil {
		err = w.arrive(ctx, v)
	}
	<-deleted
	return errors.Join(err, errors.Join(failed...))
}

// awaitLoss gives the kernel a moment to find out that the raid host which is left is lost, and returns the paths. The deletion of a path that
// counts as live would wait for an answer of that raid host.
func (w *watcher) awaitLoss(ctx context.Context, v *volume.Volume, other func(nvmeof.PathState) bool) ([]nvmeof.PathState, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := w.clock.NewTicker(pathInterval)
	defer ticker.Stop()
	for {
		paths, err := w.server.fabrics.Paths(ctx, v.NQN())
		if err != nil || !slices.ContainsFunc(paths, func(p nvmeof.PathState) bool { return other(p) && p.State == nvmeof.StateLive }) {
			return paths, err
		}
		select {
		case <-ticker.C():
		case <-ctx.Done():
			return paths, nil
		}
	}
}

// awaitEnd waits until all paths of the volume are as they should be, or have all been deleted.
func (w *watcher) awaitEnd(ctx context.Context, v *volume.Volume, deleted <-chan struct{}, over func(nvmeof.PathState) bool) error {
	ticker := w.clock.NewTicker(pathInterval)
	defer ticker.Stop()
	for ended := false; ; {
		paths, err := w.server.fabrics.Paths(ctx, v.NQN())
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(paths, func(p nvmeof.PathState) bool { return !over(p) }) {
			return nil
		}
		if ended {
			return fmt.Errorf("%w: a path to a former raid host is still there: %+v", volume.ErrBusy, paths)
		}
		select {
		case <-deleted:
			ended = true
		case <-ticker.C():
		}
	}
}

// arrive puts on record that this machine is connected as v says.
func (w *watcher) arrive(ctx context.Context, v *volume.Volume) error {
	_, err := volume.Modify(ctx, w.server.store, v.ID, func(now *volume.Volume) (bool, error) {
		p := now.Publication(w.server.name)
		if p == nil || now.Owner == w.server.name {
			return false, nil
		}
		before := *p
		p.Arrive(v)
		return *p != before, nil
	})
	if err == nil {
		klog.FromContext(ctx).V(2).Info("Guest follows", "volumeID", v.ID, "raidHost", v.Assembly.RaidHost, "leaving", v.Assembly.Leaving)
	}
	return err
}

// left puts on record that this machine has no path at all.
func (w *watcher) left(ctx context.Context, v *volume.Volume, number uint32) error {
	_, err := volume.Modify(ctx, w.server.store, v.ID, func(v *volume.Volume) (bool, error) {
		p := v.Publication(w.server.name)
		if p == nil || v.Owner == w.server.name {
			return false, nil
		}
		before := *p
		p.Path, p.Standby, p.Left = 0, 0, number
		return *p != before, nil
	})
	return err
}

// takeOver has this node service know that the volume is its own now.
func (w *watcher) takeOver(ctx context.Context, wv *watchedVolume) error {
	v, err := volume.Modify(ctx, w.server.store, wv.id, func(v *volume.Volume) (bool, error) {
		p := v.Publication(w.server.name)
		if v.Owner != w.server.name || p == nil || !p.Inherits {
			return false, nil
		}
		p.Inherits = false
		return true, nil
	})
	if err != nil {
		return err
	}
	klog.FromContext(ctx).Info("Volume is this node's now", "volumeID", wv.id)
	wv.mu.Lock()
	defer wv.mu.Unlock()
	wv.guest, wv.record, wv.readAt, wv.seen, wv.next = nil, v, w.clock.Now(), 0, time.Time{}
	return nil
}

// review makes sure, by a record that is read after whatever was done by an older one, that the targets allow the hosts on record alone.
func (w *watcher) review(ctx context.Context, wv *watchedVolume) error {
	if w.raidHostDown(wv) {
		return nil // it is about to be left, or comes back
	}
	release, err := wv.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	v, err := w.server.get(ctx, wv.id)
	if err != nil || v.Owner != w.server.name || !v.Review || v.Assembly == nil || v.Assembly.Stopping {
		return err
	}
	if err := w.converger.RunTargets(ctx, v, w.down()...); err != nil {
		return err
	}
	_, err = w.modify(ctx, wv, v.Assembly.Number, func(now *volume.Volume) (bool, error) {
		if !slices.Equal(now.HostNQNs(), v.HostNQNs()) {
			return false, nil
		}
		now.Review = false
		return true, nil
	})
	return err
}
