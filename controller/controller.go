// Package controller is the CSI controller service: it places replicas, makes and deletes volumes, and decides who may use them.
// One flow a file. Every flow first puts on record what is to be, then has package converge make it so; a flow that is cut short
// anywhere is taken up by its retry, or by Sweep.
package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Server implements csi.ControllerServer and csi.GroupControllerServer. Its errors are the domain's; the driver's table gives them gRPC codes.
type Server struct {
	csi.UnimplementedControllerServer
	csi.UnimplementedGroupControllerServer

	store     volume.Store
	cluster   *converge.Cluster
	converger *converge.Converger
	clock     clock.PassiveClock
	inventory *inventory
	ledger    *ledger
	locks     volume.Locks
	carer     carer
	sights    sights
	swept     swept
	observer  Observer
	display   Display
}

// Options are what a Server is made of.
type Options struct {
	Store   volume.Store
	Cluster *converge.Cluster
	Clock   clock.PassiveClock
	// ThinOvercommit is how many times its size an lvstore may be promised: 1 promises nothing that is not there.
	ThinOvercommit float64
	// Observer is told of what the controller does; nil is nobody.
	Observer Observer
	// Display shows people how things are; nil is none.
	Display Display
}

// New returns a Server that knows what the store has on record. From then on it alone places replicas.
func New(ctx context.Context, o Options) (*Server, error) {
	s := &Server{
		store: o.Store, cluster: o.Cluster, converger: converge.New(o.Cluster), clock: o.Clock,
		inventory: newInventory(o.Cluster, o.Clock), ledger: newLedger(o.ThinOvercommit),
		carer:  carer{memory: map[string]map[string]volume.Steady{}, downSince: map[string]time.Time{}},
		sights: sights{asking: make(chan struct{}, 1)}, display: o.Display, swept: swept{at: o.Clock.Now()}, observer: unobserved{},
	}
	if o.Observer != nil {
		s.observer = o.Observer
	}
	volumes, err := o.Store.List(ctx, "", 0)
	if err != nil {
		return nil, fmt.Errorf("read the records of all volumes: %w", err)
	}
	for _, v := range volumes {
		s.ledger.set(v)
	}
	snapshots, err := o.Store.ListSnapshots(ctx, "", 0)
	if err != nil {
		return nil, fmt.Errorf("read the records of all snapshots: %w", err)
	}
	for _, sn := range snapshots {
		s.ledger.setSnapshot(sn)
	}
	return s, nil
}

// modify changes a record and keeps the ledger in step with it.
func (s *Server) modify(ctx context.Context, id string, change func(*volume.Volume) (bool, error)) (*volume.Volume, error) {
	var before *volume.Volume
	v, err := volume.Modify(ctx, s.store, id, func(v *volume.Volume) (bool, error) {
		before = v.Clone()
		return change(v)
	})
	if err != nil {
		return nil, err
	}
	s.ledger.set(v)
	for _, changed := range volume.ReplicaChanges(before, v) {
		s.observer.ReplicaChanged(changed)
	}
	return v, nil
}

// get reads a record. An ID of another form than ours has none.
func (s *Server) get(ctx context.Context, id string) (*volume.Volume, error) {
	if !volume.ValidID(id) {
		return nil, fmt.Errorf("%w: %q", volume.ErrNotFound, id)
	}
	return s.store.Get(ctx, id)
}

// Sweep finishes what flows have left undone, volumes to be deleted, replicas to be removed and former assemblies whose nodes did not
// answer at the time; it has lost replicas replaced, and those of volumes that no node service owns rebuilt. It returns what is still in
// the way; it is to be called again.
func (s *Server) Sweep(ctx context.Context) error {
	volumes, err := s.store.List(ctx, "", 0)
	if err != nil {
		return fmt.Errorf("read the records of all volumes: %w", err)
	}
	at := s.clock.Now()
	stocks := s.lookForLvols(ctx)
	s.sights.keep(stocks, at)
	var mu sync.Mutex
	var errs []error
	var group errgroup.Group
	group.SetLimit(sweepers)
	for _, v := range volumes {
		s.ledger.set(v) // others write records too
		if !unfinished(v) && !s.needsCare(v, stocks) {
			s.forget(v.ID)
			continue
		}
		group.Go(func() error {
			if err := s.sweepOne(ctx, v.ID, stocks); err != nil && !errors.Is(err, volume.ErrBusy) && !errors.Is(err, volume.ErrConflict) {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("volume %s: %w", v.ID, err))
			}
			return nil
		})
	}
	_ = group.Wait() // no function of it fails
	snapshots, err := s.store.ListSnapshots(ctx, "", 0)
	if err != nil {
		return errors.Join(errors.Join(errs...), fmt.Errorf("read the records of all snapshots: %w", err))
	}
	err = s.sweepSnapshots(ctx, volumes, snapshots, stocks)
	s.swept.keep(sweep{begin: at, volumes: volumes, stocks: stocks, snapshots: snapshots}, s.clock.Now())
	return errors.Join(errors.Join(errs...), err)
}

