package controller

import (
	"context"
	"slices"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// capacity returns how large a new volume with these parameters can be, and how many bytes of such volumes there is room for, on nodes
// that hold their budgets. Of volumes that may be used from their replicas' zones only it counts those that have a replica in a zone, if
// one is given.
func (s *Server) capacity(ctx context.Context, p volume.Parameters, zone string) (largest, total int64, err error) {
	pools, _, down := s.open(ctx, p)
	if len(pools) == 0 && down != nil {
		return 0, 0, down
	}
	if p.Access != volume.AccessZone {
		zone = ""
	}
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	nodes := map[string]*nodeRoom{}
	for _, pl := range allowedIn(pools, p.Access, volume.Near{}) {
		if pl.inForce.Joins(p.Budgets) != nil {
			continue
		}
		n := nodes[pl.node.Name]
		if n == nil {
			n = &nodeRoom{inZone: zone == "" || pl.node.Zone == zone}
			nodes[pl.node.Name] = n
		}
		free := s.ledger.roomLocked(pl, p.Thin) / sizeUnit * sizeUnit
		n.largest, n.all = max(n.largest, free), n.all+free
	}
	largest, total = roomFor(nodes, p.Replicas)
	header := p.HeaderBytes() // what one volume keeps of it: of how many there will be nothing is known
	return max(0, largest-header), max(0, total-header), nil
}

// nodeRoom is the room of a node: its largest lvstore's, and that of all of them.
type nodeRoom struct {
	largest, all int64
	// inZone: a volume's first replica can be here.
	inZone bool
}

// roomFor returns the largest volume whose replicas find places on nodes of their own, one of them in the zone, and how many bytes of
// such volumes do.
func roomFor(nodes map[string]*nodeRoom, replicas int) (largest, total int64) {
	var first, others, all []int64
	var inZone int64
	for _, n := range nodes {
		all = append(all, n.all)
		if n.inZone {
			first, inZone = append(first, n.largest), inZone+n.all
		} else {
			others = append(others, n.largest)
		}
	}
	if len(all) < replicas || len(first) == 0 {
		return 0, 0
	}
	slices.Sort(first)
	best := first[len(first)-1]
	others = append(others, first[:len(first)-1]...)
	slices.Sort(others)
	largest = best
	if replicas > 1 {
		largest = min(best, others[len(others)-replicas+1])
	}
	return largest, min(inZone, replicated(all, int64(replicas)))
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
