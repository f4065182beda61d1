package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// carer remembers between two sweeps what the records don't hold.
type carer struct {
	mu sync.Mutex
	// memory is what was seen of the legs of volumes that the controller rebuilds itself, by volume and replica.
	memory map[string]map[string]volume.Steady
	// downSince is since when a node has not answered.
	downSince map[string]time.Time
}

// lvolStock is what lvols a node has.
type lvolStock struct {
	err error
	// downFor is how long the node has not answered.
	downFor  time.Duration
	lvstores map[string]bool
	lvols    map[string]bool // as lvstore/name
	// bytes is what each lvol holds of its lvstore.
	bytes map[string]int64
	pools []spdk.LvStore
}

// lookForLvols lists the lvols of all nodes, with a few calls a node however many volumes there are.
func (s *Server) lookForLvols(ctx context.Context) map[string]lvolStock {
	stocks := map[string]lvolStock{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, node := range s.cluster.Nodes() {
		wg.Go(func() {
			st := lvolStock{lvstores: map[string]bool{}, lvols: map[string]bool{}, bytes: map[string]int64{}}
			limited, cancel := context.WithTimeout(ctx, inventoryTimeout)
			defer cancel()
			stores, err := node.LvStores(limited)
			if err == nil {
				st.pools = stores
				for _, l := range stores {
					st.lvstores[l.Name] = true
				}
				lvols, lvolsErr := node.Lvols(limited)
				err = lvolsErr
				for _, l := range lvols {
					st.lvols[l.LvStore+"/"+l.Name] = true
					st.bytes[l.LvStore+"/"+l.Name] = l.AllocatedBytes
				}
			}
			st.err, st.downFor = err, s.carer.notice(node.Name, err, s.clock.Now())
			mu.Lock()
			defer mu.Unlock()
			stocks[node.Name] = st
		})
	}
	wg.Wait()
	return stocks
}

// notice returns for how long the node has not answered.
func (c *carer) notice(node string, err error, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch since, down := c.downSince[node]; {
	case err == nil:
		delete(c.downSince, node)
	case !down:
		c.downSince[node] = now
	default:
		return now.Sub(since)
	}
	return 0
}

// memory is what is remembered of legs, by their volume.
func (s *Server) memory(id string) map[string]volume.Steady {
	s.carer.mu.Lock()
	defer s.carer.mu.Unlock()
	if s.carer.memory[id] == nil {
		s.carer.memory[id] = map[string]volume.Steady{}
	}
	return s.carer.memory[id]
}

// forget drops what is remembered of a volume that needs nothing.
func (s *Server) forget(id string) {
	s.carer.mu.Lock()
	defer s.carer.mu.Unlock()
	delete(s.carer.memory, id)
}

// absent says whether a replica's lvol is not on a node that answers and has loaded its lvstore.
func absent(v *volume.Volume, r volume.Replica, stocks map[string]lvolStock) bool {
	st, known := stocks[r.Node]
	return known && st.err == nil && st.lvstores[r.LvStore] && !st.lvols[r.LvStore+"/"+v.LvolName(r)]
}

// gone says whether an lvol that is on record as made is not there, by a look that is newer than the record: a sweep's first look may be older,
// and what was made since then is not lost.
func (s *Server) gone(ctx context.Context, on, lvstore, lvol string) bool {
	node, err := s.cluster.Node(on)
	if err != nil {
		return false
	}
	limited, cancel := context.WithTimeout(ctx, inventoryTimeout)
	defer cancel()
	stores, err := node.LvStores(limited)
	if err != nil || !slices.ContainsFunc(stores, func(l spdk.LvStore) bool { return l.Name == lvstore }) {
		return false
	}
	_, err = node.Lvol(limited, lvstore, lvol)
	return errors.Is(err, spdk.ErrNotFound)
}

// away says whether a replica's node has been gone for so long that another is to take its place.
func away(v *volume.Volume, r volume.Replica, stocks map[string]lvolStock) bool {
	st, known := stocks[r.Node]
	return !known || st.err != nil && st.downFor >= v.Parameters.ReplaceAfter
}

// needsCare says whether a volume has too few replicas, or one that has to be rebuilt and has no node service to do it.
func (s *Server) needsCare(v *volume.Volume, stocks map[string]lvolStock) bool {
	if v.Phase != volume.PhaseReady {
		return false
	}
	if v.Owner == "" && v.Assembly != nil {
		return len(v.Publications) == 0 || len(v.InState(volume.ReplicaOutOfSync, volume.ReplicaRebuilding)) > 0 ||
			len(v.InState(volume.ReplicaInSync)) > v.Parameters.Replicas
	}
	if len(v.Replicas) < v.Parameters.Replicas || len(v.InState(volume.ReplicaOutOfSync)) > 0 {
		return true
	}
	if v.Owner == "" && (v.InFlight != volume.InFlightNone || len(v.InState(volume.ReplicaInSync)) > v.Parameters.Replicas) {
		return true
	}
	return v.Owner == "" && (len(v.InState(volume.ReplicaSuspect)) > 0 ||
		slices.ContainsFunc(v.Replicas, func(r volume.Replica) bool { return absent(v, r, stocks) || away(v, r, stocks) }))
}

// care looks after the replicas of one volume: it gives up those that are gone, places others in their stead, and rebuilds what no node
// service will.
func (s *Server) care(ctx context.Context, v *volume.Volume, stocks map[string]lvolStock) error {
	v, err := s.singleOut(ctx, v)
	if err != nil {
		return err
	}
	if v, err = s.giveUpReplicas(ctx, v, stocks); err != nil {
		return err
	}
	v, replaceErr := s.replace(ctx, v, stocks)
	if replaceErr != nil {
		klog.FromContext(ctx).Info("A lost replica can't be replaced yet", "volumeID", v.ID, "err", replaceErr)
	}
	if v.Owner != "" {
		return nil
	}
	if v, err = s.shrink(ctx, v); err != nil {
		return err
	}
	return s.rebuild(ctx, v)
}

// singleOut has a volume that runs nowhere go on from one replica that is there, where replicas may differ in what was under way when it was last in use.
func (s *Server) singleOut(ctx context.Context, v *volume.Volume) (*volume.Volume, error) {
	if v.Owner != "" || v.Assembly != nil || v.InFlight == volume.InFlightNone {
		return v, nil
	}
	seen := s.converger.Observe(ctx, v)
	for _, r := range v.InState(volume.ReplicaInSync) {
		if there, exists := seen.Nodes[r.Node].Replicas[r.ID]; !exists || !v.Fits(there.SizeBytes) {
			continue
		}
		klog.FromContext(ctx).Info("Volume goes on from one replica: others may differ in what was under way when it was last in use", "volumeID", v.ID, "replica", r.ID, "node", r.Node)
		return s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
			if v.Owner != "" || v.Assembly != nil || v.Replica(r.ID) == nil || v.Replica(r.ID).State != volume.ReplicaInSync {
				return false, volume.ErrConflict
			}
			v.GoOnWith(r.ID, s.clock.Now().UTC())
			return true, nil
		})
	}
	return v, nil
}

