package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/operator"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

const (
	// lookInterval is how often the story looks at the record and the nodes.
	lookInterval = 50 * time.Millisecond
	// patience bounds each act: what takes longer has failed.
	patience = 2 * time.Minute
)

// outlive goes on writing while a replica's node is killed and comes back, and then the raid host is killed.
func (s *scene) outlive(ctx context.Context) error {
	v, err := s.record(ctx)
	if err != nil {
		return err
	}
	s.story.step("The raid runs on %s over the replicas on %s; %d writers overwrite the volume from now on", v.Assembly.RaidHost, nodesOf(v), writers)
	var end func() error
	s.broken, end = s.load.overwrite(ctx)
	err = s.acts(ctx)
	err = errors.Join(err, end())
	s.report.addLoad(s.load)
	return err
}

func (s *scene) acts(ctx context.Context) error {
	if err := s.quiet(ctx); err != nil {
		return err
	}
	if err := s.loseReplica(ctx); err != nil {
		return err
	}
	if err := s.rebuild(ctx); err != nil {
		return err
	}
	if err := s.quiet(ctx); err != nil {
		return err
	}
	return s.loseRaidHost(ctx)
}

// quiet lets the writers write for a while.
func (s *scene) quiet(ctx context.Context) error {
	begin, d := time.Now(), time.Duration(s.o.Seconds)*time.Second
	return s.until(ctx, func() (bool, error) { return time.Since(begin) >= d, nil })
}

// until looks again and again until done says so.
func (s *scene) until(ctx context.Context, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-s.broken:
			return errors.New("a writer got an I/O error")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *scene) record(ctx context.Context) (*volume.Volume, error) {
	return s.lab.store.Get(ctx, s.id)
}

// kill kills a node and returns the longest that one write took by the time that the record is as done wants it and writes go on.
func (s *scene) kill(ctx context.Context, node, what string, done func(v *volume.Volume) bool) (time.Duration, error) {
	stalled := func() string {
		if d := s.load.stalledFor(); d > 3*drawInterval {
			return "writes have waited for " + short(d)
		}
		return "writes go on"
	}
	s.load.recentPause.Store(0)
	err := s.story.during(what, stalled, func() error {
		s.lab.sims[node].Kill()
		err := s.until(ctx, func() (bool, error) {
			v, err := s.record(ctx)
			return err == nil && done(v), err
		})
		if err != nil {
			return err
		}
		after := s.load.done.Load()
		return s.until(ctx, func() (bool, error) { return s.load.done.Load() > after+2*writers, nil })
	})
	pause := time.Duration(s.load.recentPause.Load())
	if err == nil {
		s.story.text("the longest pause of one write: " + short(pause))
	}
	return pause, err
}

// loseReplica kills a node that holds a replica and runs neither the raid nor the standby, and sees that the record says so.
func (s *scene) loseReplica(ctx context.Context) error {
	v, err := s.standby(ctx)
	if err != nil {
		return err
	}
	node := victim(v)
	s.report.ReplicaNode = node
	pause, err := s.kill(ctx, node, fmt.Sprintf("Killing the SPDK process of %s, which holds a replica", node), func(v *volume.Volume) bool {
		s.report.LostReplica = string(replicaOn(v, node).State)
		return s.report.LostReplica == string(volume.ReplicaOutOfSync)
	})
	s.report.ReplicaPause = pause.Seconds()
	if err == nil {
		s.story.step("The record calls the replica on %s %s: it is no source of data before it is rebuilt", node, s.report.LostReplica)
	}
	return err
}

// standby waits until all replicas are in-sync and another assembly is ready over all of them.
func (s *scene) standby(ctx context.Context) (v *volume.Volume, err error) {
	return v, s.until(ctx, func() (bool, error) {
		v, err = s.record(ctx)
		return err == nil && len(v.InState(volume.ReplicaInSync)) == len(v.Replicas) &&
			v.Standby != nil && v.Standby.Running && len(v.Standby.Legs) == len(v.Replicas), err
	})
}

// rebuild starts the node again and waits until the volume is whole.
func (s *scene) rebuild(ctx context.Context) error {
	begin := time.Now()
	if err := s.lab.sims[s.report.ReplicaNode].Restart(); err != nil {
		return fmt.Errorf("start %s again: %w", s.report.ReplicaNode, err)
	}
	var now atomic.Value
	now.Store("the node service is about to see it")
	copied := false
	what := fmt.Sprintf("Starting %s again: its replica is rebuilt while writes go on", s.report.ReplicaNode)
	err := s.story.during(what, func() string { return now.Load().(string) }, func() error {
		return s.until(ctx, func() (bool, error) {
			d, err := s.lab.operator.Show(ctx, s.id)
			if err != nil {
				return false, err
			}
			now.Store(rebuildText(d))
			if d.Rebuild != nil && d.Rebuild.Copied && !copied {
				copied = true
				s.story.text(fmt.Sprintf("copied after %s; it counts when it has held for %s", short(time.Since(begin)), budgets.ReplicaStall))
			}
			return replicaOn(d.Record, s.report.ReplicaNode).State == volume.ReplicaInSync, nil
		})
	})
	if err != nil {
		return err
	}
	v, err := s.standby(ctx)
	if err != nil {
		return err
	}
	s.report.Rebuild = time.Since(begin).Seconds()
	s.story.step("All three are in-sync, and a standby is ready on %s", v.Standby.RaidHost)
	return nil
}

func rebuildText(d operator.Detail) string {
	switch r := d.Rebuild; {
	case r == nil:
		return d.String()
	case r.Copied:
		return bar(1) + " copied"
	default:
		return bar(float64(r.Percent)/100) + " rebuilt"
	}
}

// loseRaidHost kills the node that runs the volume.
func (s *scene) loseRaidHost(ctx context.Context) error {
	v, err := s.record(ctx)
	if err != nil {
		return err
	}
	node := v.Assembly.RaidHost
	s.report.RaidHost = node
	pause, err := s.kill(ctx, node, fmt.Sprintf("Killing the SPDK process of %s, which runs the raid and holds a replica", node), func(v *volume.Volume) bool {
		s.report.NewRaidHost = v.Assembly.RaidHost
		return v.Assembly.RaidHost != node && !v.Assembly.Held
	})
	s.report.FailoverPause = pause.Seconds()
	if err == nil {
		s.story.step("The volume runs on %s; %s is cut off from the replicas, should it still be alive", s.report.NewRaidHost, node)
	}
	return err
}

// victim is a node that holds a replica and runs neither the raid nor the standby.
func victim(v *volume.Volume) string {
	nodes := nodesOf(v)
	return nodes[slices.IndexFunc(nodes, func(n string) bool { return n != v.Assembly.RaidHost && n != v.Standby.RaidHost })]
}

func nodesOf(v *volume.Volume) []string {
	var nodes []string
	for _, r := range v.Replicas {
		nodes = append(nodes, r.Node)
	}
	slices.Sort(nodes)
	return nodes
}

func replicaOn(v *volume.Volume, node string) volume.Replica {
	return v.Replicas[slices.IndexFunc(v.Replicas, func(r volume.Replica) bool { return r.Node == node })]
}
