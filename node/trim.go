package node

import (
	"context"
	"math/rand/v2"
	"time"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// trimNext has the file system of a volume trimmed that is due, if none is being trimmed.
func (w *watcher) trimNext(ctx context.Context) {
	if len(w.trims) > 0 {
		return
	}
	for _, wv := range w.all() {
		//nolint:gosec // it spreads work, and keeps no secret
		if wv.trimDue(w.clock.Now(), rand.Float64()) {
			w.running.Go(func() { w.trim(ctx, wv.id, "an interval") })
			return
		}
	}
}

// trimDue says whether the volume is to be trimmed now, and if so decides when it is trimmed next: an interval later, give or take a tenth. The
// first time is within one interval, anywhere, so that volumes that were staged together are trimmed apart. spread is a number from 0 to 1.
// One that isn't whole, or is being changed, is due when it is whole again.
func (wv *watchedVolume) trimDue(now time.Time, spread float64) bool {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	if wv.record == nil || wv.record.Parameters.TrimInterval == 0 {
		return false
	}
	interval := wv.record.Parameters.TrimInterval
	if wv.trimAt.IsZero() {
		wv.trimAt = now.Add(time.Duration(spread * float64(interval)))
	}
	if wv.switching || now.Before(wv.trimAt) || !undisturbed(wv.record) {
		return false
	}
	wv.trimAt = now.Add(interval + time.Duration((spread-0.5)*float64(interval)/5))
	return true
}

// undisturbed says whether a volume has all its replicas and nothing of it is being changed, so that discarding much at once delays nothing
// that is urgent.
func undisturbed(v *volume.Volume) bool {
	a := v.Assembly
	return a != nil && a.Running && !a.Held && !a.Stopping && v.MoveTo == "" && v.Snapshot == nil && v.GrowingFrom == 0 &&
		len(v.InState(volume.ReplicaInSync)) == v.Parameters.Replicas && len(v.Replicas) == v.Parameters.Replicas
}

// trim gives back room of thin replicas: after a rebuild, which copies every block, so that such a replica is full, and in intervals where
// that is asked for. Discarding what is free in the file system reaches all replicas. Of raw block nobody knows what is free.
func (w *watcher) trim(ctx context.Context, id, after string) {
	release, err := w.trims.take(ctx)
	if err != nil {
		return
	}
	defer release()
	st, err := w.server.state.load(id)
	if err != nil || st == nil || st.Block {
		return
	}
	bytes, err := w.server.fs.Trim(ctx, st.Path)
	if err != nil {
		klog.FromContext(ctx).Info("Free room of a file system can't be given back", "volumeID", id, "path", st.Path, "after", after, "err", err)
		return
	}
	klog.FromContext(ctx).V(2).Info("Free room of a file system is given back", "volumeID", id, "after", after, "bytes", bytes)
}
