package node

import (
	"context"
	"slices"
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
	answers := w.answers(ctx, name)
	w.mu.Lock()
	defer w.mu.Unlock()
	n.greetedAt = w.clock.Now()
	switch {
	case answers:
		n.silentSince = time.Time{}
	case n.silentSince.IsZero():
		n.silentSince = n.greetedAt
	}
	return answers
}

// unremarkable says whether all is well with a volume by a look at its raid host: consider would conclude nothing.
func (w *watcher) unremarkable(wv *watchedVolume, name string, n *watchedNode) bool {
	w.mu.Lock()
	health, lookedAt, well := n.health, n.lookedAt, n.err == nil && n.silentSince.IsZero()
	w.mu.Unlock()
	wv.mu.Lock()
	defer wv.mu.Unlock()
	v := wv.record
	if !well || v == nil || v.Assembly.RaidHost != name || v.Assembly.Held || wv.switching || !wv.unreachedSince.IsZero() || len(v.InState(volume.ReplicaInSync)) < len(v.Replicas) {
		return false
	}
	legs, ok := converge.LegHealth(v, *v.Assembly, health)
	for _, leg := range legs {
		ok = ok && leg.Member && leg.Connected
	}
	if !ok {
		return false
	}
	wv.wholeAt, wv.departing = lookedAt, departure{}
	if len(volume.Judge(v, legs, wv.memory, v.Parameters.Budgets.ReplicaStall, w.clock.Now())) > 0 || wv.wants() {
		return false
	}
	wv.pause = 0 // whatever comes next is tended at once, and soon again
	return true
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
		l = w.cutOff(ctx, wv, v, name, n, away)
	}
	if l.why == "" && len(away) > 0 {
		l = w.blind(ctx, v, seen)
	}
	if l.why == "" {
		l = w.unreached(ctx, wv, v)
	} else {
		wv.excuse(w.clock.Now())
	}
	l = wv.notice(l, v, w.clock.Now())
	if l.why == "" && seen.err == nil && w.contradicts(wv, seen.health) {
		rebuilt, err := w.record(ctx, wv, seen.health)
		if err != nil {
			klog.FromContext(ctx).Info("Staged volume can't be watched", "volumeID", wv.id, "err", err)
			return
		}
		if rebuilt {
			w.running.Go(func() { w.trim(ctx, wv.id, "a rebuild") })
		}
	}
	w.tendIfDue(ctx, wv, l)
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
	missing := away(v, legs)
	if len(missing) == 0 {
		wv.wholeAt = seen.lookedAt
	}
	return v, slices.DeleteFunc(missing, func(id string) bool { return !legs[id].Member })
}

// away returns the good legs that are not connected members of the raid.
func away(v *volume.Volume, legs map[string]volume.LegHealth) []string {
	return slices.DeleteFunc(v.GoodLegs(*v.Assembly), func(id string) bool { return legs[id].Member && legs[id].Connected })
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
//
// For other reasons to leave it see cutOff, blind and unreached.
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
	if _, there := seen.health.Raids[v.RaidName()]; !there && seen.err == nil {
		return loss{why: "it has no raid of the volume", departure: departure{cause: CauseRestarted}, gone: true, address: w.address(v.Assembly.RaidHost)}
	}
	if seen.err == nil && silentFor < patience {
		return loss{} // without a look at the paths, which costs much where there are many
	}
	paths, live := w.paths(ctx, v)
	l := loss{address: w.address(v.Assembly.RaidHost), paths: paths}
	if legs, ok := converge.LegHealth(v, *v.Assembly, seen.health); ok {
		l.unproven = away(v, legs)
	}
	if seen.err == nil {
		if live {
			return loss{}
		}
		l.why, l.cause = "its target doesn't answer", CauseTargetSilent
		return l
	}
	if values, err := timeouts.Derive(v.Parameters.Budgets); err != nil || now.Sub(seen.lookedAt) > values.Leg.FastIOFail+unwatched {
		l.unproven = v.GoodLegs(*v.Assembly)
	}
	switch down := now.Sub(seen.downSince); {
	case !live:
		l.why, l.cause = "it doesn't answer and the path to it is down", silence(seen.err)
	case down >= patience && silentFor >= patience:
		l.why, l.cause = "it hangs", CauseHung
	case down >= v.Parameters.Budgets.ReplicaStall:
		l.why, l.cause = "it can't be watched", CauseUnwatched
	default:
		return loss{}
	}
	return l
}

