package controller

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// sizeUnit is what volume sizes are a multiple of: SPDK's default cluster size.
const sizeUnit = 4 << 20

// place chooses lvstores for as many replicas as are missing to the number that the parameters ask for, puts them into v as
// planned and enters them in the ledger. Replicas of a volume are on different nodes always and in different zones where there
// are enough; among equals the lvstore with the most room wins. Nodes in avoid are left out.
func (s *Server) place(ctx context.Context, v *volume.Volume, avoid map[string]bool) error {
	pools, down := s.inventory.pools(ctx, v.Parameters)
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	nodes, zones := map[string]bool{}, map[string]bool{}
	missing := v.Parameters.Replicas
	for _, r := range v.Replicas {
		nodes[r.Node] = true
		if r.State == volume.ReplicaRemoving {
			continue
		}
		missing--
		if n, err := s.cluster.Node(r.Node); err == nil && n.Zone != "" {
			zones[n.Zone] = true
		}
	}
	for ; missing > 0; missing-- {
		best, room := pool{}, int64(-1)
		for _, p := range pools {
			if nodes[p.node.Name] || avoid[p.node.Name] {
				continue
			}
			free := s.ledger.roomLocked(p, v.Parameters.Thin)
			if free < v.SizeBytes || v.SizeBytes%p.ClusterBytes != 0 {
				continue
			}
			if better(p, free, best, room, zones) {
				best, room = p, free
			}
		}
		if room < 0 {
			return s.noPlace(v, pools, down)
		}
		nodes[best.node.Name] = true
		zones[best.node.Zone] = true
		v.Replicas = append(v.Replicas, volume.Replica{
			ID: newReplicaID(), Node: best.node.Name, LvStore: best.Name, State: volume.ReplicaPlanned, Since: s.clock.Now().UTC(),
		})
	}
	s.ledger.setLocked(v)
	return nil
}

// better says whether p with its room goes before the best so far: a zone not used yet first, then more room, then the name.
func better(p pool, free int64, best pool, room int64, zones map[string]bool) bool {
	if room < 0 {
		return true
	}
	if fresh, before := !zones[p.node.Zone], !zones[best.node.Zone]; fresh != before {
		return fresh
	}
	return cmp.Or(cmp.Compare(room, free), cmp.Compare(p.node.Name, best.node.Name), cmp.Compare(p.Name, best.Name)) < 0
}

// noPlace says why there is no place. While nodes don't answer, nothing is known to be full.
func (s *Server) noPlace(v *volume.Volume, pools []pool, down error) error {
	on := map[string]bool{}
	for _, p := range pools {
		on[p.node.Name] = true
	}
	what := fmt.Sprintf("place %d replicas of %d MiB on SPDK nodes of their own", v.Parameters.Replicas, v.SizeBytes>>20)
	switch {
	case down != nil:
		return fmt.Errorf("%s: not enough room on the %d nodes that answer: %w", what, len(on), down)
	case len(on) < v.Parameters.Replicas:
		return fmt.Errorf("%w: %s: only %d nodes match lvstore %q and nodeSelector %v; ask for fewer replicas or add nodes",
			volume.ErrNoSpace, what, len(on), v.Parameters.LvStore, v.Parameters.NodeSelector)
	}
	return fmt.Errorf("%w: %s: too few of the %d matching nodes have that much left (each lvstore may be promised %g times its size); add space or ask for less",
		volume.ErrNoSpace, what, len(on), s.ledger.overcommit)
}

// newReplicaID returns 8 random hexadecimal digits.
func newReplicaID() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // crypto/rand: never returns an error
	return hex.EncodeToString(b[:])
}

// capacity returns how large a new volume with these parameters can be, and how many bytes of such volumes there is room for.
func (s *Server) capacity(ctx context.Context, p volume.Parameters) (largest, total int64, err error) {
	pools, down := s.inventory.pools(ctx, p)
	if len(pools) == 0 && down != nil {
		return 0, 0, down
	}
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	perNode := map[string]int64{}
	rooms := map[string]int64{}
	for _, pl := range pools {
		free := s.ledger.roomLocked(pl, p.Thin) / sizeUnit * sizeUnit
		perNode[pl.node.Name] = max(perNode[pl.node.Name], free)
		rooms[pl.node.Name] += free
	}
	if len(perNode) < p.Replicas {
		return 0, 0, nil
	}
	var each, all []int64
	for name, free := range perNode {
		each, all = append(each, free), append(all, rooms[name])
	}
	slices.Sort(each)
	return each[len(each)-p.Replicas], replicated(all, int64(p.Replicas)), nil
}

// replicated returns the most that can be stored n times, each copy on a node of its own: the largest t for which the sum of
// min(room, t) reaches n*t.
func replicated(rooms []int64, n int64) int64 {
	low, high := int64(0), int64(0)
	for _, r := range rooms {
		high += r
	}
	high /= n
	for low < high {
		t := low + (high-low+1)/2
		sum := int64(0)
		for _, r := range rooms {
			sum += min(r, t)
		}
		if sum >= n*t {
			low = t
		} else {
			high = t - 1
		}
	}
	return low
}
