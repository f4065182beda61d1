package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

const (
	// fenceLimit bounds the fencing of one leg: one that takes longer is given up.
	fenceLimit = 3 * time.Second
	// ejectLimit bounds the removal of a lost leg before a raid is put to use. One that stays ends with its own fast I/O fail.
	ejectLimit = time.Second
)

// switchOver makes the standby the assembly that runs, one that is made now if none is ready. It is how a volume leaves a raid host
// that is lost, and one that an operator wants free.
func (w *watcher) switchOver(ctx context.Context, wv *watchedVolume, v *volume.Volume, l loss) error {
	begin := w.clock.Now()
	v, err := w.readyStandby(ctx, wv, v)
	if err != nil {
		return fmt.Errorf("leave raid host: %s: %w", l.why, err)
	}
	if err := w.viable(ctx, v, l); err != nil {
		return fmt.Errorf("leave raid host: %s: %w", l.why, err)
	}
	from, standby := v.Assembly.RaidHost, v.Standby.Number
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
		v.Retired = append(v.Retired, *v.Assembly)
		v.Assembly, v.Standby, v.MoveTo = v.Standby, nil, ""
		return true, nil
	})
	if err != nil {
		return err
	}
	klog.FromContext(ctx).Info("Raid host is left", "volumeID", v.ID, "from", from, "to", v.Assembly.RaidHost, "why", l.why)
	if err := w.finishSwitch(ctx, wv, v, l); err != nil {
		return err
	}
	klog.FromContext(ctx).Info("Volume runs on another raid host", "volumeID", v.ID, "raidHost", v.Assembly.RaidHost, "after", w.clock.Since(begin).Round(time.Millisecond).String())
	return nil
}

// viable says whether the standby has a good leg that it reaches: a raid that loses its last leg takes the namespace away from under the
// host, whose I/O then fails instead of waiting.
func (w *watcher) viable(ctx context.Context, v *volume.Volume, l loss) error {
	health, err := w.ask(ctx, v.Standby.RaidHost)
	if err != nil {
		return err
	}
	legs, ok := converge.LegHealth(v, *v.Standby, health)
	if !ok {
		return fmt.Errorf("%w: the standby on %s has no raid", volume.ErrPrecondition, v.Standby.RaidHost)
	}
	paths, _ := w.paths(ctx, v)
	proven := !slices.ContainsFunc(paths, func(p nvmeof.PathState) bool { return !l.ended(p) && w.isRaidHost(v, p) })
	for _, id := range l.usable(v, *v.Standby, proven) {
		if legs[id].Member && legs[id].Connected {
			return nil
		}
	}
	return fmt.Errorf("%w: the standby on %s reaches none", volume.ErrNoGoodReplica, v.Standby.RaidHost)
}

// isRaidHost says whether a path leads to the raid host of the assembly that runs.
func (w *watcher) isRaidHost(v *volume.Volume, p nvmeof.PathState) bool {
	node, err := w.server.cluster.Node(v.Assembly.RaidHost)
	return err == nil && p.Address == node.NVMf.String()
}

// readyStandby returns the record with a standby that is ready and, where an operator asked for a raid host, on that one.
func (w *watcher) readyStandby(ctx context.Context, wv *watchedVolume, v *volume.Volume) (*volume.Volume, error) {
	wrong := v.Standby != nil && (v.MoveTo != "" && v.Standby.RaidHost != v.MoveTo || slices.Contains(w.down(), v.Standby.RaidHost))
	var err error
	switch {
	case wrong:
		if v, err = w.dropStandby(ctx, wv, v); err != nil {
			return nil, err
		}
	case v.Standby != nil && w.standbyReady(wv, v):
		return v, nil
	case v.Standby != nil:
		return w.finishStandby(ctx, wv, v)
	}
	return w.makeStandby(ctx, wv, v, v.MoveTo)
}

