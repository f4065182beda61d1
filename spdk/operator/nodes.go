package operator

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// NodeSummary is an SPDK node in a line.
type NodeSummary struct {
	Name string `json:"name"`
	// NVMf is IP:port of its NVMe/TCP target, Host the CSI node on its machine. Both are empty, and so is Zone, for a node that records
	// name and the configuration doesn't.
	NVMf string `json:"nvmf,omitempty"`
	Host string `json:"host,omitempty"`
	Zone string `json:"zone,omitempty"`
	// Cordoned: it gets no new replica, raid host or standby.
	Cordoned bool `json:"cordoned,omitempty"`
	// Problem says why it doesn't answer; "" if it does, and then Version is SPDK's and the sizes are those of its lvstores.
	Problem   string `json:"problem,omitempty"`
	Version   string `json:"version,omitempty"`
	FreeBytes int64  `json:"freeBytes"`
	SizeBytes int64  `json:"sizeBytes"`
	// What the records have there: volumes that run, standbys, former assemblies, replicas, and how many of those are not in-sync.
	Running   int `json:"running"`
	Standbys  int `json:"standbys"`
	Retired   int `json:"retired"`
	Replicas  int `json:"replicas"`
	NotInSync int `json:"notInSync"`
}

// Nodes returns all nodes of the configuration, then those that only records name, each in the order of their names.
func (o *Operator) Nodes(ctx context.Context) ([]NodeSummary, error) {
	volumes, err := o.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	return o.nodesOf(ctx, volumes)
}

func (o *Operator) nodesOf(ctx context.Context, volumes []*volume.Volume) ([]NodeSummary, error) {
	cordoned, err := o.store.Cordoned(ctx)
	if err != nil {
		return nil, err
	}
	names := o.cluster.Names()
	var strangers []string
	for _, v := range volumes {
		for _, name := range v.Nodes() {
			if !slices.Contains(names, name) && !slices.Contains(strangers, name) {
				strangers = append(strangers, name)
			}
		}
	}
	slices.Sort(strangers)
	names = append(names, strangers...)
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	ask := o.ask
	if o.reports != nil {
		report, err := o.reports.Report(ctx)
		if err != nil {
			return nil, err
		}
		ask = func(_ context.Context, n *NodeSummary) error { return n.tell(report) }
	}
	nodes := make([]NodeSummary, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		nodes[i] = NodeSummary{Name: name, Cordoned: slices.Contains(cordoned, name)}
		nodes[i].count(volumes)
		wg.Go(func() {
			if err := ask(ctx, &nodes[i]); err != nil {
				nodes[i].Problem = err.Error()
			}
		})
	}
	wg.Wait()
	return nodes, nil
}

// tell enters what was told of a node.
func (n *NodeSummary) tell(r condition.Report) error {
	told, known := r.Nodes[n.Name]
	if !known {
		return r.Sight(nil).Err(n.Name)
	}
	n.NVMf, n.Host, n.Zone = told.NVMf, told.Host, told.Zone
	for _, p := range told.Pools {
		n.FreeBytes += p.FreeBytes
		n.SizeBytes += p.TotalBytes
	}
	if told.Silent != "" {
		return errors.New(told.Silent)
	}
	return nil
}

// ask reads what a node says of itself.
func (o *Operator) ask(ctx context.Context, n *NodeSummary) error {
	node, err := o.cluster.Node(n.Name)
	if err != nil {
		return err
	}
	n.NVMf, n.Host, n.Zone = node.NVMf.String(), node.Host, node.Zone
	if n.Version, err = node.Version(ctx); err != nil {
		return err
	}
	lvstores, err := node.LvStores(ctx)
	if err != nil {
		return err
	}
	for _, s := range lvstores {
		if node.MayUse(s.Name) {
			n.FreeBytes += s.FreeBytes
			n.SizeBytes += s.TotalBytes
		}
	}
	return nil
}

// count enters what the records have on a node.
func (n *NodeSummary) count(volumes []*volume.Volume) {
	for _, v := range volumes {
		if v.Assembly != nil && v.Assembly.RaidHost == n.Name {
			n.Running++
		}
		if v.Standby != nil && v.Standby.RaidHost == n.Name {
			n.Standbys++
		}
		for _, a := range v.Retired {
			if a.RaidHost == n.Name {
				n.Retired++
			}
		}
		for _, r := range v.Replicas {
			if r.Node != n.Name {
				continue
			}
			n.Replicas++
			if r.State != volume.ReplicaInSync {
				n.NotInSync++
			}
		}
	}
}

// Cordon keeps new replicas, raid hosts and standbys away from an SPDK node of the configuration, or lets them come again. What is there stays.
func (o *Operator) Cordon(ctx context.Context, node string, cordoned bool) error {
	if _, err := o.cluster.Node(node); err != nil && cordoned {
		return err
	}
	return o.store.SetCordon(ctx, node, cordoned)
}
