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
	"slices"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/spdk/condition"
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
	// reports tells what nodes are taken to be seen as; nil if they are asked.
	reports Reporter
	claims  Claims
}

// Claims knows which claims volumes belong to.
type Claims interface {
	// VolumeID returns the ID of the volume that a PersistentVolume, or a claim as "namespace/name", is, or volume.ErrNotFound.
	VolumeID(ctx context.Context, name string) (string, error)
	// OfVolumes returns the claims of all volumes that have one as "namespace/name", by volume ID.
	OfVolumes(ctx context.Context) (map[string]string, error)
}

// New returns an Operator for the volumes of a store on the nodes of a cluster.
func New(store volume.Store, cluster *converge.Cluster, c clock.WithTicker) *Operator {
	return &Operator{store: store, cluster: cluster, clock: c}
}

// WithClaims has volumes found by the names of their claims, and shown with them.
func (o *Operator) WithClaims(c Claims) *Operator {
	o.claims = c
	return o
}

// Find returns the record of the volume with that ID, or with that name if there is none, or of that claim or PersistentVolume. None is
// volume.ErrNotFound.
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
	if o.claims != nil {
		id, err := o.claims.VolumeID(ctx, idOrName)
		if err != nil {
			return nil, err
		}
		return o.store.Get(ctx, id)
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

// Look asks all nodes of the configuration side by side.
func (o *Operator) Look(ctx context.Context) condition.Sight {
	return o.lookAt(ctx, o.cluster.Names()...)
}

func (o *Operator) lookAt(ctx context.Context, names ...string) condition.Sight {
	sight, _ := o.sightAndReport(ctx, names...)
	return sight
}

// sightAndReport returns what is seen of nodes, and the report that it is taken from, if it is.
func (o *Operator) sightAndReport(ctx context.Context, names ...string) (condition.Sight, *condition.Report) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var report *condition.Report
	var sight condition.Sight
	if o.reports != nil {
		sight, report = o.reported(ctx, names)
	} else {
		sight = condition.Look(ctx, o.cluster, names...)
	}
	cordoned, err := o.store.Cordoned(ctx)
	if err != nil {
		klog.FromContext(ctx).Info("It can't be told which SPDK nodes are cordoned", "err", err)
	}
	for _, name := range cordoned {
		if seen, asked := sight[name]; asked {
			seen.Cordoned = true
			sight[name] = seen
		}
	}
	return sight, report
}

// assess says how a volume is, and what is wrong with it.
func assess(v *volume.Volume, s condition.Sight, report *condition.Report) (condition.Condition, []condition.Finding) {
	if report != nil {
		return report.Assess(v, s)
	}
	return condition.Assess(v, s), condition.Findings(v, s)
}
