package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

const (
	// gatherLimit bounds the wait for the other volumes of a group before the pause: their node services find the wish within a watch
	// interval. Nothing is paused meanwhile.
	gatherLimit = 2 * time.Second
	// togetherLimit bounds the wait for them in the pause.
	togetherLimit = time.Second
	// memberInterval is how often their records are read meanwhile.
	memberInterval = 20 * time.Millisecond
)

// gather says on record that the volume is ready for its part in a group, and waits until all others are. If they are not in time it ends
// the attempt, so that nobody waits for this one.
func (w *watcher) gather(ctx context.Context, wv *watchedVolume, v *volume.Volume) error {
	if _, err := w.changeWish(ctx, wv, v, volume.WishWanted, func(v *volume.Volume) { v.Snapshot.Group.Ready = true }); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, gatherLimit)
	defer cancel()
	err := w.awaitMembers(limited, wv, v.Snapshot.Group, volume.MemberReady, volume.MemberPaused)
	if err == nil {
		return nil
	}
	_, failErr := w.changeWish(ctx, wv, v, volume.WishWanted, func(v *volume.Volume) { v.Snapshot.Fail(err.Error()) })
	return errors.Join(err, failErr)
}

// markPaused puts on record that no command of the volume executes any more.
func (w *watcher) markPaused(ctx context.Context, wv *watchedVolume, t *taking) error {
	if t.wish.Group == nil {
		return nil
	}
	_, err := w.changeWish(ctx, wv, t.v, volume.WishPausing, func(v *volume.Volume) { v.Snapshot.Group.Paused = true })
	return err
}

// awaitPaused waits in the pause until every other member was paused, too: only then may it end.
func (w *watcher) awaitPaused(ctx context.Context, wv *watchedVolume, t *taking) error {
	if t.wish.Group == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, togetherLimit)
	defer cancel()
	return w.awaitMembers(ctx, wv, t.wish.Group, volume.MemberPaused)
}

// awaitMembers waits until every other member of a group was seen in one of the given states. Whoever was seen is not read again: of the
// states that are waited for none is taken back but by failing, which the controller finds.
func (w *watcher) awaitMembers(ctx context.Context, wv *watchedVolume, g *volume.GroupWish, states ...volume.MemberState) error {
	ticker := w.clock.NewTicker(memberInterval)
	defer ticker.Stop()
	missing := slices.DeleteFunc(slices.Clone(g.Volumes), func(id string) bool { return id == wv.id })
	for {
		var why string
		var err error
		if missing, why, err = w.missing(ctx, g.Attempt, missing, states); err != nil || len(missing) == 0 {
			return err
		}
		if w.raidHostDown(wv) {
			return fmt.Errorf("%w: the raid host of volume %s doesn't answer", volume.ErrNodeDown, wv.id)
		}
		select {
		case <-ticker.C():
		case <-ctx.Done():
			return fmt.Errorf("%w: another volume of the group was not there in time: %s", volume.ErrConflict, why)
		}
	}
}

// missing returns which of some volumes are in none of the given states, and what one of them is. The error says that one has failed.
func (w *watcher) missing(ctx context.Context, attempt string, ids []string, states []volume.MemberState) (left []string, why string, err error) {
	found := make([]string, len(ids))
	var group errgroup.Group
	group.SetLimit(readers)
	for i, id := range ids {
		group.Go(func() error {
			v, err := w.server.get(ctx, id)
			if err != nil {
				found[i] = fmt.Sprintf("volume %s: %v", id, err)
				return nil
			}
			switch state := v.Member(attempt); {
			case state == volume.MemberFailed:
				return fmt.Errorf("%w: volume %s has failed: %s", volume.ErrConflict, id, v.Snapshot.Reason)
			case !slices.Contains(states, state):
				found[i] = fmt.Sprintf("volume %s is %s", id, state)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, "", err
	}
	for i, id := range ids {
		if found[i] != "" {
			left, why = append(left, id), found[i]
		}
	}
	return left, why, nil
}
