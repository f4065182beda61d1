package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Detail is all that is known of a volume.
type Detail struct {
	Summary
	Record   *volume.Volume  `json:"record"`
	Replicas []ReplicaDetail `json:"replicas"`
	// RaidHostProblem says why the raid of a running volume can't be seen; "" if it can.
	RaidHostProblem string `json:"raidHostProblem,omitempty"`
	// RetiredProblems says, for each of the record's retired assemblies, why its raid host can't be asked; "" if it can.
	RetiredProblems []string `json:"retiredProblems,omitempty"`
	// Findings are what is wrong with it, as the CSI services report it too.
	Findings []condition.Finding `json:"findings,omitempty"`
	// Teller says by whose report the SPDK nodes are seen; nil if they were asked.
	Teller *condition.Teller `json:"teller,omitempty"`
}

// ReplicaDetail is one replica: as on record, and as seen.
type ReplicaDetail struct {
	volume.Replica
	// Lvol is the replica's lvol as "lvstore/lvol".
	Lvol string `json:"lvol"`
	// Leg is how the raid host sees it, RebuildPercent how much of it is copied while that is condition.LegRebuilding.
	Leg            condition.Leg `json:"leg,omitempty"`
	RebuildPercent int           `json:"rebuildPercent,omitempty"`
	// SizeBytes and AllocatedBytes are the lvol's.
	SizeBytes      int64 `json:"sizeBytes,omitempty"`
	AllocatedBytes int64 `json:"allocatedBytes,omitempty"`
	// SharedBytes is what the snapshots below it hold, which it shares with whatever else lies on them.
	SharedBytes int64 `json:"sharedBytes,omitempty"`
	// Problem says why the replica can't be read now; "" if it can, or if its lvol was not looked at, for want of a way to its node.
	Problem string `json:"problem,omitempty"`
	// Answers says that its node does, Missing that it then has no such lvol.
	Answers bool `json:"answers"`
	Missing bool `json:"missing,omitempty"`
}

// Usable says whether the replica could be a source now: its lvol is there and as large as the volume.
func (r ReplicaDetail) Usable() bool { return r.Problem == "" }

// Show looks at one volume on all nodes that its record names.
func (o *Operator) Show(ctx context.Context, idOrName string) (Detail, error) {
	v, err := o.Find(ctx, idOrName)
	if err != nil {
		return Detail{}, err
	}
	return o.detail(ctx, v), nil
}

func (o *Operator) detail(ctx context.Context, v *volume.Volume) Detail {
	sight, report := o.sightAndReport(ctx, v.Nodes()...)
	c, findings := assess(v, sight, report)
	d := Detail{Summary: summarize(v, c, o.claimsOfVolumes(ctx)[v.ID]), Record: v, Replicas: o.replicas(ctx, v, sight), Findings: findings}
	if report != nil {
		d.Teller = &report.Teller
	}
	if v.Assembly != nil {
		if _, ok := sight.Raid(v); !ok {
			d.RaidHostProblem = cmp.Or(sight.Problem(v.Assembly.RaidHost), "its raid is not there")
		}
	}
	for _, a := range v.Retired {
		d.RetiredProblems = append(d.RetiredProblems, sight.Problem(a.RaidHost))
	}
	return d
}

// replicas looks at every replica's lvol, side by side.
func (o *Operator) replicas(ctx context.Context, v *volume.Volume, sight condition.Sight) []ReplicaDetail {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	details := make([]ReplicaDetail, len(v.Replicas))
	var wg sync.WaitGroup
	for i, r := range v.Replicas {
		d := &details[i]
		d.Replica, d.Lvol = r, r.LvStore+"/"+v.LvolName(r)
		d.Leg, d.RebuildPercent = sight.Leg(v, r)
		if d.Problem = sight.Problem(r.Node); d.Problem != "" {
			continue
		}
		if o.reports != nil {
			continue
		}
		d.Answers = true
		wg.Go(func() {
			if err := o.lookAtLvol(ctx, v, d); err != nil {
				d.Problem = err.Error()
			}
		})
	}
	wg.Wait()
	return details
}

// lookAtLvol enters what a replica's lvol is, and returns why it is no image of the volume. What is missing is the lvol alone, or
// the whole lvstore, as when a disk is gone or not attached yet.
func (o *Operator) lookAtLvol(ctx context.Context, v *volume.Volume, d *ReplicaDetail) error {
	node, err := o.cluster.Node(d.Node)
	if err != nil {
		return err
	}
	lvol, err := node.Lvol(ctx, d.LvStore, v.LvolName(d.Replica))
	d.SizeBytes, d.AllocatedBytes = lvol.SizeBytes, lvol.AllocatedBytes
	if err == nil {
		d.SharedBytes = shared(ctx, node, lvol)
	}
	switch {
	case err == nil && !v.Fits(lvol.SizeBytes):
		return fmt.Errorf("its lvol has %d bytes, the volume %d", lvol.SizeBytes, v.SizeBytes)
	case !errors.Is(err, spdk.ErrNotFound):
		return err
	}
	lvstores, err := node.LvStores(ctx)
	if err != nil {
		return err
	}
	d.Missing = true
	if slices.ContainsFunc(lvstores, func(s spdk.LvStore) bool { return s.Name == d.LvStore }) {
		return fmt.Errorf("its lvol is not in lvstore %s", d.LvStore)
	}
	return fmt.Errorf("lvstore %s is not loaded on %s: its disk is gone, or not attached yet", d.LvStore, d.Node)
}

// shared returns what the lvols below one hold; 0 if that can't be read now.
func shared(ctx context.Context, node *converge.Node, l spdk.Lvol) (bytes int64) {
	for l.Base != "" {
		var err error
		if l, err = node.Lvol(ctx, l.LvStore, l.Base); err != nil {
			return 0
		}
		bytes += l.AllocatedBytes
	}
	return bytes
}
