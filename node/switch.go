package node

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

const (
	// fenceLimit bounds the fencing of one leg: one that takes longer is given up.
	fenceLimit = 3 * time.Second
	// ejectLimit bounds one call for the removal of a lost leg before a raid is put to use, ejectInterval is how often its end is looked for.
	ejectLimit    = time.Second
	ejectInterval = 100 * time.Millisecond
)

// switchOver makes the standby the assembly that runs, one that is made now if none is ready. It is how a volume leaves a raid host
// that is lost, and one that an operator wants free.
func (w *watcher) switchOver(ctx context.Context, wv *watchedVolume, v *volume.Volume, l loss) error {
	begin := w.clock.Now()
	v, err := w.readyStandby(ctx, wv, v, l.to)
	if err != nil {
		return fmt.Errorf("leave raid host: %s: %w", l.why, err)
	}
	if v, err = w.seeOff(ctx, wv, v, l); err != nil {
		return fmt.Errorf("leave raid host: %s: %w", l.why, err)
	}
	if err := w.viable(ctx, wv, v, l); err != nil {
		return fmt.Errorf("leave raid host: %s: %w", l.why, err)
	}
	from, standby, leaving := v.Assembly.RaidHost, v.Standby.Number, w.clock.Now()
	v, err = w.modify(ctx, wv, v.Assembly.Number, func(v *volume.Volume) (bool, error) {
		if v.Standby == nil || v.Standby.Number != standby {
			return false, fmt.Errorf("%w: its standby is another one now", volume.ErrConflict)
		}
		now := w.clock.Now().UTC()
		for _, r := range v.InState(volume.ReplicaRebuilding) {
			v.SetReplicaState(r.ID, volume.ReplicaOutOfSync, now)
		}
		for _, id := range l.unproven {
			v.SetReplicaState(id, volume.ReplicaSuspect, now)
		}
		v.SendAgain()
		v.Assembly.Leaving = false
		v.Retired = append(v.Retired, *v.Assembly)
		v.Assembly, v.Standby, v.MoveTo = v.Standby, nil, ""
		return true, nil
	})
	if err != nil {
		return err
	}
	l.departure = w.beginFailover(wv, l.cause, leaving)
	klog.FromContext(ctx).Info("Raid host is left", "volumeID", v.ID, "from", from, "to", v.Assembly.RaidHost, "why", l.why)
	if l.asked {
		w.lift(ctx, wv, v, from) // for good: it is taken apart
	}
	if err := w.finishSwitch(ctx, wv, v, l); err != nil {
		return err
	}
	klog.FromContext(ctx).Info("Volume runs on another raid host", "volumeID", v.ID, "raidHost", v.Assembly.RaidHost, "after", w.clock.Since(begin).Round(time.Millisecond).String())
	return nil
}

// viable says whether the raid host is still to be left, and the standby has a good leg that it reaches, that the raid host can be cut off from,
// and that is on a disk which answers: a raid that loses its last leg takes the namespace away from under the host, whose I/O then fails instead
// of waiting.
func (w *watcher) viable(ctx context.Context, wv *watchedVolume, v *volume.Volume, l loss) error {
	health, err := w.ask(ctx, v.Standby.RaidHost)
	if err != nil {
		return err
	}
	legs, ok := converge.LegHealth(v, *v.Standby, health)
	if !ok {
		return fmt.Errorf("%w: the standby on %s has no raid", volume.ErrPrecondition, v.Standby.RaidHost)
	}
	paths, _ := w.paths(ctx, v)
	if !v.Assembly.Held && !l.asked && !l.gone && w.servesOn(ctx, wv, v, *v.Assembly, paths) {
		return fmt.Errorf("%w: it serves this machine again", volume.ErrConflict)
	}
	down := w.down()
	reached := slices.DeleteFunc(l.usable(v, *v.Standby, l.proven(paths)), func(id string) bool {
		return !legs[id].Member || !legs[id].Connected || slices.Contains(down, v.Replica(id).Node)
	})
	if len(reached) == 0 {
		return fmt.Errorf("%w: the standby on %s reaches none that its raid host can be cut off from", volume.ErrNoGoodReplica, v.Standby.RaidHost)
	}
	return w.awaitDisk(ctx, v, reached)
}

// readyStandby returns the record with a standby that is ready, and on the node to unless that is empty. It gives up none for which there is
// no other.
func (w *watcher) readyStandby(ctx context.Context, wv *watchedVolume, v *volume.Volume, to string) (*volume.Volume, error) {
	wrong := v.Standby != nil && (to != "" && v.Standby.RaidHost != to || slices.Contains(w.down(), v.Standby.RaidHost) || w.standbyLost(v))
	var err error
	switch {
	case wrong:
		if _, err = w.chooseStandby(ctx, v, to, true); err != nil {
			return nil, err
		}
		if v, err = w.dropStandby(ctx, wv, v); err != nil {
			return nil, err
		}
	case v.Standby != nil && w.standbyReady(wv, v):
		return v, nil
	case v.Standby != nil:
		return w.finishStandby(ctx, wv, v)
	}
	return w.makeStandby(ctx, wv, v, to, true)
}

