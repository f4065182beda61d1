package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// recordAge is how long a record that nothing contradicts is taken from memory.
const recordAge = 30 * time.Second

// watcher looks at the raids of the volumes that are staged here and puts on record which replicas fail, before SPDK can have
// acknowledged a write without them (docs/design.md, line 9). It makes two calls an interval to each raid host, however many
// volumes run there.
type watcher struct {
	server    *Server
	clock     clock.WithTicker
	converger *converge.Converger
	repairs   sync.WaitGroup

	mu      sync.Mutex
	watched map[string]*watchedVolume
}

// watchedVolume is one staged volume. Its mutex is held while its record is compared and written.
type watchedVolume struct {
	id string

	mu          sync.Mutex
	record      *volume.Volume
	readAt      time.Time
	steadySince map[string]time.Time
	repairing   bool
}

// Watch watches the volumes that are staged here until ctx ends, those first that were staged before this process began.
func (s *Server) Watch(ctx context.Context) error {
	ids, err := s.state.ids()
	if err != nil {
		return err
	}
	for _, id := range ids {
		s.watcher.add(id)
	}
	ticker := s.watcher.clock.NewTicker(timeouts.WatchInterval)
	defer ticker.Stop()
	defer s.watcher.repairs.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
			s.watcher.look(ctx)
		}
	}
}

func (w *watcher) add(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watched[id] == nil {
		w.watched[id] = &watchedVolume{id: id, steadySince: map[string]time.Time{}}
	}
}

func (w *watcher) remove(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.watched, id)
}

// look looks once at every raid host that runs a staged volume, all side by side.
func (w *watcher) look(ctx context.Context) {
	w.mu.Lock()
	ids := make([]string, 0, len(w.watched))
	for id := range w.watched {
		ids = append(ids, id)
	}
	w.mu.Unlock()
	byHost := map[string][]*watchedVolume{}
	for _, id := range ids {
		wv, host, err := w.refresh(ctx, id)
		if err != nil {
			klog.FromContext(ctx).V(2).Info("Record of a staged volume can't be read", "volumeID", id, "err", err)
			continue
		}
		if host != "" {
			byHost[host] = append(byHost[host], wv)
		}
	}
	var wg sync.WaitGroup
	for host, volumes := range byHost {
		wg.Go(func() {
			health, err := w.lookAt(ctx, host, volumes)
			if err != nil {
				klog.FromContext(ctx).Info("Staged volumes of a raid host can't be watched", "node", host, "err", err)
				return
			}
			for _, wv := range volumes {
				if wv.isGone(health) {
					w.repairs.Go(func() { w.repair(ctx, wv) })
				}
			}
		})
	}
	wg.Wait()
}

// refresh reads a volume's record if it was not read lately, and returns its raid host; "" if it runs nowhere or isn't ours.
func (w *watcher) refresh(ctx context.Context, id string) (*watchedVolume, string, error) {
	w.mu.Lock()
	wv := w.watched[id]
	w.mu.Unlock()
	if wv == nil {
		return nil, "", nil
	}
	wv.mu.Lock()
	defer wv.mu.Unlock()
	if now := w.clock.Now(); wv.record == nil || now.Sub(wv.readAt) >= recordAge {
		v, err := w.server.get(ctx, id)
		switch {
		case notFound(err):
			wv.record = nil
			return wv, "", nil
		case err != nil && wv.record == nil:
			return nil, "", err
		case err == nil:
			wv.record, wv.readAt = v, now
		}
	}
	if v := wv.record; v.Owner != w.server.name || v.Assembly == nil {
		wv.record = nil // ours soon, or no longer: read it again
		return wv, "", nil
	}
	return wv, wv.record.Assembly.RaidHost, nil
}

// lookAt compares one raid host's raids with the records, and returns what it saw.
func (w *watcher) lookAt(ctx context.Context, host string, volumes []*watchedVolume) (spdk.Health, error) {
	ctx, cancel := context.WithTimeout(ctx, timeouts.RPC)
	defer cancel()
	node, err := w.server.cluster.Node(host)
	if err != nil {
		return spdk.Health{}, err
	}
	health, err := node.Health(ctx)
	if err != nil {
		return spdk.Health{}, err
	}
	var group errgroup.Group
	for _, wv := range volumes {
		if w.contradicts(wv, health) {
			group.Go(func() error { return w.record(ctx, wv, health) })
		}
	}
	return health, group.Wait()
}

// contradicts says whether a volume's record is to change by what was seen. It does no I/O.
func (w *watcher) contradicts(wv *watchedVolume, health spdk.Health) bool {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	return wv.record != nil && len(w.judge(wv, wv.record, health)) > 0
}

func (w *watcher) judge(wv *watchedVolume, v *volume.Volume, health spdk.Health) map[string]volume.ReplicaState {
	legs, ok := converge.LegHealth(v, health)
	if !ok {
		return nil
	}
	return volume.Judge(v, legs, wv.steadySince, v.Parameters.Budgets.ReplicaStall, w.clock.Now())
}

// record puts what was seen on record, as far as the record still speaks of the same assembly.
func (w *watcher) record(ctx context.Context, wv *watchedVolume, health spdk.Health) error {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	if wv.record == nil {
		return nil // given back meanwhile
	}
	number := wv.record.Assembly.Number
	v, err := volume.Modify(ctx, w.server.store, wv.id, func(v *volume.Volume) (bool, error) {
		if v.Owner != w.server.name || v.Assembly == nil || v.Assembly.Number != number {
			return false, nil
		}
		changes := w.judge(wv, v, health)
		for id, state := range changes {
			klog.FromContext(ctx).Info("Replica changes its state", "volumeID", v.ID, "replica", id, "node", v.Replica(id).Node, "from", v.Replica(id).State, "to", state)
			v.SetReplicaState(id, state, w.clock.Now().UTC())
		}
		return len(changes) > 0, nil
	})
	if err != nil {
		return fmt.Errorf("put the state of the replicas of volume %s on record: %w", wv.id, err)
	}
	wv.record, wv.readAt = v, w.clock.Now()
	return nil
}

// last looks at one volume after its host has let go of it: what was ejected since the look before goes on record while the raid
// still tells, and a suspect that is a connected member is given the time to settle, for without writes nothing else clears it. A
// raid host that doesn't answer is left to the controller.
func (w *watcher) last(ctx context.Context, id string) error {
	ticker := w.clock.NewTicker(timeouts.WatchInterval)
	defer ticker.Stop()
	for {
		wv, host, err := w.refresh(ctx, id)
		if err != nil || wv == nil || host == "" {
			return err
		}
		_, err = w.lookAt(ctx, host, []*watchedVolume{wv})
		if errors.Is(err, spdk.ErrUnreachable) || errors.Is(err, spdk.ErrUnknownOutcome) {
			klog.FromContext(ctx).Info("Raid host doesn't answer at the end of a volume's use", "volumeID", id, "node", host, "err", err)
			return nil
		}
		if err != nil || !wv.unsettled() {
			return err
		}
		select {
		case <-ticker.C():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// unsettled says whether a suspect may soon be in-sync again, or a repair is under way.
func (wv *watchedVolume) unsettled() bool {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	if wv.record == nil {
		return false
	}
	return wv.repairing || slices.ContainsFunc(wv.record.InState(volume.ReplicaSuspect), func(r volume.Replica) bool { return !wv.steadySince[r.ID].IsZero() })
}
