package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/stack"
)

const (
	// cellLimit is after how long a cell is given up, its I/O included.
	cellLimit = 8 * time.Minute
	// warmUp is how long the load runs before the fault.
	warmUp = 2 * time.Second
	// rebuildMBs is how fast the rebuild goes that a fault is to meet, in MiB/s: some 16 s for the volume.
	rebuildMBs = 2
	// A link that flaps is down and up for so long.
	flapDown = 1500 * time.Millisecond
	flapUp   = 2500 * time.Millisecond
)

// run runs a cell. What went wrong is in the result.
func (c cell) run(ctx context.Context, s *stack.Stack, logf func(string, ...any)) result {
	r := result{name: c.String()}
	limited, cancel := context.WithTimeout(ctx, cellLimit)
	defer cancel()
	t, err := start(limited, s, c.place.replicas(), logf)
	if err == nil {
		err = c.on(limited, t, &r)
	}
	if err != nil {
		if r.skipped = errors.Is(err, stack.ErrUnsupported); !r.skipped {
			r.problems = append(r.problems, err.Error())
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stack.Patience)
		defer cancel()
		if healErr := s.Heal(ctx); healErr != nil {
			logf("%v", healErr)
		}
		t.giveUp(ctx)
	}
	r.crashes = s.Crashes()
	return r
}

// on does to a volume what the cell says.
func (c cell) on(ctx context.Context, t *trial, r *result) error {
	if _, err := t.untilRedundant(ctx); err != nil { // a standby and the watch have begun by then
		return err
	}
	if err := t.load.Run(ctx, c.activity.mix()); err != nil {
		return err
	}
	if err := t.watch(ctx, warmUp); err != nil {
		return err
	}
	if c.activity == rebuilding {
		if err := t.beginRebuild(ctx); err != nil {
			return err
		}
	}
	v, err := t.record(ctx)
	if err != nil {
		return err
	}
	victims := c.victims(v)
	t.note("%s: %v", c.fault, victims)
	end, err := c.inject(ctx, t, v, victims)
	if err != nil {
		return err
	}
	err = c.during(ctx, t)
	if err = errors.Join(err, end()); err != nil {
		return err
	}
	t.note("the fault has ended")
	if r.redundancy, err = t.untilRedundant(ctx); err != nil {
		return errors.Join(err, t.endLoad(ctx, r))
	}
	return t.end(ctx, r)
}

// victims are the replicas that the fault befalls; for the raid host the one that is there.
func (c cell) victims(v *volume.Volume) []string {
	var nodes, ids []string
	replicas := slices.Clone(v.Replicas)
	// Those that are not in-sync first: that is the one that is being rebuilt.
	slices.SortStableFunc(replicas, func(a, b volume.Replica) int { return inSync(a) - inSync(b) })
	for _, r := range replicas {
		if (r.Node == v.Assembly.RaidHost) == (c.place == raidHost) && len(nodes) < c.place.victims() {
			nodes, ids = append(nodes, r.Node), append(ids, r.ID)
		}
	}
	if c.fault == fenced {
		return ids
	}
	return nodes
}

func inSync(r volume.Replica) int {
	if r.State == volume.ReplicaInSync {
		return 1
	}
	return 0
}

// inject begins the fault and returns what ends it.
func (c cell) inject(ctx context.Context, t *trial, v *volume.Volume, victims []string) (end func() error, err error) {
	if c.fault == fenced {
		return func() error { return nil }, c.fence(ctx, t, v, victims)
	}
	var targets []*stack.Target
	for _, name := range victims {
		target, err := t.stack.Target(name)
		if err != nil {
			return nil, err
		}
		targets = append(targets, target)
	}
	if c.fault == flapping {
		return flap(ctx, targets), nil
	}
	f, _ := c.fault.onTarget()
	set := func(on bool) error {
		var errs []error
		for _, target := range targets {
			errs = append(errs, target.Set(ctx, f, on))
		}
		return errors.Join(errs...)
	}
	return func() error { return set(false) }, set(true)
}

