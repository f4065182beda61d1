package operator

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// PlannedMove is a volume that a drain moves, or can't move: then To is empty and Err says why. A volume.ErrBusy passes by itself.
type PlannedMove struct {
	Volume *volume.Volume
	To     string
	Err    error
}

// PlanDrain says where each volume goes that is in use and has its raid host on a node: to its standby's, else to the good replica's
// node with the fewest raids.
func PlanDrain(volumes []*volume.Volume, node string, s condition.Sight) []PlannedMove {
	return planDrain(volumes, node, s, map[string]int{})
}

// planDrain counts the moves to each node in coming, those planned before included.
func planDrain(volumes []*volume.Volume, node string, s condition.Sight, coming map[string]int) []PlannedMove {
	var moves []PlannedMove
	for _, v := range volumes {
		if !runsOn(v, node) {
			continue
		}
		m := PlannedMove{Volume: v}
		m.To, m.Err = destination(v, node, s, coming)
		if m.Err == nil {
			coming[m.To]++
		}
		moves = append(moves, m)
	}
	return moves
}

// runsOn says whether a volume is in use and has its raid host on a node.
func runsOn(v *volume.Volume, node string) bool {
	return v.Owner != "" && v.Phase == volume.PhaseReady && v.Assembly != nil && !v.Assembly.Stopping && v.Assembly.RaidHost == node
}

// destination chooses a volume's next raid host.
func destination(v *volume.Volume, from string, s condition.Sight, coming map[string]int) (string, error) {
	load := func(node string) int { return len(s[node].Health.Raids) + coming[node] }
	if a := v.Standby; a != nil && a.RaidHost != from && CheckMove(v, a.RaidHost, s) == nil {
		return a.RaidHost, nil
	}
	best := ""
	var why []error
	for _, r := range v.InState(volume.ReplicaInSync) {
		if r.Node == from {
			continue
		}
		if err := CheckMove(v, r.Node, s); err != nil {
			why = append(why, err)
			continue
		}
		if best == "" || load(r.Node) < load(best) {
			best = r.Node
		}
	}
	switch {
	case best != "":
		return best, nil
	case len(why) == 0:
		return "", fmt.Errorf("%w but the one on %s", volume.ErrNoGoodReplica, from)
	}
	return "", fmt.Errorf("no other node with an in-sync replica can be its raid host: %w", errors.Join(why...))
}

// Moved is the outcome of one move of a drain. To is empty, with no Err, if the volume is not in use any more.
type Moved struct {
	PlannedMove
	// Done and Of count the moves that are over, this one included.
	Done, Of int
}