// switching is a switch on its way.
type switching struct {
	wv *watchedVolume
	v  *volume.Volume
	l  loss
	// legs are those that the assembly goes on with: each step leaves out what it finds not to be good.
	legs []string
}

// switchStep is a step of a switch. It is repeated harmlessly.
type switchStep struct {
	name string
	do   func(w *watcher, ctx context.Context, s *switching) error
}

// switchSteps put the assembly on record to use, in the only order that loses nothing (docs/design.md, "The switch").
var switchSteps = []switchStep{
	// This machine has a path to it, held, and then none to any other, and no guest is served elsewhere: nothing is read from or sent to a
	// former raid host any more.
	{"paths", (*watcher).leave},
	// The former raid hosts are cut off from the legs, and what they had sent has ended.
	{"fence", (*watcher).fence},
	// The raid has no leg that is not good, and no leg counts as good that the raid hasn't.
	{"members", (*watcher).purge},
	// It is on record which legs it goes on with.
	{"record", (*watcher).settleOn},
	// Its target serves this machine.
	{"optimize", (*watcher).optimize},
}

// finishSwitch takes the steps of a switch that is on record. Whoever finds the record like this goes on with it.
func (w *watcher) finishSwitch(ctx context.Context, wv *watchedVolume, v *volume.Volume, l loss) error {
	s := &switching{wv: wv, v: v, l: l, legs: l.usable(v, *v.Assembly, false)}
	for _, step := range switchSteps {
		if err := step.do(w, ctx, s); err != nil {
			return fmt.Errorf("switch to %s, %s: %w", v.Assembly.RaidHost, step.name, err)
		}
	}
	w.endFailover(wv, l.departure)
	return nil
}

// leave leaves this machine with the path to the assembly alone.
func (w *watcher) leave(ctx context.Context, s *switching) error {
	proven, err := w.leavePaths(ctx, s)
	if err != nil {
		return err
	}
	if err := w.quiesce(ctx, s.v); err != nil {
		return err
	}
	s.legs = s.l.usable(s.v, *s.v.Assembly, proven)
	if s.l.asked && !s.l.told {
		w.lastSeen(ctx, s)
	}
	if len(s.legs) == 0 {
		return w.hear(ctx, s)
	}
	return nil
}

// fence cuts the former raid hosts off from the legs.
func (w *watcher) fence(ctx context.Context, s *switching) error {
	release, err := w.fences.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	candidates := s.legs
	if s.legs = w.fenced(ctx, s.v, w.withoutCutOff(ctx, s.v, candidates)); len(s.legs) == 0 {
		return fmt.Errorf("%w: none of the legs %v could be cut off from the former raid host", volume.ErrNoGoodReplica, candidates)
	}
	return nil
}

// settleOn puts on record which legs the assembly goes on with.
func (w *watcher) settleOn(ctx context.Context, s *switching) error {
	v, err := w.modify(ctx, s.wv, s.v.Assembly.Number, func(v *volume.Volume) (bool, error) {
		now := w.clock.Now().UTC()
		if err := w.goOn(v, s.legs); err != nil {
			return false, err
		}
		for _, r := range v.InState(volume.ReplicaInSync, volume.ReplicaSuspect, volume.ReplicaRebuilding) {
			if slices.Contains(s.legs, r.ID) {
				v.SetReplicaState(r.ID, volume.ReplicaInSync, now)
			} else {
				v.SetReplicaState(r.ID, volume.ReplicaOutOfSync, now)
			}
		}
		v.Assembly.Held, v.Assembly.Running = false, true
		return true, nil
	})
	if err != nil {
		return err
	}
	s.v = v
	s.wv.settle(w.clock.Now())
	s.wv.mu.Lock()
	defer s.wv.mu.Unlock()
	clear(s.wv.memory)
	return nil
}

// optimize has the assembly's target serve this machine.
func (w *watcher) optimize(ctx context.Context, s *switching) error {
	host, err := w.server.cluster.Node(s.v.Assembly.RaidHost)
	if err != nil {
		return err
	}
	return host.SetANAState(ctx, s.v.NQN(), host.NVMf, spdk.ANAOptimized)
}

