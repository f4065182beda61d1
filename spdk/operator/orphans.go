package operator

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Orphan is an lvol with a name of Holdfast's of which no record speaks.
type Orphan struct {
	Node    string `json:"node"`
	LvStore string `json:"lvstore"`
	Name    string `json:"name"`
	// SizeBytes is what it offers, AllocatedBytes what it holds of its lvstore.
	SizeBytes      int64 `json:"sizeBytes"`
	AllocatedBytes int64 `json:"allocatedBytes"`
}

// Orphans returns the lvols on SPDK nodes that answer of which no record speaks, and why other nodes could not be asked, by name. An lvol is
// put on record before it is made and taken off after it is gone; so the records are read between two looks, and an orphan is in both.
func (o *Operator) Orphans(ctx context.Context) (orphans []Orphan, silent map[string]error, err error) {
	if err := o.mustAsk(); err != nil {
		return nil, nil, err
	}
	before, _ := o.lvols(ctx)
	volumes, err := o.Volumes(ctx)
	if err != nil {
		return nil, nil, err
	}
	snapshots, err := o.Snapshots(ctx)
	if err != nil {
		return nil, nil, err
	}
	named := volume.NamedLvols(volumes, snapshots)
	after, silent := o.lvols(ctx)
	for node, lvols := range after {
		for _, l := range lvols {
			there := slices.ContainsFunc(before[node], func(b spdk.Lvol) bool { return b.LvStore == l.LvStore && b.Name == l.Name })
			if there && named.Orphan(node, l.LvStore, l.Name) {
				orphans = append(orphans, Orphan{Node: node, LvStore: l.LvStore, Name: l.Name, SizeBytes: l.SizeBytes, AllocatedBytes: l.AllocatedBytes})
			}
		}
	}
	slices.SortFunc(orphans, func(a, b Orphan) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.LvStore, b.LvStore), cmp.Compare(a.Name, b.Name))
	})
	return orphans, silent, nil
}

// lvols lists the lvols of all nodes side by side, and why some don't answer.
func (o *Operator) lvols(ctx context.Context) (found map[string][]spdk.Lvol, silent map[string]error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	found, silent = map[string][]spdk.Lvol{}, map[string]error{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, node := range o.cluster.Nodes() {
		wg.Go(func() {
			lvols, err := node.Lvols(ctx)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent[node.Name] = err
				return
			}
			found[node.Name] = lvols
		})
	}
	wg.Wait()
	return found, silent
}