// giveUpReplicas puts on record what became of replicas whose lvols are gone. One that is a leg of what runs is the owner's to judge,
// and the last that is in-sync is kept on record whatever is seen.
func (s *Server) giveUpReplicas(ctx context.Context, v *volume.Volume, stocks map[string]lvolStock) (*volume.Volume, error) {
	doomed := func(v *volume.Volume, r volume.Replica) bool {
		if !absent(v, r, stocks) {
			return false
		}
		return r.State == volume.ReplicaOutOfSync || v.Owner == "" && v.Assembly == nil && r.State == volume.ReplicaInSync && len(v.InState(volume.ReplicaInSync)) > 1
	}
	var lost []string
	for _, r := range v.Replicas {
		if doomed(v, r) && s.gone(ctx, r.Node, r.LvStore, v.LvolName(r)) {
			lost = append(lost, r.ID)
		}
	}
	if len(lost) == 0 {
		return v, nil
	}
	return s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		changed := false
		for _, r := range slices.Clone(v.Replicas) {
			if !slices.Contains(lost, r.ID) || !doomed(v, r) {
				continue
			}
			klog.FromContext(ctx).Info("Replica's lvol is gone", "volumeID", v.ID, "replica", r.ID, "node", r.Node, "lvstore", r.LvStore, "state", r.State)
			v.SetReplicaState(r.ID, volume.ReplicaRemoving, s.clock.Now().UTC())
			changed = true
		}
		return changed, nil
	})
}

