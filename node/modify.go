package node

import (
	"context"
	"time"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// liftLimit bounds one call that takes limits away or sets them again.
const liftLimit = 2 * time.Second

// sawLimits notes whether the limits on record were seen in force at the raid host and at the standby's.
func (wv *watchedVolume) sawLimits(v *volume.Volume, seen volume.Observed) {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	wv.limits = nil
	if v.LimitsInForce(seen) {
		limits := v.Parameters.Limits
		wv.limits = &limits
	}
}

// readLimitsAgain has the limits read back when the volume is next tended: another raid of it is being made, and goes without them rather
// than not at all. Without a limit there is nothing to read back.
func (wv *watchedVolume) readLimitsAgain() {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	if wv.limits != nil && !wv.limits.IsZero() {
		wv.limits = nil
	}
}

// widen has a volume leave a raid that has no slot for another replica for one that has, which takes a pause of milliseconds. A standby that
// is as narrow is given up first.
func (w *watcher) widen(ctx context.Context, wv *watchedVolume, v *volume.Volume, seen volume.Observed) error {
	if v.Standby != nil {
		raid := seen.Nodes[v.Standby.RaidHost].Raid
		if raid == nil || raid.Slots < v.Slots(len(raid.Legs)) {
			without, err := w.dropStandby(ctx, wv, v)
			if err != nil {
				return err
			}
			v = without
		}
	}
	klog.FromContext(ctx).Info("A raid has no slot for another replica", "volumeID", v.ID, "raidHost", v.Assembly.RaidHost, "replicas", v.Parameters.Replicas)
	return w.switchOver(ctx, wv, v, loss{why: "its raid has no slot for another replica", departure: departure{cause: CauseWiden}, asked: true, works: true})
}

// lift takes the limits of the raid that runs away for a moment in which I/O that waits at them would be waited for: a snapshot's pause would
// last as long as that, and so would the deletion of this machine's path. What waits goes on at once. Without success it is waited for. The
// caller holds the volume's token; put sets the limits again, or else the next tending does.
func (w *watcher) lift(ctx context.Context, wv *watchedVolume, v *volume.Volume, raidHost string) (put func()) {
	if v.Parameters.Limits.IsZero() {
		return func() {}
	}
	wv.readLimitsAgain()
	set := func(limits volume.Limits) {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), liftLimit)
		defer cancel()
		host, err := w.server.cluster.Node(raidHost)
		if err == nil {
			err = host.SetRateLimits(limited, v.RaidName(), converge.RateLimits(limits))
		}
		if err != nil {
			klog.FromContext(ctx).Info("Limits of a volume can't be changed for a moment", "volumeID", v.ID, "node", raidHost, "limits", limits, "err", err)
		}
	}
	set(volume.Limits{})
	return func() { set(v.Parameters.Limits) }
}
