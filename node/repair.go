package node

import (
	"context"
	"errors"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// isGone says whether a raid host that answers has lost a volume's raid, as when its process was started again, and nobody repairs
// that yet.
func (wv *watchedVolume) isGone(health spdk.Health) bool {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	if wv.record == nil || wv.repairing {
		return false
	}
	_, there := converge.LegHealth(wv.record, health)
	wv.repairing = !there
	return !there
}

// repair makes a lost raid and its target again, of the legs that are in-sync on record. The same host is still attached and sends
// every write again that was not acknowledged, so that all of them may be used at once.
func (w *watcher) repair(ctx context.Context, wv *watchedVolume) {
	ctx, cancel := context.WithTimeout(ctx, timeouts.CSI)
	defer cancel()
	logger := klog.FromContext(ctx).WithValues("volumeID", wv.id)
	if err := w.makeAgain(ctx, wv.id); err != nil {
		logger.Info("Raid is gone from its raid host and can't be made again yet", "err", err)
	} else {
		logger.Info("Raid was gone from its raid host and is made again")
	}
	wv.mu.Lock()
	defer wv.mu.Unlock()
	wv.record, wv.repairing = nil, false
}

// makeAgain converges a volume that is ours. Legs whose nodes don't answer are left out, and on record as out-of-sync before.
func (w *watcher) makeAgain(ctx context.Context, id string) error {
	v, err := w.server.get(ctx, id)
	if err != nil || v.Owner != w.server.name || v.Assembly == nil || v.Assembly.Stopping {
		return err
	}
	err = w.converger.Run(ctx, v)
	var blocked *converge.BlockedError
	if !errors.As(err, &blocked) || blocked.Waits(v.Assembly.RaidHost) {
		return err
	}
	v, modifyErr := volume.Modify(ctx, w.server.store, id, func(v *volume.Volume) (bool, error) {
		if v.Owner != w.server.name || v.Assembly == nil {
			return false, volume.ErrConflict
		}
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
	return w.converger.Run(ctx, v)
}