// sweepers is how many volumes are swept side by side.
const sweepers = 8

func (s *Server) sweepOne(ctx context.Context, id string, stocks map[string]lvolStock) error {
	unlock, err := s.locks.Try(id)
	if err != nil {
		return err
	}
	defer unlock()
	v, err := s.get(ctx, id)
	if errors.Is(err, volume.ErrNotFound) {
		return nil
	}
	if err == nil && unfinished(v) {
		v, err = s.finish(ctx, v)
	}
	if err != nil || v == nil || v.Phase != volume.PhaseReady || !s.needsCare(v, stocks) {
		return err
	}
	return s.care(ctx, v, stocks)
}

// unfinished says whether a record holds something that only waits for a node to answer.
func unfinished(v *volume.Volume) bool {
	return v.Phase == volume.PhaseDeleting || len(v.Retired) > 0 || len(v.InState(volume.ReplicaRemoving)) > 0 ||
		v.Phase == volume.PhaseReady && len(v.InState(volume.ReplicaPlanned)) > 0 || v.Assembly != nil && v.Assembly.Stopping ||
		v.GrowingFrom > 0 && v.Owner == ""
}

// finish goes on with what is unfinished and returns the record as it is then; nil if that is gone.
func (s *Server) finish(ctx context.Context, v *volume.Volume) (*volume.Volume, error) {
	var err error
	switch {
	case v.Phase == volume.PhaseDeleting:
		return nil, s.finishDelete(ctx, v)
	case v.Assembly != nil && v.Assembly.Stopping:
		v, err = s.stop(ctx, v)
	case v.Owner != "":
		err = s.converger.RunReplicas(ctx, v)
	default:
		var g growth
		if v, g, err = s.grow(ctx, v); g.lacking != nil {
			klog.FromContext(ctx).Info("Volume can't be grown yet", "volumeID", v.ID, "err", g.lacking)
		}
	}
	if err != nil {
		return nil, err
	}
	if v, err = s.made(ctx, v); err != nil {
		return nil, err
	}
	return s.tidy(ctx, v)
}

// made puts on record that the planned replicas of a volume with data exist: they are to be rebuilt.
func (s *Server) made(ctx context.Context, v *volume.Volume) (*volume.Volume, error) {
	planned := v.InState(volume.ReplicaPlanned)
	if v.Phase != volume.PhaseReady || len(planned) == 0 {
		return v, nil
	}
	return s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		for _, r := range planned {
			if now := v.Replica(r.ID); now != nil && now.State == volume.ReplicaPlanned {
				v.SetReplicaState(r.ID, volume.ReplicaOutOfSync, s.clock.Now().UTC())
			}
		}
		return true, nil
	})
}

// tidy takes off the record the removing replicas and former assemblies that are seen to be gone.
func (s *Server) tidy(ctx context.Context, v *volume.Volume) (*volume.Volume, error) {
	if len(v.Retired) == 0 && len(v.InState(volume.ReplicaRemoving)) == 0 {
		return v, nil
	}
	gone := volume.Gone(v, s.converger.Observe(ctx, v))
	if gone.Empty() {
		return v, nil
	}
	return s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		gone.Remove(v)
		return true, nil
	})
}

// SweepEvery sweeps, and shows how things are, until ctx ends, interval after interval, and not so often that reading the records becomes its main work.
func (s *Server) SweepEvery(ctx context.Context, c clock.WithTicker, interval time.Duration) {
	for {
		begin := c.Now()
		err := s.sweepWithin(ctx, sweepLimit)
		s.observer.Swept(c.Since(begin), err)
		if err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Info("Unfinished work is left", "err", err)
		}
		if err := s.show(ctx, sweepLimit); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Info("How things are can't be shown", "err", err)
		}
		timer := c.NewTimer(max(interval, c.Since(begin)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C():
		}
	}
}

// sweepLimit bounds one sweep.
const sweepLimit = time.Minute

func (s *Server) sweepWithin(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return s.Sweep(ctx)
}