// replace places as many replicas as are missing, not counting those whose nodes stay away.
func (s *Server) replace(ctx context.Context, v *volume.Volume, stocks map[string]lvolStock) (*volume.Volume, error) {
	placed := v.Clone()
	avoid := map[string]bool{}
	for _, r := range v.Replicas {
		if stocks[r.Node].err != nil {
			avoid[r.Node] = true
		}
		if away(v, r, stocks) && r.State != volume.ReplicaRemoving {
			placed.Replica(r.ID).State = volume.ReplicaRemoving // for the counting only
		}
	}
	before := len(placed.Replicas)
	err := s.place(ctx, placed, avoid)
	added := placed.Replicas[before:]
	if err != nil || len(added) == 0 {
		s.ledger.set(v)
		return v, err
	}
	changed, err := s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		if len(v.Replicas) != before {
			return false, fmt.Errorf("%w: its replicas", volume.ErrConflict)
		}
		v.Replicas = append(v.Replicas, added...)
		return true, nil
	})
	if err != nil {
		s.ledger.set(v)
		return v, err
	}
	s.observer.ReplicasReplaced(len(added))
	for _, r := range added {
		klog.FromContext(ctx).Info("Replica takes the place of a lost one", "volumeID", v.ID, "replica", r.ID, "node", r.Node, "lvstore", r.LvStore)
	}
	if changed, err = s.finish(ctx, changed); err != nil {
		return v, err
	}
	return changed, nil
}

// rebuild has a volume that no node service owns rebuild its replicas: it is assembled for that alone if nobody uses it, and taken apart
// when nothing is left to do.
func (s *Server) rebuild(ctx context.Context, v *volume.Volume) error {
	if v.Assembly == nil {
		seen, runErr := s.converger.RunAndObserve(ctx, v) // a replica that comes back is grown, if the volume was meanwhile
		if err := converge.BesidesGrowth(runErr); err != nil && !errors.Is(err, volume.ErrNodeDown) {
			return err
		}
		if !rebuildable(v, seen) {
			return nil
		}
		return s.assembleForRebuild(ctx, v)
	}
	v, err := s.judge(ctx, v)
	if err != nil {
		return err
	}
	seen, err := s.converger.RunAndObserve(ctx, v)
	if err = converge.BesidesGrowth(err); err != nil && !errors.Is(err, volume.ErrNodeDown) {
		return err
	}
	next, begin := volume.NextRebuild(v, seen, s.clock.Now())
	surplus := v.Surplus(seen, s.cluster.Zone)
	rebuilding := len(v.InState(volume.ReplicaRebuilding)) > 0
	if !begin && len(surplus) == 0 && (rebuilding || len(v.Publications) > 0) {
		return nil
	}
	v, err = s.modifyUnowned(ctx, v, func(v *volume.Volume) {
		now := s.clock.Now().UTC()
		for _, id := range v.Surplus(seen, s.cluster.Zone) {
			v.SetReplicaState(id, volume.ReplicaRemoving, now)
		}
		switch {
		case begin:
			klog.FromContext(ctx).Info("Rebuild begins", "volumeID", v.ID, "replica", next, "raidHost", v.Assembly.RaidHost)
			v.BeginRebuild(next, now)
		case !rebuilding && len(v.Publications) == 0:
			v.Stop()
		}
	})
	if err != nil {
		return err
	}
	if v.Assembly.Stopping {
		_, err = s.stop(ctx, v)
		return err
	}
	return s.converger.Run(ctx, v)
}

