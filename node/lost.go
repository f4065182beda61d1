package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

const (
	// greetInterval is how often a raid host's NVMe/TCP target is greeted while nothing seems wrong with it.
	greetInterval = 2 * time.Second
	// greetLimit bounds a greeting, and so what it may delay the recording of a suspect.
	greetLimit = 300 * time.Millisecond
	// patience is how long what may be a moment's congestion is borne with.
	patience = time.Second
)

// loss says that a raid host is to be left, and why. The zero value is none.
type loss struct {
	why string
	// gone: the raid host answers and has no raid of the volume.
	gone bool
	// unproven are the legs that the raid host has just lost sight of, although they may be well. They stay good if its target is taken
	// away before by, the earliest time at which it can have acknowledged a write without them.
	unproven []string
	by       time.Time
}

// greet finds out whether a raid host's target answers this machine: every greetInterval, and at once where its RPC doesn't answer.
func (w *watcher) greet(ctx context.Context, name string, n *watchedNode, now bool) {
	w.mu.Lock()
	due := now || !n.silentSince.IsZero() || w.clock.Since(n.greetedAt) >= greetInterval
	w.mu.Unlock()
	if due {
		w.greetNow(ctx, name, n)
	}
}

// greetNow says whether the target answers.
func (w *watcher) greetNow(ctx context.Context, name string, n *watchedNode) bool {
	node, err := w.server.cluster.Node(name)
	if err == nil {
		limited, cancel := context.WithTimeout(ctx, greetLimit)
		err = w.server.fabrics.Greet(limited, node.NVMf.String())
		cancel()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	n.greetedAt = w.clock.Now()
	switch {
	case err == nil:
		n.silentSince = time.Time{}
	case n.silentSince.IsZero():
		n.silentSince = n.greetedAt
	}
	return err == nil
}

// consider draws the conclusions for one volume of a look at its raid host.
func (w *watcher) consider(ctx context.Context, wv *watchedVolume, name string, n *watchedNode) {
	w.mu.Lock()
	seen := *n
	w.mu.Unlock()
	v, away := w.newlyAway(wv, name, seen)
	if v == nil {
		return
	}
	l := w.lost(ctx, v, n, seen)
	if l.why == "" && len(away) > 0 {
		l = w.cutOff(ctx, v, name, n, away)
	}
	if l.why == "" && seen.err == nil && w.contradicts(wv, seen.health) {
		if err := w.record(ctx, wv, seen.health); err != nil {
			klog.FromContext(ctx).Info("Staged volume can't be watched", "volumeID", wv.id, "err", err)
			return
		}
	}
	w.tendIfDue(ctx, wv, l, seen)
}

// newlyAway returns the record, if it still runs on that node and isn't being moved, and the good legs that the raid host has lost sight of.
func (w *watcher) newlyAway(wv *watchedVolume, name string, seen watchedNode) (*volume.Volume, []string) {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	v := wv.record
	if v == nil || v.Assembly.RaidHost != name || wv.switching {
		return nil, nil
	}
	v = v.Clone()
	if seen.err != nil || v.Assembly.Held {
		return v, nil
	}
	legs, ok := converge.LegHealth(v, *v.Assembly, seen.health)
	if !ok {
		return v, nil
	}
	return v, slices.DeleteFunc(v.GoodLegs(*v.Assembly), func(id string) bool { return !legs[id].Member || legs[id].Connected })
}

func (w *watcher) contradicts(wv *watchedVolume, health spdk.Health) bool {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	return wv.record != nil && len(w.judge(wv, wv.record, health)) > 0
}

// lost says whether the raid host is gone, as far as this machine can tell:
//
//   - it answers neither RPC nor NVMe/TCP, or no RPC and this machine's path to it is down;
//   - it answers RPC but for patience not NVMe/TCP, and this machine's path to it is down;
//   - it answers no RPC for a whole stall budget: a leg that it loses meanwhile could not be put on record;
//   - it has no raid of the volume, as when its process was started again.
func (w *watcher) lost(ctx context.Context, v *volume.Volume, n *watchedNode, seen watchedNode) loss {
	w.mu.Lock()
	silent := n.silentSince
	w.mu.Unlock()
	now := w.clock.Now()
	silentFor := func() time.Duration {
		if silent.IsZero() {
			return 0
		}
		return now.Sub(silent)
	}()
	if seen.err == nil {
		if _, there := seen.health.Raids[v.RaidName()]; !there {
			return loss{why: "it has no raid of the volume", gone: true}
		}
		if silentFor >= patience && !w.pathLive(ctx, v) {
			return loss{why: "its target doesn't answer"}
		}
		return loss{}
	}
	switch down := now.Sub(seen.downSince); {
	case !w.pathLive(ctx, v):
		return loss{why: "it doesn't answer and the path to it is down"}
	case down >= patience && silentFor >= patience:
		return loss{why: "it hangs"}
	case down >= v.Parameters.Budgets.ReplicaStall:
		return loss{why: "it can't be watched"}
	}
	return loss{}
}

// pathLive says whether this machine's path to the raid host is up.
func (w *watcher) pathLive(ctx context.Context, v *volume.Volume) bool {
	node, err := w.server.cluster.Node(v.Assembly.RaidHost)
	if err != nil {
		return false
	}
	paths, err := w.server.fabrics.Paths(ctx, v.NQN())
	return err != nil || slices.ContainsFunc(paths, func(p nvmeof.PathState) bool { return p.Address == node.NVMf.String() && p.State == nvmeof.StateLive })
}

// cutOff says whether it is the raid host that is cut off, rather than the legs that it has just lost sight of: this machine doesn't reach
// it either; or the standby sees more good legs than the raid host does, among them one whose node answers this machine, so that it is
// not just slower to notice. Then the volume moves before SPDK may acknowledge a write without them.
func (w *watcher) cutOff(ctx context.Context, v *volume.Volume, name string, n *watchedNode, away []string) loss {
	if v.Standby == nil || !v.Standby.Running {
		return loss{}
	}
	w.mu.Lock()
	before := n.before // the legs were connected then
	w.mu.Unlock()
	health, err := w.ask(ctx, v.Standby.RaidHost)
	if err != nil {
		return loss{}
	}
	legs, ok := converge.LegHealth(v, *v.Standby, health)
	if !ok {
		return loss{}
	}
	good := v.GoodLegs(*v.Assembly)
	sees := len(slices.DeleteFunc(slices.Clone(good), func(id string) bool { return !legs[id].Connected }))
	switch {
	case sees == 0:
		return loss{}
	case !w.greetNow(ctx, name, n):
	case sees > len(good)-len(away) && w.anyAnswers(ctx, v, slices.DeleteFunc(slices.Clone(away), func(id string) bool { return !legs[id].Connected })):
	default:
		return loss{}
	}
	values, err := timeouts.Derive(v.Parameters.Budgets)
	if err != nil {
		return loss{}
	}
	return loss{why: "it is cut off from its legs", unproven: away, by: before.Add(values.Leg.FastIOFail)}
}

// anyAnswers says whether the NVMe/TCP target of a node that holds one of the replicas answers this machine.
func (w *watcher) anyAnswers(ctx context.Context, v *volume.Volume, replicas []string) bool {
	ctx, cancel := context.WithTimeout(ctx, greetLimit)
	defer cancel()
	var wg sync.WaitGroup
	answers := make([]bool, len(replicas))
	for i, id := range replicas {
		wg.Go(func() { answers[i] = w.answers(ctx, v.Replica(id).Node) })
	}
	wg.Wait()
	return slices.Contains(answers, true)
}

func (w *watcher) answers(ctx context.Context, name string) bool {
	node, err := w.server.cluster.Node(name)
	return err == nil && w.server.fabrics.Greet(ctx, node.NVMf.String()) == nil
}