// unwatched is how long after the last look that was answered the end of this machine's path is noticed where both have one cause.
const unwatched = timeouts.WatchInterval + lookLimit

// paths returns this machine's paths to the volume and whether the one to its raid host is up.
func (w *watcher) paths(ctx context.Context, v *volume.Volume) ([]nvmeof.PathState, bool) {
	address := w.address(v.Assembly.RaidHost)
	paths, err := w.server.fabrics.Paths(ctx, v.NQN())
	return paths, err != nil || slices.ContainsFunc(paths, func(p nvmeof.PathState) bool { return p.Address == address && p.State == nvmeof.StateLive })
}

// address returns where a node's target listens; empty if the node is not configured any more.
func (w *watcher) address(name string) string {
	node, err := w.server.cluster.Node(name)
	if err != nil {
		return ""
	}
	return node.NVMf.String()
}

// cutOff says whether it is the raid host that is cut off, rather than the legs that it has just lost sight of: this machine doesn't reach
// it either, and the standby sees a good leg. It waits for the end of this machine's connection until SPDK may acknowledge a write
// without the legs; before that they are on record as suspect.
func (w *watcher) cutOff(ctx context.Context, wv *watchedVolume, v *volume.Volume, name string, n *watchedNode, away []string) loss {
	values, err := timeouts.Derive(v.Parameters.Budgets)
	if err != nil || v.Standby == nil || !v.Standby.Running || w.greetNow(ctx, name, n) || !w.standbySees(ctx, v) {
		return loss{}
	}
	w.mu.Lock()
	health, until := n.health, n.before.Add(values.Leg.FastIOFail) // the legs were connected at the look before
	w.mu.Unlock()
	ticker := w.clock.NewTicker(pathInterval)
	defer ticker.Stop()
	for recorded := false; w.clock.Now().Before(until); {
		if paths, live := w.paths(ctx, v); !live {
			return loss{why: "it is cut off from this machine and from its legs", departure: departure{cause: CauseCutOff}, address: w.address(name), unproven: away, paths: paths}
		}
		if !recorded && until.Sub(w.clock.Now()) <= 2*timeouts.RecordTime {
			recorded = true
			if _, err := w.record(ctx, wv, health); err != nil {
				return loss{}
			}
		}
		select {
		case <-ticker.C():
		case <-ctx.Done():
			return loss{}
		}
	}
	return loss{}
}

// standbySees says whether the standby reaches a good leg.
func (w *watcher) standbySees(ctx context.Context, v *volume.Volume) bool {
	legs, _ := w.legsOf(ctx, v, *v.Standby)
	return slices.ContainsFunc(v.GoodLegs(*v.Standby), func(id string) bool { return legs[id].Connected })
}

// legsOf asks a raid host how the legs of an assembly are there. ok: it answers, and has a raid of the volume.
func (w *watcher) legsOf(ctx context.Context, v *volume.Volume, a volume.Assembly) (legs map[string]volume.LegHealth, ok bool) {
	health, err := w.ask(ctx, a.RaidHost)
	if err != nil {
		return nil, false
	}
	return converge.LegHealth(v, a, health)
}

// pathInterval is how often a path is looked at whose end is waited for.
const pathInterval = 50 * time.Millisecond

// answers says whether the NVMe/TCP target of a node answers this machine.
func (w *watcher) answers(ctx context.Context, name string) bool {
	node, err := w.server.cluster.Node(name)
	return err == nil && sharedOf(w, w.greetings, name).Do(func() bool {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), greetLimit)
		defer cancel()
		return w.server.fabrics.Greet(ctx, node.NVMf.String()) == nil
	})
}
