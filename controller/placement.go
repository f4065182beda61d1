package controller

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// sizeUnit is what volume sizes are a multiple of: SPDK's default cluster size.
const sizeUnit = 4 << 20

// place chooses lvstores for as many replicas as are missing to the number that the parameters ask for, puts them into v as
// planned and enters them in the ledger. Replicas of a volume are on different nodes always and in different zones where there
// are enough, near where the volume is wanted; among equals the lvstore with the most room wins. Nodes in avoid are left out.
//
// A new volume goes only to nodes whose timeouts hold its budgets. A replica that is lost is replaced on another node rather than not
// at all.
func (s *Server) place(ctx context.Context, v *volume.Volume, avoid map[string]bool) error {
	pools, cordoned, down := s.open(ctx, v.Parameters)
	pools = allowedIn(pools, v.Parameters.Access, v.Near)
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	c := newCandidates(s, v, pools, avoid)
	for missing := v.Parameters.Replicas - c.placed; missing > 0; missing-- {
		best, broken := c.best()
		switch {
		case best == nil:
			return s.noPlace(v, pools, cordoned, down)
		case broken != nil && v.Phase == volume.PhaseCreating:
			return c.notHeld(down)
		case broken != nil:
			klog.FromContext(ctx).Error(broken, "Replica is placed where the volume's budgets don't hold: no other node has room", "volumeID", v.ID, "node", best.node.Name)
		}
		c.take(*best)
		v.Replicas = append(v.Replicas, volume.Replica{
			ID: newReplicaID(), Node: best.node.Name, LvStore: best.Name, State: volume.ReplicaPlanned, Since: s.clock.Now().UTC(),
		})
	}
	s.ledger.setLocked(v)
	return nil
}

// candidates are the lvstores where replicas of a volume can go.
type candidates struct {
	v     *volume.Volume
	pools []pool
	room  map[place]int64
	// nodes and zones are those that are taken, placed how many replicas are, and beside what their nodes have in force.
	nodes, zones map[string]bool
	placed       int
	beside       []timeouts.InForce
}

// newCandidates leaves out lvstores without room and nodes to avoid. The caller holds the ledger.
func newCandidates(s *Server, v *volume.Volume, pools []pool, avoid map[string]bool) *candidates {
	c := &candidates{v: v, room: map[place]int64{}, nodes: map[string]bool{}, zones: map[string]bool{}}
	for _, r := range v.Replicas {
		c.nodes[r.Node] = true
		if r.State == volume.ReplicaRemoving {
			continue
		}
		c.placed++
		if n, err := s.cluster.Node(r.Node); err == nil && n.Zone != "" {
			c.zones[n.Zone] = true
		}
		if i := slices.IndexFunc(pools, func(p pool) bool { return p.node.Name == r.Node }); i >= 0 {
			c.beside = append(c.beside, pools[i].inForce)
		}
	}
	for _, p := range pools {
		room := s.ledger.roomLocked(p, v.Parameters.Thin)
		if room < v.SizeBytes || v.SizeBytes%p.ClusterBytes != 0 || avoid[p.node.Name] {
			continue
		}
		c.pools, c.room[place{p.node.Name, p.Name}] = append(c.pools, p), room
	}
	return c
}

// best returns the lvstore for the next replica, nil if there is none; broken says why it doesn't hold the volume's budgets, nil if it
// does. One that holds them goes before all that don't.
func (c *candidates) best() (best *pool, broken error) {
	for _, p := range c.pools {
		if c.nodes[p.node.Name] {
			continue
		}
		err := p.inForce.Joins(c.v.Parameters.Budgets, c.beside...)
		if best == nil || err == nil && broken != nil || (err == nil) == (broken == nil) && c.better(p, *best) {
			best, broken = &p, err
		}
	}
	return best, broken
}

// better says whether p goes before q: a zone not used yet first, then what is nearer to where the volume is wanted, then more room, then
// the name.
func (c *candidates) better(p, q pool) bool {
	if fresh, other := !c.zones[p.node.Zone], !c.zones[q.node.Zone]; fresh != other {
		return fresh
	}
	first := len(c.nodes) == 0
	if near, far := distance(c.v.Near, p.node, first), distance(c.v.Near, q.node, first); near != far {
		return near < far
	}
	room := func(p pool) int64 { return c.room[place{p.node.Name, p.Name}] }
	return cmp.Or(cmp.Compare(room(q), room(p)), cmp.Compare(p.node.Name, q.node.Name), cmp.Compare(p.Name, q.Name)) < 0
}

func (c *candidates) take(p pool) {
	c.nodes[p.node.Name], c.zones[p.node.Zone] = true, true
	c.beside = append(c.beside, p.inForce)
}

// notHeld says which nodes with room for another replica don't hold the budgets. While others don't answer, those may.
func (c *candidates) notHeld(down error) error {
	reasons := map[string]error{}
	for _, p := range c.pools {
		if !c.nodes[p.node.Name] {
			reasons[p.node.Name] = p.inForce.Joins(c.v.Parameters.Budgets, c.beside...)
		}
	}
	e := &budgetError{replicas: c.v.Parameters.Replicas, budget: c.v.Parameters.Budgets.ReplicaStall}
	for _, name := range slices.Sorted(maps.Keys(reasons)) {
		e.reasons = append(e.reasons, reasons[name])
	}
	if down != nil {
		return fmt.Errorf("%s; and of the others: %w", e.Error(), down)
	}
	return e
}

// budgetError says that too few SPDK nodes run with timeouts under which a new volume's budgets hold. It is a volume.ErrPrecondition.
type budgetError struct {
	replicas int
	budget   time.Duration
	reasons  []error
}

func (e *budgetError) Error() string {
	reasons := make([]string, 0, len(e.reasons))
	for _, reason := range e.reasons {
		reasons = append(reasons, reason.Error())
	}
	return fmt.Sprintf("too few SPDK nodes with room hold %s %s for %d replicas: %s",
		volume.ParamReplicaStallBudget, e.budget, e.replicas, strings.Join(reasons, "; "))
}

// Is makes a budgetError a volume.ErrPrecondition.
func (e *budgetError) Is(target error) bool { return target == volume.ErrPrecondition }

// Unwrap returns why each node doesn't hold them.
func (e *budgetError) Unwrap() []error { return e.reasons }

// noPlace says why there is no place. While nodes don't answer, nothing is known to be full.
func (s *Server) noPlace(v *volume.Volume, pools []pool, cordoned []string, down error) error {
	on := map[string]bool{}
	for _, p := range pools {
		on[p.node.Name] = true
	}
	what := fmt.Sprintf("place %d replicas of %d MiB on SPDK nodes of their own", v.Parameters.Replicas, v.SizeBytes>>20)
	switch {
	case down != nil:
		return fmt.Errorf("%s: not enough room on the %d nodes that answer: %w", what, len(on), down)
	case len(on) < v.Parameters.Replicas:
		return fmt.Errorf("%w: %s: only %d nodes match lvstore %q and nodeSelector %v%s; ask for fewer replicas or add nodes",
			volume.ErrNoSpace, what, len(on), v.Parameters.LvStore, v.Parameters.NodeSelector, zonesAllowed(v)+besides(cordoned))
	}
	return fmt.Errorf("%w: %s: too few of the %d matching nodes%s have that much left (each lvstore may be promised %g times its size); add space or ask for less",
		volume.ErrNoSpace, what, len(on), besides(cordoned), s.ledger.overcommit)
}

// newReplicaID returns 8 random hexadecimal digits.
func newReplicaID() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // crypto/rand: never returns an error
	return hex.EncodeToString(b[:])
}