// rebuildable says whether a replica that is no source could be rebuilt if the volume ran: it is there, and so is a source.
func rebuildable(v *volume.Volume, seen volume.Observed) bool {
	there := func(r volume.Replica, fits func(bytes int64) bool) bool {
		view, known := seen.Nodes[r.Node]
		replica, exists := view.Replicas[r.ID]
		return known && view.Err == nil && exists && fits(replica.SizeBytes)
	}
	source := func(r volume.Replica) bool { return there(r, v.Fits) }
	target := func(r volume.Replica) bool { return there(r, func(bytes int64) bool { return bytes == v.SizeBytes }) }
	return slices.ContainsFunc(v.InState(volume.ReplicaInSync), source) &&
		slices.ContainsFunc(v.InState(volume.ReplicaOutOfSync, volume.ReplicaSuspect), target)
}

// assembleForRebuild assembles a volume that nobody uses. A publication that comes meanwhile finds it running.
func (s *Server) assembleForRebuild(ctx context.Context, v *volume.Volume) error {
	v, err := s.cleanUp(ctx, v)
	if err != nil {
		return err
	}
	assembly, lost, err := s.choose(ctx, v, "")
	if err != nil {
		return err
	}
	v, err = s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		if v.Assembly != nil || v.Owner != "" || v.Phase != volume.PhaseReady || assembly.Number != v.Assemblies+1 {
			return false, volume.ErrConflict
		}
		s.begin(v, assembly, lost)
		return true, nil
	})
	if err != nil {
		return err
	}
	klog.FromContext(ctx).Info("Volume that nobody uses is assembled to rebuild its replicas", "volumeID", v.ID, "raidHost", v.Assembly.RaidHost)
	err = converge.BesidesGrowth(s.converger.Run(ctx, v))
	var blocked *converge.BlockedError
	if errors.As(err, &blocked) {
		_, giveUpErr := s.giveUp(ctx, v, blocked)
		return errors.Join(err, giveUpErr)
	}
	if err != nil {
		return err
	}
	return s.running(ctx, v)
}

// judge puts on record what the raid host shows of the legs of a volume that no node service owns.
func (s *Server) judge(ctx context.Context, v *volume.Volume) (*volume.Volume, error) {
	node, err := s.cluster.Node(v.Assembly.RaidHost)
	if err != nil {
		return nil, err
	}
	health, err := node.Health(ctx)
	if err != nil {
		if len(v.Publications) > 0 {
			return nil, err // the next publication or its end decides
		}
		v, err = s.modifyUnowned(ctx, v, (*volume.Volume).Stop)
		if err != nil {
			return nil, err
		}
		_, err = s.stop(ctx, v)
		return nil, errors.Join(err, volume.ErrConflict)
	}
	legs, ok := converge.LegHealth(v, *v.Assembly, health)
	if !ok {
		return v, nil // made again by what follows
	}
	changes := volume.Judge(v, legs, s.memory(v.ID), v.Parameters.Budgets.ReplicaStall, s.clock.Now())
	if len(changes) == 0 {
		return v, nil
	}
	return s.modifyUnowned(ctx, v, func(v *volume.Volume) {
		for id, state := range changes {
			klog.FromContext(ctx).Info("Replica changes its state", "volumeID", v.ID, "replica", id, "from", v.Replica(id).State, "to", state)
			v.SetReplicaState(id, state, s.clock.Now().UTC())
		}
	})
}

// modifyUnowned changes the record as long as no node service owns the volume and it runs as it did.
func (s *Server) modifyUnowned(ctx context.Context, v *volume.Volume, change func(*volume.Volume)) (*volume.Volume, error) {
	number := v.Assembly.Number
	return s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		if v.Owner != "" || v.Assembly == nil || v.Assembly.Number != number || v.Assembly.Stopping {
			return false, volume.ErrConflict
		}
		change(v)
		return true, nil
	})
}