// withoutCutOff leaves out the legs on former raid hosts whose targets don't answer this machine, unless there are no others: whatever
// cut a raid host off has cut off the replica beside it, and the new raid need not find that out with a write.
func (w *watcher) withoutCutOff(ctx context.Context, v *volume.Volume, legs []string) []string {
	reached := slices.DeleteFunc(slices.Clone(legs), func(id string) bool {
		node := v.Replica(id).Node
		return v.IsRetiredOn(node) && !w.answers(ctx, node)
	})
	if len(reached) == 0 {
		return legs
	}
	return reached
}

// resumeSwitch goes on with a switch that was cut short. An assembly that turns out to have no good leg is left for another.
func (w *watcher) resumeSwitch(ctx context.Context, wv *watchedVolume, v *volume.Volume) error {
	l := wv.left()
	if l.departure = wv.underWay(); l.since.IsZero() {
		l.departure = w.beginFailover(wv, CauseResumed, w.clock.Now())
	}
	l.asked = l.asked || l.why == "" // nothing is known of why it was left: what was left may still tell what it had
	err := w.finishSwitch(ctx, wv, v, l)
	if errors.Is(err, volume.ErrNoGoodReplica) {
		asked := l.asked
		l = wv.left() // it may know more of the legs by now
		l.why, l.asked = err.Error(), asked
		return w.switchOver(ctx, wv, v, l)
	}
	return err
}

// leavePaths leaves this machine with the path to the assembly alone, if it has any. proven says that the legs in doubt are good.
func (w *watcher) leavePaths(ctx context.Context, s *switching) (proven bool, err error) {
	nqn, to := s.v.NQN(), w.address(s.v.Assembly.RaidHost)
	paths, err := w.server.fabrics.Paths(ctx, nqn)
	if err != nil {
		return false, err
	}
	if len(paths) > 0 {
		if err := w.whileServed(ctx, s, func() error { return w.connectPath(ctx, s.v, s.v.Assembly.RaidHost) }); err != nil {
			return false, fmt.Errorf("connect to the new raid host %s: %w", s.v.Assembly.RaidHost, err)
		}
		if paths, err = w.server.fabrics.Paths(ctx, nqn); err != nil {
			return false, err
		}
		if err := w.doubtServed(ctx, s, paths); err != nil {
			return false, err
		}
	}
	if proven = s.l.proven(paths); !proven {
		s.wv.refute() // once the paths are deleted, nothing tells any more
	}
	errs := make([]error, len(paths))
	var wg sync.WaitGroup
	for i, p := range paths {
		if p.Address != to {
			wg.Go(func() { errs[i] = w.server.fabrics.DisconnectPath(ctx, nqn, p.Address) })
		}
	}
	wg.Wait()
	return proven, errors.Join(errs...)
}

// lastSeen leaves out the legs that the former raid host had no longer when this machine had left it, if it can be asked: what it ejected
// after the last look is not good. One that has no leg any more is cut off already, and tells nothing.
func (w *watcher) lastSeen(ctx context.Context, s *switching) {
	former := s.v.LastServed()
	if former == nil || slices.Contains(w.down(), former.RaidHost) {
		return
	}
	seen, ok := w.legsOf(ctx, s.v, *former)
	has := func(id string) bool { return seen[id].Member && seen[id].Connected }
	if !ok || !slices.ContainsFunc(former.Legs, has) {
		return
	}
	lost := slices.DeleteFunc(slices.Clone(former.Legs), has)
	s.wv.doubt(lost)
	s.legs = slices.DeleteFunc(slices.Clone(s.legs), func(id string) bool { return slices.Contains(lost, id) })
}

// fenced cuts the former raid hosts off from the legs and returns those that are surely free of them.
func (w *watcher) fenced(ctx context.Context, v *volume.Volume, legs []string) []string {
	down := w.down()
	free := make([]bool, len(legs))
	var wg sync.WaitGroup
	for i, id := range legs {
		r := v.Replica(id)
		node, err := w.server.cluster.Node(r.Node)
		if err != nil || slices.Contains(down, r.Node) {
			continue
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, fenceLimit)
			defer cancel()
			for _, former := range v.Retired {
				if _, runs := v.RunningOn(former.RaidHost); runs {
					continue
				}
				if err := node.FenceHost(ctx, v.ReplicaNQN(*r), volume.SPDKHostNQN(former.RaidHost)); err != nil {
					klog.FromContext(ctx).Info("Former raid host can't be cut off from a replica", "volumeID", v.ID, "replica", id, "node", r.Node, "raidHost", former.RaidHost, "err", err)
					return
				}
			}
			free[i] = true
		})
	}
	wg.Wait()
	var fenced []string
	for i, id := range legs {
		if free[i] {
			fenced = append(fenced, id)
		}
	}
	return fenced
}

