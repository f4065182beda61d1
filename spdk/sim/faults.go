package sim

import (
	"fmt"
)

// SetDiskFault makes the disk under a pool misbehave, or, with the zero DiskFault,
// well again. It lasts over restarts.
func (n *Node) SetDiskFault(pool string, f DiskFault) error {
	d := n.disk(n.poolFile(pool))
	if d == nil {
		return fmt.Errorf("node %s has no pool %s", n.cfg.Name, pool)
	}
	d.setFault(f)
	return nil
}

// LimitPool makes a pool run out of space as soon as the given number of clusters
// is in use; a negative number takes the limit away.
func (n *Node) LimitPool(pool string, clusters int) error {
	d := n.disk(n.poolFile(pool))
	var s *lvolStore
	if p := n.process(); d != nil && p != nil {
		p.locked(func() { s = d.lvs.store })
	} else if d != nil {
		s = d.lvs.store
	}
	if s == nil {
		return fmt.Errorf("node %s has no lvol store on pool %s", n.cfg.Name, pool)
	}
	s.bs.setLimit(clusters)
	return nil
}
