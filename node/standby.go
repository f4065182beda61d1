package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// connectLimit bounds the connecting or deleting of one path.
const connectLimit = 15 * time.Second

// wantsStandby says whether a standby is to be kept.
func wantsStandby(v *volume.Volume) bool { return v.WantsStandby() }

// standbyReady says whether the standby is complete and this machine connected to it.
func (w *watcher) standbyReady(wv *watchedVolume, v *volume.Volume) bool {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	return v.Standby != nil && wv.ready == v.Standby.Number
}

// keepStandby sees to it that a standby is ready, over the legs that are in-sync. One that has become stale, or whose node is gone, is
// given up for a new one: a leg can join a raid by a rebuild only, and two raids must not write at once.
func (w *watcher) keepStandby(ctx context.Context, wv *watchedVolume, v *volume.Volume) error {
	switch {
	case v.Standby == nil && (!wantsStandby(v) || v.GrowingFrom > 0): // of two that grow, one would be larger than the other for a while
		return nil
	case v.Standby == nil:
		_, err := w.makeStandby(ctx, wv, v, "", false)
		return err
	case wantsStandby(v) && w.standbyLost(v): // a new one at once: the rebuild that comes first otherwise may wait for the same node
		v, err := w.dropStandby(ctx, wv, v)
		if err != nil || v.GrowingFrom > 0 {
			return err
		}
		_, err = w.makeStandby(ctx, wv, v, "", false)
		return err
	case !wantsStandby(v) || stale(v):
		_, err := w.dropStandby(ctx, wv, v)
		return err
	case !w.standbyReady(wv, v):
		_, err := w.finishStandby(ctx, wv, v)
		return err
	}
	return nil
}

// standbyLost says whether the standby's node has not answered for a whole stall budget, or has no raid of the volume with a good leg.
func (w *watcher) standbyLost(v *volume.Volume) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.nodes[v.Standby.RaidHost]
	switch {
	case n == nil || n.err == nil && n.lookedAt.IsZero():
		return false
	case n.err != nil:
		return w.clock.Since(n.downSince) >= v.Parameters.Budgets.ReplicaStall
	}
	legs, _ := converge.LegHealth(v, *v.Standby, n.health)
	return v.Standby.Running && !slices.ContainsFunc(v.GoodLegs(*v.Standby), func(id string) bool { return legs[id].Member })
}

// checkStandby has a standby that is lost counted as not ready, so that it is replaced.
func (w *watcher) checkStandby(wv *watchedVolume, name string) {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	if v := wv.record; v != nil && v.Standby != nil && v.Standby.RaidHost == name && wv.ready == v.Standby.Number && w.standbyLost(v) {
		wv.ready = 0
	}
}

// dropStandby deletes this machine's path to the standby and retires it, unless a guest has no other path.
func (w *watcher) dropStandby(ctx context.Context, wv *watchedVolume, v *volume.Volume) (*volume.Volume, error) {
	if p := v.OnStandby(); p != nil {
		return nil, fmt.Errorf("%w: the standby on %s is all that node %s is connected to, which was to leave %s", volume.ErrBusy, v.Standby.RaidHost, p.Node, v.Assembly.RaidHost)
	}
	if node, err := w.server.cluster.Node(v.Standby.RaidHost); err == nil {
		limited, cancel := context.WithTimeout(ctx, connectLimit)
		defer cancel()
		if err := w.server.fabrics.DisconnectPath(limited, v.NQN(), node.NVMf.String()); err != nil {
			return nil, fmt.Errorf("let go of the standby on %s: %w", node.Name, err)
		}
	}
	klog.FromContext(ctx).Info("Standby is given up", "volumeID", v.ID, "node", v.Standby.RaidHost, "legs", v.Standby.Legs)
	return w.modify(ctx, wv, v.Assembly.Number, func(v *volume.Volume) (bool, error) {
		if v.OnStandby() != nil {
			return false, fmt.Errorf("%w: a guest is connected to the standby alone", volume.ErrConflict)
		}
		v.RetireStandby()
		return true, nil
	})
}