// purge takes every leg that isn't good out of the new raid, also one that the assembly has not had on record for a while, and leaves
// of the good ones those that the raid has, on one disk at least that answers.
func (w *watcher) purge(ctx context.Context, s *switching) error {
	v := s.v
	node, err := w.server.cluster.Node(v.Assembly.RaidHost)
	if err != nil {
		return err
	}
	health, err := w.ask(ctx, node.Name)
	if err != nil {
		return err
	}
	raid, ok := health.Raids[v.RaidName()]
	if !ok {
		return fmt.Errorf("%w: the new raid host %s has no raid of the volume any more", volume.ErrPrecondition, node.Name)
	}
	bdev := func(r volume.Replica) string { return spdk.LegBdev(v.LegController(r)) }
	good := slices.DeleteFunc(slices.Clone(s.legs), func(id string) bool { return !raid.Holds(bdev(*v.Replica(id))) })
	if len(good) == 0 {
		return fmt.Errorf("%w: none of the legs %v is a member of the new raid", volume.ErrNoGoodReplica, s.legs)
	}
	if !slices.ContainsFunc(good, func(id string) bool {
		return health.Controllers[v.LegController(*v.Replica(id))].State == spdk.LegEnabled
	}) {
		return fmt.Errorf("%w: the new raid host %s reaches none of the legs %v", volume.ErrNodeDown, node.Name, good)
	}
	if v.InFlight == volume.InFlightLost {
		connected := func(id string) bool {
			return health.Controllers[v.LegController(*v.Replica(id))].State == spdk.LegEnabled
		}
		id, err := w.sole(ctx, v, slices.DeleteFunc(good, func(id string) bool { return !connected(id) }))
		if err != nil {
			return err
		}
		s.legs, good = []string{id}, []string{id}
	}
	errs := make([]error, len(v.Replicas))
	var wg sync.WaitGroup
	var bad []string
	for i, r := range v.Replicas {
		refused := health.Controllers[v.LegController(r)].State == spdk.LegReconnectIsDelayed
		if raid.Has(bdev(r)) && !slices.Contains(s.legs, r.ID) {
			bad = append(bad, bdev(r))
			wg.Go(func() { errs[i] = w.eject(ctx, v, node, r, refused) })
		}
	}
	wg.Wait()
	s.legs = good
	if err := errors.Join(append(errs, w.without(ctx, v, bad))...); err != nil {
		return err
	}
	return w.awaitDisk(ctx, v, good)
}

// without waits until the new raid has none of the legs any more: none of them is fenced, and what the former raid host had sent to one
// could still reach it.
func (w *watcher) without(ctx context.Context, v *volume.Volume, bad []string) error {
	ctx, cancel := context.WithTimeout(ctx, v.Parameters.Budgets.ReplicaStall)
	defer cancel()
	ticker := w.clock.NewTicker(ejectInterval)
	defer ticker.Stop()
	for len(bad) > 0 {
		health, err := w.ask(ctx, v.Assembly.RaidHost)
		raid, there := health.Raids[v.RaidName()]
		if err == nil && !there {
			return fmt.Errorf("%w: the new raid host %s has no raid of the volume any more", volume.ErrPrecondition, v.Assembly.RaidHost)
		}
		if bad = slices.DeleteFunc(bad, func(leg string) bool { return err == nil && !raid.Has(leg) }); len(bad) == 0 {
			break
		}
		select {
		case <-ticker.C():
		case <-ctx.Done():
			return fmt.Errorf("%w: the new raid still has the legs %v: %w", volume.ErrBusy, bad, errors.Join(context.Cause(ctx), err))
		}
	}
	return nil
}

// eject takes a leg that isn't good out of a raid, unless its peer hangs: that one is ejected soonest by SPDK itself. The same is so once
// an ejection has begun, so that its end isn't waited for here.
func (w *watcher) eject(ctx context.Context, v *volume.Volume, node *converge.Node, r volume.Replica, refused bool) error {
	ctx, cancel := context.WithTimeout(ctx, ejectLimit)
	defer cancel()
	silent := v.IsRetiredOn(r.Node) || slices.Contains(w.down(), r.Node)
	if silent && !refused && !w.answers(ctx, r.Node) {
		return nil
	}
	err := node.RemoveRaidLeg(ctx, v.RaidName(), spdk.LegBdev(v.LegController(r)))
	if errors.Is(err, spdk.ErrBusy) || errors.Is(err, spdk.ErrUnknownOutcome) {
		klog.FromContext(ctx).Info("Lost leg is not out of the new raid yet", "volumeID", v.ID, "replica", r.ID, "err", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("take replica %s out of the new raid: %w", r.ID, err)
	}
	return nil
}
