package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

const (
	// guestInterval is how often the record is read while guests are waited for.
	guestInterval = 100 * time.Millisecond
	// guestPatience is how long guests are waited for whose answers nothing depends on.
	guestPatience = 3 * time.Second
)

// writer returns the node of one of these guests that may write; "" if none may.
func writer(guests []volume.Publication) string {
	for _, p := range guests {
		if p.Writes() {
			return p.Node
		}
	}
	return ""
}

// seeOff has the guests of a volume leave its raid host for the standby, before that takes the volume over. It returns when nothing that
// the raid host may yet answer a guest can be missed (docs/design.md, "Several nodes"):
//
//   - of a raid host that works, or has not served anybody yet, when all guests are connected to the standby: the former is held before it is
//     cut off (quiesce), and a guest without another path then would get I/O errors;
//   - of one without a raid at once, if its legs were lately seen to be good;
//   - of any other when each guest that may write has left, while its legs were lately seen to be good.
func (w *watcher) seeOff(ctx context.Context, wv *watchedVolume, v *volume.Volume, l loss) (*volume.Volume, error) {
	guests := v.Guests()
	if len(guests) == 0 || wv.seenOffFrom(v.Assembly.Number) {
		return v, nil
	}
	if l.works || v.Assembly.Held {
		return w.awaitConnected(ctx, v)
	}
	from := v.Assembly.RaidHost
	switch {
	case !l.asked && wv.unknown(v, w.clock.Now()):
		return nil, fmt.Errorf("%w: nobody knows what raid host %s has acknowledged to other nodes without its legs; it is waited for", volume.ErrNoGoodReplica, from)
	case l.gone:
		wv.setSeenOff(v.Assembly.Number)
		return v, nil
	}
	number := v.Assembly.Number
	v, err := w.modify(ctx, wv, number, func(v *volume.Volume) (bool, error) {
		changed := !v.Assembly.Leaving
		v.Assembly.Leaving = true
		return changed, nil
	})
	if err != nil {
		return nil, err
	}
	if v, err = w.awaitGuests(ctx, v, w.clock.Now().Add(guestPatience), func(p volume.Publication) bool { return p.Left >= number }); err != nil {
		return nil, err
	}
	behind := v.Behind(number)
	switch {
	case l.asked:
		return v, nil
	case writer(behind) != "":
		return nil, fmt.Errorf("%w: node %s may write to it and has not let go of raid host %s; its node service is waited for, or the volume's unpublication there", volume.ErrBusy, writer(behind), from)
	case wv.unknown(v, w.clock.Now()):
		return nil, fmt.Errorf("%w: the other nodes left raid host %s too late to know what it has acknowledged to them", volume.ErrNoGoodReplica, from)
	}
	wv.setSeenOff(number)
	return v, nil
}

// awaitConnected waits until all guests are connected to the standby.
func (w *watcher) awaitConnected(ctx context.Context, v *volume.Volume) (*volume.Volume, error) {
	standby := v.Standby.Number
	v, err := w.awaitGuests(ctx, v, w.clock.Now().Add(guestPatience), func(p volume.Publication) bool { return p.Standby == standby })
	if err != nil {
		return nil, err
	}
	for _, p := range v.Guests() {
		if p.Standby != standby {
			return nil, fmt.Errorf("%w: node %s is not connected to the standby on %s; its node service is waited for, or the volume's unpublication there", volume.ErrBusy, p.Node, v.Standby.RaidHost)
		}
	}
	return v, nil
}

// awaitGuests reads the record until all guests are ready or the time is over, and returns it.
func (w *watcher) awaitGuests(ctx context.Context, v *volume.Volume, until time.Time, ready func(volume.Publication) bool) (*volume.Volume, error) {
	ticker := w.clock.NewTicker(guestInterval)
	defer ticker.Stop()
	number := v.Assembly.Number
	for {
		waiting := 0
		for _, p := range v.Guests() {
			if !ready(p) {
				waiting++
			}
		}
		if waiting == 0 || !w.clock.Now().Before(until) {
			return v, nil
		}
		select {
		case <-ticker.C():
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		now, err := w.server.get(ctx, v.ID)
		if err != nil {
			return nil, err
		}
		if now.Owner != w.server.name || now.Assembly == nil || now.Assembly.Number != number || now.Assembly.Stopping || now.Standby == nil {
			return nil, fmt.Errorf("%w: it is not assembly %d of this node any more", volume.ErrConflict, number)
		}
		v = now
	}
}

// stay ends the leaving of a raid host that turned out to be well: its guests come back.
func (w *watcher) stay(ctx context.Context, wv *watchedVolume, v *volume.Volume) error {
	wv.setSeenOff(0)
	_, err := w.modify(ctx, wv, v.Assembly.Number, func(v *volume.Volume) (bool, error) {
		v.Assembly.Leaving = false
		return true, nil
	})
	return err
}

// quiesce makes sure that no former raid host serves a guest any more: the guest has left it, or it answers and holds its I/O. A guest that
// only reads and does neither is not waited for.
func (w *watcher) quiesce(ctx context.Context, v *volume.Volume) error {
	for _, former := range v.Retired {
		behind := v.Behind(former.Number)
		if len(behind) == 0 || former.Held {
			continue
		}
		err := w.silence(ctx, v, former)
		if err != nil && writer(behind) != "" {
			return fmt.Errorf("%w: node %s may still write through raid host %s, which can't be held: %w", volume.ErrBusy, writer(behind), former.RaidHost, err)
		}
		if err != nil {
			klog.FromContext(ctx).Info("A node that only reads may still be served by a former raid host", "volumeID", v.ID, "node", behind[0].Node, "raidHost", former.RaidHost, "err", err)
		}
	}
	return nil
}

// silence holds the I/O of a former assembly's hosts, and waits until what they had sent has ended.
func (w *watcher) silence(ctx context.Context, v *volume.Volume, former volume.Assembly) error {
	host, err := w.server.cluster.Node(former.RaidHost)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, pauseLimit)
	defer cancel()
	pause, err := host.PreparePause(ctx, v.NQN(), host.NVMf)
	if errors.Is(err, spdk.ErrNotFound) || errors.Is(err, spdk.ErrConflict) {
		return nil // it has no target, or none with a namespace
	}
	if err == nil {
		err = pause.Begin(ctx)
	}
	if err == nil {
		err = pause.Drain(ctx)
	}
	return err
}

// unknown says whether the raid host may have acknowledged a write to a guest without the legs that are good on record: they were last seen
// to be connected too long ago.
func (wv *watchedVolume) unknown(v *volume.Volume, now time.Time) bool {
	return writer(v.Guests()) != "" && !wv.seenOffFrom(v.Assembly.Number) && !wv.inTime(v, now)
}

func (wv *watchedVolume) seenOffFrom(number uint32) bool {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	return wv.seenOff == number
}

func (wv *watchedVolume) setSeenOff(number uint32) {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	wv.seenOff = number
}
