package converge

import (
	"context"
	"fmt"
	"slices"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// CheckKey says whether the configuration has the key that a volume's parameters name. The error wraps volume.ErrNoKey.
func (c *Cluster) CheckKey(p volume.Parameters) error {
	if _, ok := c.Secrets[p.ReplicaKey]; p.ReplicaKey != "" && !ok {
		return fmt.Errorf("%w: %s=%s; have the configuration file name it in replicaKeys, of the controller and of every node service", volume.ErrNoKey, volume.ParamReplicaKey, p.ReplicaKey)
	}
	return nil
}

// keysOf are the keys of a replica and a raid host, by names of one end.
func (c *Cluster) keysOf(v *volume.Volume, r volume.Replica, raidHost, hostName, controllerName string) (spdk.Keys, error) {
	if err := c.CheckKey(v.Parameters); err != nil {
		return spdk.Keys{}, err
	}
	host, controller, err := v.LegKeys(c.Secrets[v.Parameters.ReplicaKey], r, raidHost)
	if err != nil {
		return spdk.Keys{}, err
	}
	return spdk.Keys{Host: spdk.NewKey(hostName, host), Controller: spdk.NewKey(controllerName, controller)}, nil
}

// legKeys are the keys with which a raid host attaches a replica.
func (c *Cluster) legKeys(v *volume.Volume, r volume.Replica, raidHost string) (spdk.Keys, error) {
	if v.Parameters.ReplicaKey == "" {
		return spdk.Keys{}, nil
	}
	host, controller := v.LegKeyNames(r)
	return c.keysOf(v, r, raidHost, host, controller)
}

// exportReplica exports a replica to its raid hosts, with the keys that each has to have.
func (c *Converger) exportReplica(ctx context.Context, v *volume.Volume, r volume.Replica, node *Node) error {
	e := replicaExport(v, r, node)
	if v.Parameters.ReplicaKey != "" {
		e.HostKeys = map[string]spdk.Keys{}
		for _, a := range v.Running() {
			if !slices.Contains(a.Legs, r.ID) {
				continue
			}
			host, controller := v.ReplicaKeyNames(r, a.RaidHost)
			keys, err := c.cluster.keysOf(v, r, a.RaidHost, host, controller)
			if err != nil {
				return err
			}
			e.HostKeys[volume.SPDKHostNQN(a.RaidHost)] = keys
		}
	}
	return node.Export(ctx, e)
}

// detachLeg detaches a leg, its keys first: nothing looks for what is left of them once it is gone.
func detachLeg(ctx context.Context, v *volume.Volume, r volume.Replica, node *Node) error {
	if v.Parameters.ReplicaKey != "" {
		if err := node.DropKeys(ctx, v.LegKeyPrefix(r)); err != nil {
			return err
		}
	}
	return node.DetachLeg(ctx, v.LegController(r))
}

// dropReplicaKeys drops the keys of a replica that is exported no more and about to be deleted.
func dropReplicaKeys(ctx context.Context, v *volume.Volume, r volume.Replica, node *Node) error {
	if v.Parameters.ReplicaKey == "" {
		return nil
	}
	return node.DropKeys(ctx, v.ReplicaKeyPrefix(r))
}
