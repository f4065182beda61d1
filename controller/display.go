package controller

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/condition"
)

// Display shows people how volumes and SPDK nodes are. It is shown a whole picture again and again.
type Display interface {
	Show(ctx context.Context, p condition.Picture) error
}

// show has the display show everything as it is now.
func (s *Server) show(ctx context.Context, limit time.Duration) error {
	if s.display == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	sight, err := s.look(ctx)
	if err != nil {
		return err
	}
	volumes, err := s.store.List(ctx, "", 0)
	if err != nil {
		return fmt.Errorf("read the records of all volumes: %w", err)
	}
	return s.display.Show(ctx, condition.Picture{Volumes: volumes, Sight: sight, Nodes: s.inventory.picture(ctx, sight)})
}

// picture returns the nodes, those that answer with their lvstores.
func (inv *inventory) picture(ctx context.Context, sight condition.Sight) []condition.NodePicture {
	var nodes []condition.NodePicture
	for _, st := range inv.nodes {
		n := condition.NodePicture{Node: st.node}
		if sight.Err(st.node.Name) == nil {
			if lvstores, err := st.look(ctx, inv.clock); err == nil {
				n.LvStores = slices.DeleteFunc(slices.Clone(lvstores), func(l spdk.LvStore) bool { return !st.node.MayUse(l.Name) })
			}
		}
		nodes = append(nodes, n)
	}
	return nodes
}
