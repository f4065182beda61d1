package operator

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// ErrNotAsked says that what the SPDK nodes run is known by a controller's report alone.
var ErrNotAsked = errors.New("SPDK nodes are not asked from here")

// Reporter tells what a controller has last told of SPDK nodes and volumes.
type Reporter interface {
	Report(ctx context.Context) (condition.Report, error)
}

// NewByReport returns an Operator for a place from where no SPDK node can be reached: it knows of them what a controller reports. What
// that doesn't suffice for is refused with ErrNotAsked.
func NewByReport(ctx context.Context, store volume.Store, reports Reporter, c clock.WithTicker) (*Operator, error) {
	report, err := reports.Report(ctx)
	if err != nil {
		return nil, err
	}
	var nodes []*converge.Node
	for name, n := range report.Nodes {
		nodes = append(nodes, &converge.Node{Node: spdk.NewNode(name, notAsked{}), Name: name, Host: n.Host, Zone: n.Zone})
	}
	o := New(store, converge.NewCluster(nodes), c)
	o.reports = reports
	return o, nil
}

// notAsked is the connection to a node that isn't asked.
type notAsked struct{}

// Call implements spdk.Caller.
func (notAsked) Call(context.Context, string, any, any) error { return ErrNotAsked }

// reported returns what nodes are taken to be seen as, and by which report. Without one they are silent.
func (o *Operator) reported(ctx context.Context, names []string) (condition.Sight, *condition.Report) {
	report, err := o.reports.Report(ctx)
	var volumes []*volume.Volume
	if err == nil {
		volumes, err = o.store.List(ctx, "", 0)
	}
	if err == nil {
		return report.Sight(volumes, names...), &report
	}
	sight := condition.Sight{}
	for _, name := range names {
		sight[name] = condition.NodeSight{Err: err}
	}
	return sight, nil
}

// mustAsk refuses what a report is no ground for.
func (o *Operator) mustAsk() error {
	if o.reports != nil {
		return fmt.Errorf("%w: %w: run the command where they can be reached, as in the controller's pod", ErrRefused, ErrNotAsked)
	}
	return nil
}

// mustKnow refuses a decision by a report that may be old.
func (o *Operator) mustKnow(ctx context.Context) error {
	if o.reports == nil {
		return nil
	}
	report, err := o.reports.Report(ctx)
	if err == nil && report.Teller.Problem != "" {
		err = fmt.Errorf("%w: how the SPDK nodes are is not known: %s", ErrRefused, report.Teller.Problem)
	}
	return err
}