// during lets the fault last. An idle volume is written to before it ends.
func (c cell) during(ctx context.Context, t *trial) error {
	if err := t.watch(ctx, c.fault.hold()); err != nil || c.activity != idle {
		return err
	}
	t.note("the idle volume is used")
	if err := t.load.Run(ctx, writing.mix()); err != nil {
		return err
	}
	return t.watch(ctx, c.fault.hold())
}

// fence shuts hosts out: the raid host out of the replicas, or, where the raid host is the victim, the Linux host out of the target.
func (c cell) fence(ctx context.Context, t *trial, v *volume.Volume, replicas []string) error {
	if c.place == raidHost {
		return t.shutOut(ctx, v.Assembly.RaidHost, v.NQN())
	}
	for _, id := range replicas {
		replica := *v.Replica(id)
		if err := t.shutOut(ctx, replica.Node, v.ReplicaNQN(replica)); err != nil {
			return err
		}
	}
	return nil
}

// shutOut takes every host off an export.
func (t *trial) shutOut(ctx context.Context, name, nqn string) error {
	target, err := t.stack.Target(name)
	if err != nil {
		return err
	}
	return target.Do(func(node *spdk.Node) error {
		export, err := node.Exported(ctx, nqn)
		if err != nil {
			return err
		}
		for _, host := range export.Hosts {
			if err := node.FenceHost(ctx, nqn, host); err != nil {
				return err
			}
		}
		return nil
	})
}

// flap cuts targets off and joins them again until it is ended.
func flap(ctx context.Context, targets []*stack.Target) (end func() error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var failed error
	wg.Go(func() {
		for down := true; failed == nil; down = !down {
			for _, t := range targets {
				failed = errors.Join(failed, t.Set(context.WithoutCancel(ctx), stack.Cut, down))
			}
			pause := flapUp
			if down {
				pause = flapDown
			}
			if wait(ctx, pause) != nil {
				break
			}
		}
		for _, t := range targets {
			failed = errors.Join(failed, t.Set(context.WithoutCancel(ctx), stack.Cut, false))
		}
	})
	return func() error {
		cancel()
		wg.Wait()
		return failed
	}
}

// beginRebuild takes a replica out of the raid and returns when it is being rebuilt, slowly.
func (t *trial) beginRebuild(ctx context.Context) error {
	v, err := t.record(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(v.Replicas, func(r volume.Replica) bool { return r.Node != v.Assembly.RaidHost })
	if i < 0 {
		return fmt.Errorf("all replicas are on the raid host")
	}
	replica := v.Replicas[i]
	if err := t.limitRebuilds(ctx, rebuildMBs); err != nil {
		return err
	}
	host, err := t.stack.Target(v.Assembly.RaidHost)
	if err != nil {
		return err
	}
	t.note("replica %s on %s is taken out of the raid", replica.ID, replica.Node)
	err = host.Do(func(node *spdk.Node) error {
		return node.RemoveRaidLeg(ctx, v.RaidName(), spdk.LegBdev(v.LegController(replica)))
	})
	if err != nil {
		return err
	}
	_, err = t.until(ctx, "the rebuild", wholeAgain, func(v *volume.Volume) bool {
		return len(v.InState(volume.ReplicaRebuilding)) > 0
	})
	if err != nil {
		return err
	}
	if err := wait(ctx, warmUp); err != nil { // some of it is done
		return err
	}
	return t.limitRebuilds(ctx, 0)
}

// limitRebuilds says how fast rebuilds go that begin from now on, in MiB/s; 0 is no limit.
func (t *trial) limitRebuilds(ctx context.Context, mbs int) error {
	for _, target := range t.stack.Targets {
		if err := target.Call(ctx, "bdev_raid_set_options", map[string]any{"process_max_bandwidth_mb_sec": mbs}, nil); err != nil {
			return fmt.Errorf("limit rebuilds on %s: %w", target.Name, err)
		}
	}
	return nil
}
