// Package condition says how volumes are, in words for the person on call: from a volume's record and from what was seen of the SPDK
// nodes. It is the one source of what the commands show and of what the CSI services report. It asks nodes, and changes nothing.
package condition

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Sight is what the SPDK nodes were seen to run, by name. A node that is not in it was not asked.
type Sight map[string]NodeSight

// NodeSight is one node. Err says that it does not answer, or is not in the configuration; then the rest says nothing.
type NodeSight struct {
	Err    error
	Health spdk.Health
	// Cordoned: an operator wants nothing new there.
	Cordoned bool
	// Stock is what lvols it has; nil if that was not asked.
	Stock *Stock
	// Pools are its lvstores by name; nil if that was not asked.
	Pools map[string]Pool
}

// Stock is what lvols a node had at a time.
type Stock struct {
	At time.Time
	// LvStores are the loaded lvstores by name, Lvols the lvols as "lvstore/name".
	LvStores, Lvols map[string]bool
}

// Look asks nodes of a cluster side by side for what they run and how full their lvstores are, with three calls each. What it can't learn before ctx ends is in the result
// as an error.
func Look(ctx context.Context, cluster *converge.Cluster, names ...string) Sight {
	var mu sync.Mutex
	var wg sync.WaitGroup
	sight := Sight{}
	for _, name := range names {
		wg.Go(func() {
			var seen NodeSight
			node, err := cluster.Node(name)
			if err == nil {
				seen.Health, err = node.Health(ctx)
			}
			if err == nil {
				seen.Pools, err = pools(ctx, node)
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

// Problem is Err in a few words; "" if the node answers.
func (s Sight) Problem(node string) string {
	switch err := s.Err(node); {
	case errors.Is(err, volume.ErrNodeUnknown):
		return node + " is not in the configuration"
	case err != nil:
		return node + " does not answer"
	}
	return ""
}

// absent says what is missing of a replica's lvol on a node that answers: the lvol alone, or its whole lvstore, as when a disk is gone or not
// attached yet. "" is nothing, as far as is known: a look from before the replica came to be what it is says nothing.
func (s Sight) absent(v *volume.Volume, r volume.Replica) (what string, lvstoreLoaded bool) {
	stock := s[r.Node].Stock
	switch {
	case s.Err(r.Node) != nil || stock == nil || !stock.At.After(r.Since) || stock.Lvols[r.LvStore+"/"+v.LvolName(r)]:
		return "", true
	case stock.LvStores[r.LvStore]:
		return fmt.Sprintf("its lvol is not in lvstore %s", r.LvStore), true
	}
	return fmt.Sprintf("lvstore %s is not loaded on %s: its disk is gone, or not attached yet", r.LvStore, r.Node), false
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

// Raid returns the raid that a volume runs as; false if its raid host shows none.
func (s Sight) Raid(v *volume.Volume) (spdk.RaidState, bool) {
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

// Leg returns how the raid host of a running volume sees a replica, and how much of it is rebuilt, in percent.
func (s Sight) Leg(v *volume.Volume, r volume.Replica) (leg Leg, percent int) {
	raid, ok := s.Raid(v)
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
