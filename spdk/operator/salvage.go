package operator

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// CheckSalvage says why a replica can't be made the source of a volume; nil if it can, at the price of what was written without it.
// It is a way out only while nothing runs that might write, and nothing better can be reached.
func CheckSalvage(d Detail, replica string) error {
	v := d.Record
	switch {
	case v.Phase != volume.PhaseReady:
		return fmt.Errorf("%w: it is %s", ErrRefused, v.Phase)
	case len(v.Publications) > 0:
		return fmt.Errorf("%w: it is published to %s; unpublish it there first: end the pods that use it", volume.ErrInUse, v.Publications[0].Node)
	case v.Owner != "" && v.Assembly != nil && !v.Assembly.Stopping:
		return fmt.Errorf("%w: node %s has it staged; unstage and unpublish it there first", volume.ErrInUse, v.Owner)
	}
	for _, r := range d.Replicas {
		if r.State == volume.ReplicaInSync && r.Usable() {
			return fmt.Errorf("%w: replica %s on %s is in-sync and can be reached, so that there is nothing to salvage: publish the volume", ErrRefused, r.ID, r.Node)
		}
	}
	at := slices.IndexFunc(d.Replicas, func(r ReplicaDetail) bool { return r.ID == replica })
	if at < 0 {
		return noSuchReplica(v, replica)
	}
	return checkCandidate(v, d.Replicas[at])
}

func checkCandidate(v *volume.Volume, r ReplicaDetail) error {
	switch {
	case r.State == volume.ReplicaPlanned || r.State == volume.ReplicaRemoving:
		return fmt.Errorf("%w: replica %s is %s: it holds no data of the volume", ErrRefused, r.ID, r.State)
	case !r.Usable():
		return fmt.Errorf("%w: replica %s on %s can't be used: %s", ErrRefused, r.ID, r.Node, r.Problem)
	case r.AllocatedBytes == 0 && v.FileSystem.State == volume.FileSystemMade:
		return fmt.Errorf("%w: replica %s holds no data at all, but the volume has a file system: it was never filled", ErrRefused, r.ID)
	}
	return nil
}

// Candidates returns the replicas of a volume, those first that are likely to have missed least: in-sync, suspect, then the one that
// was out-of-sync last. One that was being rebuilt has blocks of two times and comes after them.
func Candidates(d Detail) []ReplicaDetail {
	rank := map[volume.ReplicaState]int{volume.ReplicaInSync: 0, volume.ReplicaSuspect: 1, volume.ReplicaOutOfSync: 2, volume.ReplicaRebuilding: 3}
	of := func(r ReplicaDetail) int {
		if n, ok := rank[r.State]; ok {
			return n
		}
		return len(rank)
	}
	sorted := slices.Clone(d.Replicas)
	slices.SortStableFunc(sorted, func(a, b ReplicaDetail) int {
		return cmp.Or(cmp.Compare(of(a), of(b)), b.Since.Compare(a.Since))
	})
	return sorted
}

// Salvage makes a replica that may have missed writes the only source of a volume. The replica is cut off from every raid host
// first; then the record calls it in-sync, all others out-of-sync, and what ran, or may still run, is a former assembly.
func (o *Operator) Salvage(ctx context.Context, id, replica string) (*volume.Volume, error) {
	if err := o.mustAsk(); err != nil {
		return nil, fmt.Errorf("salvage volume %s: %w", id, err)
	}
	v, err := volume.Modify(ctx, o.store, id, func(v *volume.Volume) (bool, error) {
		if err := CheckSalvage(o.detail(ctx, v), replica); err != nil {
			return false, err
		}
		r := v.Replica(replica)
		node, err := o.cluster.Node(r.Node)
		if err != nil {
			return false, err
		}
		if err := node.Unexport(ctx, v.ReplicaNQN(*r)); err != nil {
			return false, fmt.Errorf("cut replica %s on %s off from every raid host: %w", r.ID, r.Node, err)
		}
		o.makeSource(v, replica)
		return true, nil
	})
	if err != nil {
		return nil, fmt.Errorf("salvage volume %s: %w", id, err)
	}
	return v, nil
}

// makeSource changes the record.
func (o *Operator) makeSource(v *volume.Volume, replica string) {
	now := o.clock.Now().UTC()
	for _, r := range v.InState(volume.ReplicaInSync, volume.ReplicaSuspect, volume.ReplicaRebuilding) {
		v.SetReplicaState(r.ID, volume.ReplicaOutOfSync, now)
	}
	v.SetReplicaState(replica, volume.ReplicaInSync, now)
	v.Replica(replica).Strikes = 0
	v.RetireStandby()
	if v.Assembly != nil {
		v.Retired = append(v.Retired, *v.Assembly)
	}
	v.Assembly, v.Owner, v.MoveTo = nil, "", ""
}
