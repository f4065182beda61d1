// Package converge makes the SPDK nodes come to be as a volume's record wants them: it observes, asks volume.Plan what is to be
// done, does it, and looks again, until nothing is left. It writes no record: that is its caller's, who owns the volume.
package converge

import (
	"fmt"
	"maps"
	"slices"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Node is one SPDK node of the configuration.
type Node struct {
	*spdk.Node
	Name string
	// NVMf is where its NVMe/TCP target listens.
	NVMf spdk.Address
	// Host is the name of the CSI node on the same machine; "" if there is none.
	Host string
	// Zone is its failure domain; replicas of a volume go to different ones if they can.
	Zone string
	// Labels are what nodeSelector looks at.
	Labels map[string]string
	// OnlyLvStores restricts which lvstores are used; empty is all of them.
	OnlyLvStores []string
	// ClearMethod is how the clusters of deleted replicas are cleared.
	ClearMethod spdk.ClearMethod
}

// MayUse says whether an lvstore of the node may be used.
func (n *Node) MayUse(lvstore string) bool {
	return len(n.OnlyLvStores) == 0 || slices.Contains(n.OnlyLvStores, lvstore)
}

// Cluster is the SPDK nodes of the configuration, by name. It does not change while the process runs.
type Cluster struct {
	// Secrets are what keys of connections are derived from, by the names that volumes' parameters have.
	Secrets map[string]volume.Secret

	nodes map[string]*Node
}

// NewCluster returns the cluster of these nodes, whose names differ.
func NewCluster(nodes []*Node) *Cluster {
	c := &Cluster{nodes: map[string]*Node{}}
	for _, n := range nodes {
		c.nodes[n.Name] = n
	}
	return c
}

// Node returns a node, or volume.ErrNodeUnknown.
func (c *Cluster) Node(name string) (*Node, error) {
	if n, ok := c.nodes[name]; ok {
		return n, nil
	}
	return nil, fmt.Errorf("%w: %q (the configuration names %v)",
		volume.ErrNodeUnknown, name, c.Names())
}

// Names returns the names of all nodes in order.
func (c *Cluster) Names() []string { return slices.Sorted(maps.Keys(c.nodes)) }

// Nodes returns all nodes in the order of their names.
func (c *Cluster) Nodes() []*Node {
	nodes := make([]*Node, 0, len(c.nodes))
	for _, name := range c.Names() {
		nodes = append(nodes, c.nodes[name])
	}
	return nodes
}

// Zone returns the failure domain of a node; "" is none, or not known.
func (c *Cluster) Zone(name string) string {
	n, err := c.Node(name)
	if err != nil {
		return ""
	}
	return n.Zone
}
