package converge

import (
	"context"
	"fmt"
	"slices"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// CheckKey says whether the configuration has the keys that a volume's parameters name. The error wraps volume.ErrNoKey.
func (c *Cluster) CheckKey(p volume.Parameters) error {
	for parameter, name := range map[string]string{volume.ParamReplicaKey: p.ReplicaKey, volume.ParamHostKey: p.HostKey} {
		if name == "" {
			continue
		}
		if _, err := c.secret(parameter, name); err != nil {
			return err
		}
	}
	return nil
}

// secret is what the keys that a parameter asks for are derived from. The error wraps volume.ErrNoKey.
func (c *Cluster) secret(parameter, name string) (volume.Secret, error) {
	s, ok := c.Secrets[name]
	if !ok {
		return s, fmt.Errorf("%w: %s=%s; have the configuration file name it in replicaKeys, of the controller and of every node service", volume.ErrNoKey, parameter, name)
	}
	return s, nil
}

// keysOf are the keys of a replica and a raid host, by names of one end.
func (c *Cluster) keysOf(v *volume.Volume, r volume.Replica, raidHost, hostName, controllerName string) (spdk.Keys, error) {
	secret, err := c.secret(volume.ParamReplicaKey, v.Parameters.ReplicaKey)
	if err != nil {
		return spdk.Keys{}, err
	}
	host, controller, err := v.LegKeys(secret, r, raidHost)
	if err != nil {
		return spdk.Keys{}, err
	}
	return spdk.Keys{Host: spdk.NewKey(hostName, host), Controller: spdk.NewKey(controllerName, controller)}, nil
}

// HostKeys are the keys with which a volume's target and one of its hosts prove themselves to each other, by the names that raid hosts have for
// them; none if the volume asks for none.
func (c *Cluster) HostKeys(v *volume.Volume, hostNQN string) (spdk.Keys, error) {
	if v.Parameters.HostKey == "" {
		return spdk.Keys{}, nil
	}
	secret, err := c.secret(volume.ParamHostKey, v.Parameters.HostKey)
	if err != nil {
		return spdk.Keys{}, err
	}
	host, controller, err := v.HostKeys(secret, hostNQN)
	if err != nil {
		return spdk.Keys{}, err
	}
	hostName, controllerName := v.HostKeyNames(hostNQN)
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

// exportTarget exports the volume to its hosts, with the keys that each has to have. Unless former hosts may stay, their keys are dropped first:
// once those are off the target nothing looks for them.
func (c *Converger) exportTarget(ctx context.Context, v *volume.Volume, node *Node, keepHosts bool) error {
	e := targetExport(v, node)
	e.KeepHosts = keepHosts
	if v.Parameters.HostKey == "" {
		return node.Export(ctx, e)
	}
	e.HostKeys = map[string]spdk.Keys{}
	var names []string
	for _, host := range e.Hosts {
		keys, err := c.cluster.HostKeys(v, host)
		if err != nil {
			return err
		}
		e.HostKeys[host], names = keys, append(names, keys.Host.Name, keys.Controller.Name)
	}
	if !keepHosts {
		if err := node.DropKeys(ctx, v.TargetKeyPrefix(), names...); err != nil {
			return err
		}
	}
	return node.Export(ctx, e)
}

// unexportTarget takes the volume away from its hosts, their keys first.
func unexportTarget(ctx context.Context, v *volume.Volume, node *Node) error {
	if v.Parameters.HostKey != "" {
		if err := node.DropKeys(ctx, v.TargetKeyPrefix()); err != nil {
			return err
		}
	}
	return node.Unexport(ctx, v.NQN())
}

// AllowHost lets a host connect to a volume's target on a raid host, with the keys that it has to have.
func (c *Cluster) AllowHost(ctx context.Context, v *volume.Volume, raidHost, hostNQN string) error {
	node, err := c.Node(raidHost)
	if err != nil {
		return err
	}
	keys, err := c.HostKeys(v, hostNQN)
	if err != nil {
		return err
	}
	return node.AllowHostWith(ctx, v.NQN(), hostNQN, keys)
}

// FenceHost keeps a host off a volume's target on a raid host, which forgets its keys. The call may be repeated.
func (c *Cluster) FenceHost(ctx context.Context, v *volume.Volume, raidHost, hostNQN string) error {
	node, err := c.Node(raidHost)
	if err != nil {
		return err
	}
	if err := node.FenceHost(ctx, v.NQN(), hostNQN); err != nil || v.Parameters.HostKey == "" {
		return err
	}
	return node.DropKeys(ctx, v.HostKeyPrefix(hostNQN))
}
