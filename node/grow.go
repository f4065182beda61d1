package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// growLimit bounds one attempt to grow a volume: while it lasts, a raid host that turns out to be lost isn't left.
const growLimit = 20 * time.Second

// grow has everything of a volume that is being grown follow its record: the replicas, the raid, this machine's device. That all have the
// size is read back and then put on record. The file system is not its business. It returns the record as it is then, nil if that is
// another's by now. The caller holds the volume's token.
//
// The standby goes first, this machine's path to it before anything else, and is made anew at the end: of two paths that tell of the new
// size one after the other, the kernel uses only the one that told last (docs/design.md, "Growing").
func (w *watcher) grow(ctx context.Context, wv *watchedVolume, v *volume.Volume) (*volume.Volume, error) {
	if v.GrowingFrom == 0 {
		return v, nil
	}
	ctx, cancel := context.WithTimeout(ctx, growLimit)
	defer cancel()
	grown, err := w.growAll(ctx, wv, v)
	if err != nil {
		err = fmt.Errorf("grow it from %d to %d bytes: %w", v.GrowingFrom, v.SizeBytes, err)
	}
	return grown, err
}

func (w *watcher) growAll(ctx context.Context, wv *watchedVolume, v *volume.Volume) (*volume.Volume, error) {
	if suspects := v.InState(volume.ReplicaSuspect); len(suspects) > 0 {
		return v, fmt.Errorf("%w: replica %s on %s is failing, and a leg that isn't connected doesn't hear of a new size", volume.ErrBusy, suspects[0].ID, suspects[0].Node)
	}
	if v.Standby != nil {
		if err := volume.CheckGrown(v, w.converger.Observe(ctx, v, w.down()...)); errors.Is(err, volume.ErrNodeDown) {
			return v, err // a standby isn't given up for what can't be done now
		}
		without, err := w.dropStandby(ctx, wv, v)
		if err != nil {
			return v, err
		}
		v = without
	}
	seen, runErr := w.converger.RunAndObserve(ctx, v, w.down()...)
	if errors.Is(runErr, spdk.ErrMissedResize) {
		moved, err := w.leaveSmall(ctx, wv, v, runErr)
		if err != nil {
			return v, err
		}
		v = moved
		seen, runErr = w.converger.RunAndObserve(ctx, v, w.down()...)
	}
	if lacking := volume.CheckGrown(v, seen); lacking != nil {
		return v, errors.Join(lacking, runErr)
	}
	if _, err := w.server.fabrics.WaitSize(ctx, v.NQN(), v.UUID, v.SizeBytes); err != nil && !errors.Is(err, nvmeof.ErrNotConnected) {
		return v, err
	}
	return w.recordGrown(ctx, wv, v, volume.Gone(v, seen))
}

// leaveSmall has a volume leave a raid that missed the new size for one whose legs are attached anew, which takes a pause and no rebuild.
func (w *watcher) leaveSmall(ctx context.Context, wv *watchedVolume, v *volume.Volume, missed error) (*volume.Volume, error) {
	if rebuilding := v.InState(volume.ReplicaRebuilding); len(rebuilding) > 0 {
		return nil, fmt.Errorf("%w: it moves to another raid host when replica %s is rebuilt: %w", volume.ErrBusy, rebuilding[0].ID, missed)
	}
	klog.FromContext(ctx).Info("A raid missed the new size of its legs", "volumeID", v.ID, "raidHost", v.Assembly.RaidHost, "err", missed)
	missing := loss{why: "its raid missed the new size", departure: departure{cause: CauseResize}, asked: true, works: true}
	if err := w.switchOver(ctx, wv, v, missing); err != nil {
		return nil, errors.Join(err, missed)
	}
	return w.server.get(ctx, v.ID)
}

// recordGrown puts on record that the volume has the size that v says, unless it is to be larger by now, and what was seen to be gone.
func (w *watcher) recordGrown(ctx context.Context, wv *watchedVolume, v *volume.Volume, gone volume.Finished) (*volume.Volume, error) {
	size := v.SizeBytes
	now, err := w.modify(ctx, wv, v.Assembly.Number, func(v *volume.Volume) (bool, error) {
		gone.Remove(v)
		if v.SizeBytes == size {
			v.GrowingFrom = 0
		}
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	if now.GrowingFrom == 0 {
		klog.FromContext(ctx).V(2).Info("Volume has grown", "volumeID", v.ID, "bytes", size)
	}
	return now, nil
}