// finishSwitch puts the assembly on record to use, in the only order that loses nothing (docs/design.md, "The switch"):
//
//  1. this machine has a path to it, held, and then none to any other: nothing is read from or sent to a former raid host any more;
//  2. the former raid hosts are cut off from the legs, and what they had sent has ended;
//  3. the raid has no leg that is not good;
//  4. it is on record which legs it goes on with;
//  5. its target is optimized.
//
// Each step is repeated harmlessly, so that whoever finds the record like this goes on with it.
func (w *watcher) finishSwitch(ctx context.Context, wv *watchedVolume, v *volume.Volume, l loss) error {
	proven, err := w.leavePaths(ctx, v, l)
	if err != nil {
		return err
	}
	candidates := l.usable(v, *v.Assembly, proven)
	if l.asked {
		candidates = w.lastSeen(ctx, v, candidates)
	}
	fenced := w.fence(ctx, v, w.withoutCutOff(ctx, v, candidates))
	members, err := w.members(ctx, v, fenced)
	if err != nil {
		return err
	}
	if len(members) == 0 {
		return fmt.Errorf("%w: none of the legs %v could be cut off from the former raid host and is a member of the new raid", volume.ErrNoGoodReplica, candidates)
	}
	v, err = w.modify(ctx, wv, v.Assembly.Number, func(v *volume.Volume) (bool, error) {
		now := w.clock.Now().UTC()
		for _, r := range v.InState(volume.ReplicaInSync, volume.ReplicaSuspect, volume.ReplicaRebuilding) {
			if slices.Contains(members, r.ID) {
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
	wv.mu.Lock()
	clear(wv.memory)
	wv.mu.Unlock()
	host, err := w.server.cluster.Node(v.Assembly.RaidHost)
	if err != nil {
		return err
	}
	return host.SetANAState(ctx, v.NQN(), host.NVMf, spdk.ANAOptimized)
}

// withoutCutOff leaves out the legs on former raid hosts whose targets don't answer this machine, unless there are no others: whatever
// cut a raid host off has cut off the replica beside it, and the new raid need not find that out with a write.
func (w *watcher) withoutCutOff(ctx context.Context, v *volume.Volume, legs []string) []string {
	limited, cancel := context.WithTimeout(ctx, greetLimit)
	defer cancel()
	reached := slices.DeleteFunc(slices.Clone(legs), func(id string) bool {
		node := v.Replica(id).Node
		return v.IsRetiredOn(node) && !w.answers(limited, node)
	})
	if len(reached) == 0 {
		return legs
	}
	return reached
}

// resumeSwitch goes on with a switch that was cut short. An assembly that turns out to have no good leg is left for another.
func (w *watcher) resumeSwitch(ctx context.Context, wv *watchedVolume, v *volume.Volume) error {
	err := w.finishSwitch(ctx, wv, v, loss{})
	if errors.Is(err, volume.ErrNoGoodReplica) {
		return w.switchOver(ctx, wv, v, loss{why: err.Error()})
	}
	return err
}

// leavePaths leaves this machine with the path to the assembly alone, if it has any. proven says that the former connections had ended
// when the loss was noticed and had not come back.
func (w *watcher) leavePaths(ctx context.Context, v *volume.Volume, l loss) (proven bool, err error) {
	paths, err := w.server.fabrics.Paths(ctx, v.NQN())
	if err != nil {
		return false, err
	}
	if len(paths) > 0 {
		if err := w.connectPath(ctx, v, v.Assembly.RaidHost); err != nil {
			return false, fmt.Errorf("connect to the new raid host %s: %w", v.Assembly.RaidHost, err)
		}
		if paths, err = w.server.fabrics.Paths(ctx, v.NQN()); err != nil {
			return false, err
		}
	}
	host, err := w.server.cluster.Node(v.Assembly.RaidHost)
	if err != nil {
		return false, err
	}
	proven = true
	errs := make([]error, len(paths))
	var wg sync.WaitGroup
	for i, p := range paths {
		if p.Address == host.NVMf.String() {
			continue
		}
		proven = proven && l.ended(p)
		wg.Go(func() { errs[i] = w.server.fabrics.DisconnectPath(ctx, v.NQN(), p.Address) })
	}
	wg.Wait()
	return proven, errors.Join(errs...)
}

// lastSeen returns those of the legs that the former raid host still had when this machine had left it, if it can be asked: what it
// ejected after the last look is not good.
func (w *watcher) lastSeen(ctx context.Context, v *volume.Volume, legs []string) []string {
	if len(v.Retired) == 0 {
		return legs
	}
	former := v.Retired[len(v.Retired)-1]
	if slices.Contains(w.down(), former.RaidHost) {
		return legs
	}
	health, err := w.ask(ctx, former.RaidHost)
	if err != nil {
		return legs
	}
	seen, ok := converge.LegHealth(v, former, health)
	if !ok {
		return legs
	}
	return slices.DeleteFunc(slices.Clone(legs), func(id string) bool {
		return slices.Contains(former.Legs, id) && (!seen[id].Member || !seen[id].Connected)
	})
}

// fence cuts the former raid hosts off from the legs and returns those that are surely free of them.
func (w *watcher) fence(ctx context.Context, v *volume.Volume, legs []string) []string {
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

// members takes every leg that isn't good out of the new raid and returns the good ones that it holds.
func (w *watcher) members(ctx context.Context, v *volume.Volume, good []string) ([]string, error) {
	node, err := w.server.cluster.Node(v.Assembly.RaidHost)
	if err != nil {
		return nil, err
	}
	health, err := node.Health(ctx)
	if err != nil {
		return nil, err
	}
	legs, ok := converge.LegHealth(v, *v.Assembly, health)
	if !ok {
		return nil, fmt.Errorf("%w: the new raid host %s has no raid of the volume any more", volume.ErrPrecondition, node.Name)
	}
	var members []string
	for _, id := range good {
		if legs[id].Member {
			members = append(members, id)
		}
	}
	if len(members) == 0 {
		return nil, nil
	}
	var wg sync.WaitGroup
	for id, leg := range legs {
		silent := v.IsRetiredOn(v.Replica(id).Node) || slices.Contains(w.down(), v.Replica(id).Node)
		if !leg.Listed || slices.Contains(good, id) || silent && !leg.Refused {
			continue // one whose peer hangs is ejected soonest by SPDK itself
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, ejectLimit)
			defer cancel()
			if err := node.RemoveRaidLeg(ctx, v.RaidName(), spdk.LegBdev(v.LegController(*v.Replica(id)))); err != nil {
				klog.FromContext(ctx).Info("Lost leg is not out of the new raid yet", "volumeID", v.ID, "replica", id, "err", err)
			}
		})
	}
	wg.Wait()
	return members, nil
}
