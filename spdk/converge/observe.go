package converge

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// scope says what of a volume can be on one SPDK node, and so what is looked at.
type scope struct {
	replicas []volume.Replica
	raidHost bool
}

// scopes lists the nodes that a record names.
func scopes(v *volume.Volume) map[string]*scope {
	found := map[string]*scope{}
	at := func(node string) *scope {
		if found[node] == nil {
			found[node] = &scope{}
		}
		return found[node]
	}
	for _, r := range v.Replicas {
		s := at(r.Node)
		s.replicas = append(s.replicas, r)
	}
	if v.Assembly != nil {
		at(v.Assembly.RaidHost).raidHost = true
	}
	if v.Standby != nil {
		at(v.Standby.RaidHost).raidHost = true
	}
	for _, a := range v.Retired {
		at(a.RaidHost).raidHost = true
	}
	return found
}

// Observe reads what the SPDK nodes have of a volume, all nodes side by side. A node that doesn't answer is in the result with
// its error; the call itself doesn't fail.
// Nodes in down are not asked.
func (c *Converger) Observe(ctx context.Context, v *volume.Volume, down ...string) volume.Observed {
	return c.observe(ctx, v, unasked(down))
}

// unasked are nodes that the caller knows not to answer.
func unasked(down []string) map[string]volume.NodeView {
	silent := map[string]volume.NodeView{}
	for _, node := range down {
		silent[node] = volume.NodeView{Err: errNotAsked}
	}
	return silent
}

// observe does not ask the nodes in silent, and enters those that don't answer.
func (c *Converger) observe(ctx context.Context, v *volume.Volume, silent map[string]volume.NodeView) volume.Observed {
	seen, found := volume.Observed{Nodes: maps.Clone(silent)}, map[string]volume.NodeView{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, s := range scopes(v) {
		if _, known := seen.Nodes[name]; known {
			continue
		}
		wg.Go(func() {
			view, err := c.observeNode(ctx, v, name, *s)
			if err != nil {
				view = volume.NodeView{Err: err}
			}
			mu.Lock()
			defer mu.Unlock()
			found[name] = view
		})
	}
	wg.Wait()
	for name, view := range found {
		seen.Nodes[name] = view
		if view.Err != nil {
			silent[name] = view
		}
	}
	return seen
}

func (c *Converger) observeNode(ctx context.Context, v *volume.Volume, name string, s scope) (volume.NodeView, error) {
	node, err := c.cluster.Node(name)
	if err != nil {
		return volume.NodeView{}, err
	}
	view := volume.NodeView{Replicas: map[string]volume.ReplicaView{}, Legs: map[string]volume.LegView{}}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	for _, r := range s.replicas {
		group.Go(func() error {
			seen, exists, err := observeReplica(ctx, node, v, r)
			if err != nil || !exists {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			view.Replicas[r.ID] = seen
			return nil
		})
	}
	if s.raidHost {
		group.Go(func() (err error) {
			view.Target, err = observeTarget(ctx, node, v)
			return err
		})
		group.Go(func() (err error) {
			view.Raid, err = observeRaid(ctx, node, v)
			return err
		})
		group.Go(func() error {
			legs, err := observeLegs(ctx, node, v)
			view.Legs = legs
			return err
		})
	}
	return view, group.Wait()
}

// observeReplica looks at the lvol and, where the volume has ever been assembled, at its export.
func observeReplica(ctx context.Context, node *Node, v *volume.Volume, r volume.Replica) (volume.ReplicaView, bool, error) {
	size, err := node.LvolBytes(ctx, r.LvStore, v.LvolName(r))
	exists := err == nil
	if err != nil && !errors.Is(err, spdk.ErrNotFound) {
		return volume.ReplicaView{}, false, err
	}
	view := volume.ReplicaView{SizeBytes: size}
	if exists {
		if view.Unfinished, err = unfinished(ctx, node, v, r); err != nil {
			return volume.ReplicaView{}, false, err
		}
	}
	if v.Assemblies == 0 {
		return view, exists, nil
	}
	export, err := node.Exported(ctx, v.ReplicaNQN(r))
	switch {
	case errors.Is(err, spdk.ErrNotFound):
		return view, exists, nil
	case err != nil:
		return volume.ReplicaView{}, false, err
	}
	view.ExportBegun = true
	view.Exported = exists && complete(export, node)
	view.Hosts = slices.Sorted(slices.Values(export.Hosts))
	return view, true, nil
}

func observeTarget(ctx context.Context, node *Node, v *volume.Volume) (*volume.TargetView, error) {
	export, err := node.Exported(ctx, v.NQN())
	if errors.Is(err, spdk.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	view := &volume.TargetView{Complete: complete(export, node), Hosts: slices.Sorted(slices.Values(export.Hosts))}
	if !view.Complete {
		return view, nil
	}
	state, err := node.ANAState(ctx, v.NQN(), node.NVMf)
	if err != nil && !errors.Is(err, spdk.ErrNotFound) {
		return nil, err
	}
	view.Held = state == spdk.ANAInaccessible
	return view, nil
}

// complete says whether a subsystem has its namespace and listens; the listener comes last.
func complete(e spdk.Export, node *Node) bool { return e.Bdev != "" && e.Listen == node.NVMf }

func observeRaid(ctx context.Context, node *Node, v *volume.Volume) (*volume.RaidView, error) {
	raid, err := node.Raid(ctx, v.RaidName())
	if errors.Is(err, spdk.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	view := &volume.RaidView{
		Online: raid.State == spdk.RaidOnline && !raid.Unfinished(), SizeBytes: raid.SizeBytes, Slots: len(raid.Slots), Limits: limitsSeen(raid.Limits),
	}
	for _, slot := range raid.Slots {
		if id, ok := v.ReplicaOf(slot.Bdev); ok {
			view.Legs = append(view.Legs, id)
		}
	}
	return view, nil
}

func observeLegs(ctx context.Context, node *Node, v *volume.Volume) (map[string]volume.LegView, error) {
	legs := map[string]volume.LegView{}
	for _, r := range v.Replicas {
		leg, err := node.Leg(ctx, v.LegController(r))
		switch {
		case errors.Is(err, spdk.ErrNotFound):
		case err != nil:
			return nil, err
		default:
			legs[r.ID] = volume.LegView{Bdev: leg.Bdev, Refused: leg.State == spdk.LegReconnectIsDelayed}
		}
	}
	return legs, nil
}
