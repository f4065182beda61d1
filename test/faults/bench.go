package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/stack"
	"github.com/holdfast-csi/holdfast/test/vm/load"
)

const (
	// stallBudget is the tightest that there is.
	stallBudget = 10 * time.Second
	volumeBytes = 32 << 20
	// loadBlocks is how much of the volume the load is on: 4 MiB.
	loadBlocks = 1024
	// wholeAgain is how long a volume may take to be fully redundant after a fault has ended: the wait before a rebuild, the
	// rebuild, the time for which it must hold, and all that again for a second replica, on a slow machine.
	wholeAgain = 4 * time.Minute
	// lasting is for how long full redundancy must be seen.
	lasting = 2 * time.Second
	// look is how often the record is read.
	look = 200 * time.Millisecond
)

// trial is one volume under load, and what befalls it.
type trial struct {
	*stack.Claim
	stack *stack.Stack
	load  stack.Load
	logf  func(format string, args ...any)

	begin time.Time
	shown string // of the record, last
}

// start makes a volume, publishes it and fills the load's part of it.
func start(ctx context.Context, s *stack.Stack, replicas int, logf func(string, ...any)) (*trial, error) {
	t := &trial{stack: s, logf: logf, begin: time.Now()}
	var err error
	t.Claim, err = s.Claim(ctx, stack.ClaimSpec{FSType: "ext4", SizeBytes: volumeBytes, Retry: true, Parameters: map[string]string{
		volume.ParamReplicas: fmt.Sprint(replicas), volume.ParamReplicaStallBudget: stallBudget.String(),
	}})
	if err != nil {
		return nil, err
	}
	if err := t.Publish(ctx); err != nil {
		return t, err
	}
	path := t.Pod
	if !s.InProcess() {
		path += "/load"
	}
	if t.load, err = s.Host.OpenLoad(ctx, path, loadBlocks); err != nil {
		return t, err
	}
	r, err := t.load.Fill(ctx)
	if err == nil && r.Errors > 0 {
		err = fmt.Errorf("fill the volume: %s", r.FirstError)
	}
	t.note("volume %s is filled", t.ID)
	return t, err
}

// note logs with the time, and the time since the trial's begin.
func (t *trial) note(format string, args ...any) {
	t.logf("%s %7.2f s  %s", time.Now().UTC().Format("15:04:05.000"), time.Since(t.begin).Seconds(), fmt.Sprintf(format, args...))
}

// record reads the record and notes what has changed.
func (t *trial) record(ctx context.Context) (*volume.Volume, error) {
	v, err := t.Record(ctx)
	if err != nil {
		return nil, err
	}
	if shown := show(v); shown != t.shown {
		t.shown = shown
		t.note("%s", shown)
	}
	return v, nil
}

// show describes what matters of a record here.
func show(v *volume.Volume) string {
	var b strings.Builder
	assembly := func(what string, a *volume.Assembly) {
		if a == nil {
			return
		}
		fmt.Fprintf(&b, "%s %d on %s of %d legs", what, a.Number, a.RaidHost, len(a.Legs))
		if a.Held {
			b.WriteString(", held")
		}
		b.WriteString("; ")
	}
	assembly("assembly", v.Assembly)
	assembly("standby", v.Standby)
	for i := range v.Retired {
		assembly("retired", &v.Retired[i])
	}
	for i, r := range v.Replicas {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s (%s) %s", r.ID, r.Node, r.State)
		if r.Strikes > 0 {
			fmt.Fprintf(&b, " after %d strikes", r.Strikes)
		}
	}
	return b.String()
}

// until reads the record until it is as wanted. A record that can't be read is read again.
func (t *trial) until(ctx context.Context, what string, limit time.Duration, wanted func(v *volume.Volume) bool) (*volume.Volume, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		v, err := t.record(ctx)
		if err == nil && wanted(v) {
			return v, nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return v, errors.Join(fmt.Errorf("%s: not after %s; the record says %s", what, limit, t.shown), err)
		}
	}
}

// watch shows the record's changes for a while.
func (t *trial) watch(ctx context.Context, d time.Duration) error {
	end := time.Now().Add(d)
	_, err := t.until(ctx, "pass the time", d+stack.Patience, func(*volume.Volume) bool { return time.Now().After(end) })
	return err
}