// Drain moves away every volume that is in use and has its raid host on a node, some at a time, and tells each when it is over, one
// after the other. It returns, at the end of ctx at the latest, what could not be moved; it may be called again.
func (o *Operator) Drain(ctx context.Context, node string, parallel int, tell func(Moved)) error {
	if _, err := o.cluster.Node(node); err != nil {
		return err
	}
	if err := o.mustKnow(ctx); err != nil {
		return err
	}
	volumes, err := o.Volumes(ctx)
	if err != nil {
		return err
	}
	d := &drain{Operator: o, node: node, coming: map[string]int{}}
	moves := planDrain(volumes, node, o.Look(ctx), d.coming)
	slots := make(chan struct{}, max(1, parallel))
	var wg sync.WaitGroup
	var errs []error
	done := 0
	for _, m := range moves {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			m = d.move(ctx, m)
			d.mu.Lock()
			defer d.mu.Unlock()
			if done++; m.Err != nil {
				errs = append(errs, fmt.Errorf("volume %s (%s): %w", m.Volume.ID, m.Volume.Name, m.Err))
			}
			tell(Moved{PlannedMove: m, Done: done, Of: len(moves)})
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// drain is one Drain under way.
type drain struct {
	*Operator
	node string

	mu     sync.Mutex
	coming map[string]int
}

// move moves one volume, and plans again until ctx ends while something passing is in the way.
func (d *drain) move(ctx context.Context, m PlannedMove) PlannedMove {
	ticker := d.clock.NewTicker(timeouts.WatchInterval)
	defer ticker.Stop()
	for {
		if m.Err == nil {
			_, m.Err = d.Move(ctx, m.Volume.ID, m.To)
		}
		if m.Err == nil {
			m.Err = d.Await(ctx, m.Volume.ID, m.To, func(*volume.Volume, Stage) {})
			return m
		}
		if !errors.Is(m.Err, volume.ErrBusy) {
			return m
		}
		select {
		case <-ticker.C():
		case <-ctx.Done():
			m.Err = errors.Join(m.Err, ctx.Err())
			return m
		}
		v, err := d.store.Get(ctx, m.Volume.ID)
		switch {
		case err != nil:
			m.Err = err
			return m
		case !runsOn(v, d.node):
			return PlannedMove{Volume: v, To: whereabouts(v)} // somebody else has moved it, or it isn't used any more
		}
		sight := d.lookAt(ctx, v.Nodes()...)
		d.mu.Lock()
		m = planDrain([]*volume.Volume{v}, d.node, sight, d.coming)[0]
		d.mu.Unlock()
	}
}

// whereabouts is a volume's raid host; "" if it runs nowhere.
func whereabouts(v *volume.Volume) string {
	if v.Assembly == nil {
		return ""
	}
	return v.Assembly.RaidHost
}

// Remains is what would be lost, or be missed for a while, if an SPDK node were stopped now.
type Remains struct {
	// Running are the volumes in use that have their raid host there.
	Running []*volume.Volume
	// LastCopies are the volumes whose only good replica is there: they would stop.
	LastCopies []*volume.Volume
	// AtRisk are those that would go on with one good replica, of more that were asked for.
	AtRisk []*volume.Volume
	// Unstaged are the volumes that run there although no node service has them staged: another raid host is chosen for them.
	Unstaged []*volume.Volume
	// Replicas counts the good replicas there: those of volumes in use miss writes while the node is down and are rebuilt after.
	Replicas int
	// Standbys counts the assemblies kept ready there: they are made anew elsewhere.
	Standbys int
}

// MayStop says that no volume would stop, or lose its raid host.
func (r Remains) MayStop() bool { return len(r.Running) == 0 && len(r.LastCopies) == 0 }

// RemainsOn says what is on an SPDK node.
func RemainsOn(volumes []*volume.Volume, node string, s condition.Sight) Remains {
	var r Remains
	for _, v := range volumes {
		if v.Phase != volume.PhaseReady {
			continue
		}
		switch a := v.Assembly; {
		case a == nil || a.Stopping || a.RaidHost != node:
		case v.Owner != "":
			r.Running = append(r.Running, v)
		default:
			r.Unstaged = append(r.Unstaged, v)
		}
		if v.Standby != nil && v.Standby.RaidHost == node {
			r.Standbys++
		}
		here, elsewhere := 0, 0
		for _, replica := range v.InState(volume.ReplicaInSync) {
			leg, _ := s.Leg(v, replica)
			switch {
			case replica.Node == node:
				here++
			case leg == condition.LegMember || s.Err(replica.Node) == nil:
				elsewhere++
			}
		}
		r.Replicas += here
		switch {
		case here > 0 && elsewhere == 0:
			r.LastCopies = append(r.LastCopies, v)
		case here > 0 && elsewhere == 1:
			r.AtRisk = append(r.AtRisk, v)
		}
	}
	return r
}

// Remains looks at what is on an SPDK node.
func (o *Operator) Remains(ctx context.Context, node string) (Remains, error) {
	if err := o.mustKnow(ctx); err != nil {
		return Remains{}, err
	}
	volumes, err := o.Volumes(ctx)
	if err != nil {
		return Remains{}, err
	}
	return RemainsOn(volumes, node, o.Look(ctx)), nil
}
