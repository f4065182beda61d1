package cluster

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// Cordons keeps in memory which SPDK nodes are cordoned. The zero value is none.
type Cordons struct {
	mu    sync.Mutex
	nodes map[string]bool
}

// Cordoned implements volume.CordonStore.
func (c *Cordons) Cordoned(ctx context.Context) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Sorted(maps.Keys(c.nodes)), ctx.Err()
}

// SetCordon implements volume.CordonStore.
func (c *Cordons) SetCordon(ctx context.Context, node string, cordoned bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if c.nodes == nil {
		c.nodes = map[string]bool{}
	}
	c.nodes[node] = true
	if !cordoned {
		delete(c.nodes, node)
	}
	return nil
}