// wait waits although the record may be away.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// redundant says whether a volume that runs has all the replicas that it is to have, all legs of what runs.
func redundant(v *volume.Volume) bool {
	good := v.InState(volume.ReplicaInSync)
	if len(good) != v.Parameters.Replicas || len(v.Replicas) != len(good) || v.Assembly == nil || v.Assembly.Held || !v.Assembly.Running {
		return false
	}
	return !slices.ContainsFunc(good, func(r volume.Replica) bool { return !slices.Contains(v.Assembly.Legs, r.ID) })
}

// untilRedundant waits for full redundancy, on record and in the raid that runs, and says how long that took. It must last: a leg may
// yet fail of what hung while the fault was there.
func (t *trial) untilRedundant(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	var missing error
	var since time.Time
	_, err := t.until(ctx, "full redundancy", wholeAgain, func(v *volume.Volume) bool {
		missing = nil
		if redundant(v) {
			missing = t.raidHolds(ctx, v)
		}
		switch {
		case !redundant(v) || missing != nil:
			since = time.Time{}
		case since.IsZero():
			since = time.Now()
		}
		return !since.IsZero() && time.Since(since) >= lasting
	})
	if err != nil {
		return 0, errors.Join(err, missing)
	}
	return max(since.Sub(begin), time.Millisecond), nil
}

// raidHolds says whether the raid has every in-sync replica.
func (t *trial) raidHolds(ctx context.Context, v *volume.Volume) error {
	host, err := t.stack.Target(v.Assembly.RaidHost)
	if err != nil {
		return err
	}
	return host.Do(func(node *spdk.Node) error {
		raid, err := node.Raid(ctx, v.RaidName())
		if err != nil {
			return fmt.Errorf("look at the raid of a redundant volume: %w", err)
		}
		for _, r := range v.InState(volume.ReplicaInSync) {
			if !raid.Holds(spdk.LegBdev(v.LegController(r))) {
				return fmt.Errorf("the record says that replica %s on %s is in-sync, and the raid on %s does not have it", r.ID, r.Node, host.Name)
			}
		}
		return nil
	})
}

// end ends the load and the volume's use: what was acknowledged must be there and all replicas alike. Nothing is left behind.
func (t *trial) end(ctx context.Context, r *result) error {
	if err := t.endLoad(ctx, r); err != nil {
		return err
	}
	if err := t.Unpublish(ctx); err != nil {
		return err
	}
	v, err := t.record(ctx)
	if err != nil {
		return err
	}
	if n := len(v.InState(volume.ReplicaInSync)); n != v.Parameters.Replicas {
		return fmt.Errorf("%d of %d replicas are in-sync after the volume's use: %s", n, v.Parameters.Replicas, t.shown)
	}
	differing, err := t.stack.CompareReplicas(ctx, v)
	if err != nil {
		return err
	}
	if differing > 0 {
		r.differing += differing
		t.note("%d bytes are not the same on all replicas", differing)
	}
	if err := t.Delete(ctx); err != nil {
		return err
	}
	return t.stack.Leftovers(ctx)
}

// endLoad ends the load, reads everything back and enters what it saw into the result, as far as it gets.
func (t *trial) endLoad(ctx context.Context, r *result) error {
	var seen load.Report
	var err error
	for _, step := range []func(context.Context) (load.Report, error){t.load.Report, t.load.Pause, t.load.Verify} {
		var now load.Report
		if now, err = step(ctx); err != nil {
			break
		}
		r.stall = max(r.stall, now.LongestPause)
		seen = now
	}
	r.errors, r.differing, r.done = r.errors+seen.Errors, r.differing+seen.DifferingBytes, r.done+seen.Done()
	for _, first := range []string{seen.FirstError, seen.FirstDifference} {
		if first != "" {
			t.note("%s", first)
			r.problems = append(r.problems, first)
		}
	}
	t.note("the load has seen %+v", seen)
	_ = t.load.Close() // what it has seen is known
	return err
}

// giveUp takes away as much as can be of a trial that has failed.
func (t *trial) giveUp(ctx context.Context) {
	if t == nil || t.Claim == nil {
		return
	}
	if t.load != nil {
		_ = t.load.Close()
	}
	for _, step := range []func(context.Context) error{t.Unpublish, t.Delete} {
		if err := step(ctx); err != nil {
			t.note("after the failure: %v", err)
		}
	}
}