// makeStandby puts a standby on record, on the node to, or on the best one if to is empty, and makes it ready. needed is for one that the
// volume is about to switch to.
func (w *watcher) makeStandby(ctx context.Context, wv *watchedVolume, v *volume.Volume, to string, needed bool) (*volume.Volume, error) {
	host, err := w.chooseStandby(ctx, v, to, needed)
	if err != nil {
		return nil, err
	}
	v, err = w.modify(ctx, wv, v.Assembly.Number, func(v *volume.Volume) (bool, error) {
		if v.Standby != nil || v.IsRetiredOn(host) || v.Assembly.RaidHost == host {
			return false, volume.ErrConflict
		}
		a := volume.Assembly{Number: v.Assemblies + 1, RaidHost: host, Held: true}
		for _, r := range v.InState(volume.ReplicaInSync) {
			if host == r.Node || !slices.Contains(w.down(), r.Node) {
				a.Legs = append(a.Legs, r.ID)
			}
		}
		if len(a.Legs) == 0 {
			return false, volume.ErrNoGoodReplica
		}
		v.Standby, v.Assemblies = &a, a.Number
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	return w.finishStandby(ctx, wv, v)
}

// finishStandby makes what is on record of the standby and connects this machine's path to it.
func (w *watcher) finishStandby(ctx context.Context, wv *watchedVolume, v *volume.Volume) (*volume.Volume, error) {
	host := v.Standby.RaidHost
	wv.readLimitsAgain()
	release, err := w.makes.take(ctx)
	if err != nil {
		return nil, err
	}
	v, err = w.assembleStandby(ctx, wv, v)
	release()
	if err != nil {
		return nil, fmt.Errorf("make the standby on %s: %w", host, err)
	}
	if !v.Standby.Running {
		v, err = w.modifyStandby(ctx, wv, v, func(v *volume.Volume) error {
			v.Standby.Running = true
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if err := w.connectPath(ctx, v, host); err != nil {
		return nil, fmt.Errorf("connect to the standby on %s: %w", host, err)
	}
	wv.mu.Lock()
	defer wv.mu.Unlock()
	wv.ready = v.Standby.Number
	klog.FromContext(ctx).V(2).Info("Standby is ready", "volumeID", v.ID, "node", host, "legs", v.Standby.Legs)
	return v, nil
}

// assembleStandby makes what is on record of the standby. Legs whose nodes don't answer are left out: the raid host that it is made for may be one.
func (w *watcher) assembleStandby(ctx context.Context, wv *watchedVolume, v *volume.Volume) (*volume.Volume, error) {
	err := w.converger.RunStandby(ctx, v, w.down()...)
	var blocked *converge.BlockedError
	if v.Standby.Running || !errors.As(err, &blocked) || blocked.Waits(v.Standby.RaidHost) {
		return v, err
	}
	v, modifyErr := w.modifyStandby(ctx, wv, v, func(v *volume.Volume) error {
		v.Standby.Legs = slices.DeleteFunc(v.Standby.Legs, func(id string) bool { return v.Replica(id) == nil || blocked.Waits(v.Replica(id).Node) })
		if len(v.Standby.Legs) == 0 {
			return errors.Join(volume.ErrNoGoodReplica, blocked)
		}
		return nil
	})
	if modifyErr != nil {
		return nil, modifyErr
	}
	return v, w.converger.RunStandby(ctx, v, w.down()...)
}

// modifyStandby changes the record of the standby, unless it is another one by now.
func (w *watcher) modifyStandby(ctx context.Context, wv *watchedVolume, v *volume.Volume, change func(v *volume.Volume) error) (*volume.Volume, error) {
	number := v.Standby.Number
	return w.modify(ctx, wv, v.Assembly.Number, func(v *volume.Volume) (bool, error) {
		if v.Standby == nil || v.Standby.Number != number {
			return false, volume.ErrConflict
		}
		err := change(v)
		return err == nil, err
	})
}

// connectPath connects this machine to a raid host of the volume, if it uses the volume at all.
func (w *watcher) connectPath(ctx context.Context, v *volume.Volume, host string) error {
	node, err := w.server.cluster.Node(host)
	if err != nil {
		return err
	}
	target, err := w.server.targetAt(v, host)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	_, err = w.server.fabrics.ConnectPath(limited, target, node.NVMf.String())
	return err
}

// chooseStandby returns the node for a standby: the one asked for, else of those that answer one that holds an in-sync replica, the one
// with the fewest raids; else any other; and a cordoned one only if it is needed and there is no other.
func (w *watcher) chooseStandby(ctx context.Context, v *volume.Volume, to string, needed bool) (string, error) {
	down := w.down()
	cordoned, err := w.server.store.Cordoned(ctx)
	if err != nil {
		return "", err
	}
	may := func(node string) bool {
		return node != v.Assembly.RaidHost && !v.IsRetiredOn(node) && !slices.Contains(down, node) && (to == "" || to == node)
	}
	var holders, others, last []string
	for _, node := range w.server.cluster.Names() {
		holds := slices.ContainsFunc(v.InState(volume.ReplicaInSync), func(r volume.Replica) bool { return r.Node == node })
		switch {
		case slices.Contains(cordoned, node):
			if needed && may(node) {
				last = append(last, node)
			}
		case may(node) && holds:
			holders = append(holders, node)
		case may(node):
			others = append(others, node)
		}
	}
	var errs []error
	for _, candidates := range [][]string{holders, others, last} {
		best, fewest := "", 0
		for _, name := range candidates {
			raids, err := w.raids(ctx, name)
			switch {
			case err != nil:
				errs = append(errs, err)
			case best == "" || raids < fewest:
				best, fewest = name, raids
			}
		}
		if best != "" {
			return best, nil
		}
	}
	return "", errors.Join(fmt.Errorf("%w: no SPDK node is left for another assembly", volume.ErrNodeDown), errors.Join(errs...))
}

// raids returns how many raids run on a node.
func (w *watcher) raids(ctx context.Context, name string) (int, error) {
	w.mu.Lock()
	n := w.nodes[name]
	known := n != nil && n.err == nil && !n.lookedAt.IsZero()
	var count int
	if known {
		count = len(n.health.Raids)
	}
	w.mu.Unlock()
	if known {
		return count, nil
	}
	health, err := w.ask(ctx, name)
	return len(health.Raids), err
}
