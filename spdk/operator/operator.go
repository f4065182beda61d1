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

// Look asks all nodes of the configuration side by side.
func (o *Operator) Look(ctx context.Context) condition.Sight {
	return o.lookAt(ctx, o.cluster.Names()...)
}

func (o *Operator) lookAt(ctx context.Context, names ...string) condition.Sight {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	sight := condition.Look(ctx, o.cluster, names...)
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
	return sight
}
