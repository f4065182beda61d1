// Package operator owns what a person asks of the cluster and changes in it by hand: how volumes and SPDK nodes are, moving a volume,
// draining a node, and the decisions that the driver never takes on its own, to use a replica that has missed writes, and to give up
// what will never return.
//
// What may be done is decided by pure functions of the record and of what was seen. Every change of a record is compare-and-swap and
// decided anew on the record that it is written to. The work that follows from it is the node service's and the controller's.
package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// lookTimeout bounds one look at an SPDK node: a person waits for it.
const lookTimeout = 5 * time.Second

// Sentinels of what an operator asks for, beside those of package volume.
var (
	// ErrRefused: what was asked for would do harm, or can't be done as things are.
	ErrRefused = errors.New("refused")
	// ErrLastCopy: no in-sync replica of a volume would be left on record.
	ErrLastCopy = errors.New("last copy")
)

// Operator looks at volumes and SPDK nodes, and changes records.
type Operator struct {
	store   volume.Store
	cluster *converge.Cluster
	clock   clock.WithTicker
}

// New returns an Operator for the volumes of a store on the nodes of a cluster.
func New(store volume.Store, cluster *converge.Cluster, c clock.WithTicker) *Operator {
	return &Operator{store: store, cluster: cluster, clock: c}
}

// Find returns the record of the volume with that ID, or with that name if there is none. Neither is volume.ErrNotFound.
func (o *Operator) Find(ctx context.Context, idOrName string) (*volume.Volume, error) {
	for _, id := range []string{idOrName, volume.IDFor(idOrName)} {
		if !volume.ValidID(id) {
			continue
		}
		v, err := o.store.Get(ctx, id)
		if !errors.Is(err, volume.ErrNotFound) {
			return v, err
		}
	}
	return nil, fmt.Errorf("%w: %q is neither the ID nor the name of a volume on record; \"holdfast volume list\" shows them", volume.ErrNotFound, idOrName)
}

// Volumes returns the records of all volumes in the order of their names.
func (o *Operator) Volumes(ctx context.Context) ([]*volume.Volume, error) {
	volumes, err := o.store.List(ctx, "", 0)
	if err != nil {
		return nil, fmt.Errorf("read the records of all volumes: %w", err)
	}
	slices.SortFunc(volumes, func(a, b *volume.Volume) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return volumes, nil
}

// Sight is what the SPDK nodes were seen to run, by name. A node that is not in it was not asked.
type Sight map[string]NodeSight

// NodeSight is one node. Err says that it does not answer, or is not in the configuration; then the rest says nothing.
type NodeSight struct {
	Err    error
	Health spdk.Health
}

// Look asks all nodes of the configuration side by side.
func (o *Operator) Look(ctx context.Context) Sight { return o.lookAt(ctx, o.cluster.Names()...) }

func (o *Operator) lookAt(ctx context.Context, names ...string) Sight {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	sight := Sight{}
	for _, name := range names {
		wg.Go(func() {
			var seen NodeSight
			node, err := o.cluster.Node(name)
			if err == nil {
				seen.Health, err = node.Health(ctx)
			}
			seen.Err = err
			mu.Lock()
			defer mu.Unlock()
			sight[name] = seen
		})
	}
	wg.Wait()
	return sight
}

// Err returns why a node can't be counted on: nil if it answers.
func (s Sight) Err(node string) error {
	seen, asked := s[node]
	switch {
	case !asked:
		return fmt.Errorf("%w: %q is not in the configuration", volume.ErrNodeUnknown, node)
	case seen.Err != nil:
		return fmt.Errorf("%w: %s: %w", volume.ErrNodeDown, node, seen.Err)
	}
	return nil
}

// problem is Err in a few words; "" if the node answers.
func (s Sight) problem(node string) string {
	switch err := s.Err(node); {
	case errors.Is(err, volume.ErrNodeUnknown):
		return node + " is not in the configuration"
	case err != nil:
		return node + " does not answer"
	}
	return ""
}

// Silent returns the nodes that don't answer, in the order of their names.
func (s Sight) Silent() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if s[name].Err != nil {
			names = append(names, name)
		}
	}
	return names
}

// raid returns the raid that a volume runs as; false if its raid host shows none.
func (s Sight) raid(v *volume.Volume) (spdk.RaidState, bool) {
	if v.Assembly == nil || s.Err(v.Assembly.RaidHost) != nil {
		return spdk.RaidState{}, false
	}
	raid, ok := s[v.Assembly.RaidHost].Health.Raids[v.RaidName()]
	return raid, ok
}

// Leg is how a raid host sees a replica.
type Leg string

// Legs.
const (
	// LegNone: the volume runs nowhere, its raid host does not answer, or its raid has no such leg.
	LegNone Leg = ""
	// LegMember: the raid writes to it and its connection stands.
	LegMember Leg = "member"
	// LegFailing: the raid writes to it, but its connection does not stand.
	LegFailing Leg = "failing"
	// LegRebuilding: the raid fills it.
	LegRebuilding Leg = "rebuilding"
)

// leg returns how the raid host of a running volume sees a replica, and how much of it is rebuilt, in percent.
func (s Sight) leg(v *volume.Volume, r volume.Replica) (leg Leg, percent int) {
	raid, ok := s.raid(v)
	controller := v.LegController(r)
	bdev := spdk.LegBdev(controller)
	switch {
	case !ok:
		return LegNone, 0
	case raid.Rebuild != nil && raid.Rebuild.Target == bdev:
		return LegRebuilding, raid.Rebuild.Percent
	case !raid.Holds(bdev):
		return LegNone, 0
	case s[v.Assembly.RaidHost].Health.Controllers[controller].State != spdk.LegEnabled:
		return LegFailing, 0
	}
	return LegMember, 0
}
