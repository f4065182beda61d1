package converge

import (
	"context"
	"errors"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// inForceAge is how long what a node was seen to run with counts.
const inForceAge = time.Minute

// inForceTimeout bounds one look at a node.
const inForceTimeout = 3 * time.Second

// InForce knows with what timeouts the SPDK nodes of a cluster run. Where SPDK still takes them it sets those that are wanted: the
// transport's if there is none, the NVMe module's until the process has its first NVMe controller.
type InForce struct {
	clock clock.PassiveClock
	nodes map[string]*inForceOf
}

// inForceOf is what one node runs with.
type inForceOf struct {
	node *Node
	// asking has room for the one that asks the node, and guards what follows: whoever comes meanwhile waits for the same answer.
	asking chan struct{}

	seen   time.Time // zero if it has to be looked at
	values timeouts.InForce
	// fixed: SPDK has refused to change its options since they were read.
	fixed bool
	// err is how the last look failed, at failed.
	err    error
	failed time.Time
}

// NewInForce returns an InForce that has not looked at any node yet.
func NewInForce(cluster *Cluster, c clock.PassiveClock) *InForce {
	f := &InForce{clock: c, nodes: map[string]*inForceOf{}}
	for _, n := range cluster.Nodes() {
		f.nodes[n.Name] = &inForceOf{node: n, asking: make(chan struct{}, 1)}
	}
	return f
}

// Of returns what a node runs with, as of a minute ago at the most. If the budgets don't hold with that and SPDK still lets it be
// changed, it is changed first. Whether they hold is the caller's to ask of the result.
//
// Errors are volume.ErrNodeUnknown, those of the calls, and those of timeouts.Derive.
func (f *InForce) Of(ctx context.Context, name string, b timeouts.Budgets) (timeouts.InForce, error) {
	return f.look(ctx, name, b, false)
}

// Now is Of with what the node runs with now: it may have been started again meanwhile, with other values.
func (f *InForce) Now(ctx context.Context, name string, b timeouts.Budgets) (timeouts.InForce, error) {
	return f.look(ctx, name, b, true)
}

func (f *InForce) look(ctx context.Context, name string, b timeouts.Budgets, now bool) (timeouts.InForce, error) {
	n, ok := f.nodes[name]
	if !ok {
		return timeouts.InForce{}, volume.ErrNodeUnknown
	}
	wanted, err := timeouts.Derive(b)
	if err != nil {
		return timeouts.InForce{}, err
	}
	came := f.clock.Now()
	select {
	case n.asking <- struct{}{}:
		defer func() { <-n.asking }()
	case <-ctx.Done():
		return timeouts.InForce{}, ctx.Err()
	}
	if n.err != nil && !n.failed.Before(came) {
		return timeouts.InForce{}, n.err
	}
	// The answer serves other callers too, so that it doesn't end with this one.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), inForceTimeout)
	defer cancel()
	n.err = nil
	if now || n.seen.IsZero() || f.clock.Since(n.seen) >= inForceAge {
		n.err = n.read(ctx, f.clock)
	}
	if n.err == nil && !n.fixed && n.values.Joins(b) != nil {
		n.err = n.set(ctx, wanted.Node, b)
	}
	if n.err != nil {
		n.seen, n.failed = time.Time{}, f.clock.Now()
		return timeouts.InForce{}, n.err
	}
	return n.values, nil
}

func (n *inForceOf) read(ctx context.Context, c clock.PassiveClock) error {
	have, err := n.node.InForce(ctx)
	if err != nil {
		return err
	}
	n.seen, n.fixed = c.Now(), false
	n.values = inForce(n.node.Name, have.NVMe, have.Transport)
	return nil
}

// set brings what is wanted for the budgets into force, as far as it can. Options that wouldn't make them hold, because of the
// transport that there is, are left alone.
func (n *inForceOf) set(ctx context.Context, wanted timeouts.Node, b timeouts.Budgets) error {
	if n.values.KAS == 0 {
		have, err := n.node.EnsureTransport(ctx, TransportOptions(wanted))
		if err != nil && !errors.Is(err, spdk.ErrInForceDiffers) {
			return err
		}
		n.values.KAS, n.values.MinKATO = have.KASUnits, time.Duration(have.MinKATOms)*time.Millisecond
		if n.values.Joins(b) == nil {
			return nil
		}
	}
	options := NVMeOptions(wanted)
	options.TCPConnectTimeoutMS = uint32(n.values.ConnectTimeout.Milliseconds())
	transport := spdk.TransportOptions{KASUnits: n.values.KAS, MinKATOms: int(n.values.MinKATO.Milliseconds())}
	if wouldHold := inForce(n.node.Name, options, &transport).Joins(b) == nil; !wouldHold {
		return nil
	}
	have, err := n.node.SetNVMeOptions(ctx, options)
	switch {
	case errors.Is(err, spdk.ErrInForceDiffers):
		n.fixed = true
	case err != nil:
		return err
	default:
		klog.FromContext(ctx).Info("SPDK node's timeouts were set; they last until its process ends: start it with the output of holdfast spdk-config",
			"node", n.node.Name, "stallBudget", b.ReplicaStall.String())
	}
	n.values = inForce(n.node.Name, have, &transport)
	return nil
}

// NVMeOptions returns a node's values as options of its NVMe module.
func NVMeOptions(n timeouts.Node) spdk.NVMeOptions {
	return spdk.NVMeOptions{
		ActionOnTimeout: timeouts.ActionReset, TimeoutUS: uint64(n.IOTimeout.Microseconds()), TimeoutAdminUS: uint64(n.AdminTimeout.Microseconds()),
		KeepAliveMS: uint32(n.KeepAlive.Milliseconds()), TransportAckTimeout: uint8(n.TransportAck),
	}
}

// TransportOptions returns a node's values as options of its NVMe/TCP transport.
func TransportOptions(n timeouts.Node) spdk.TransportOptions {
	return spdk.TransportOptions{KASUnits: n.KAS, MinKATOms: int(n.MinKATO.Milliseconds())}
}

// inForce reads options as values. transport is nil if there is none.
func inForce(name string, o spdk.NVMeOptions, transport *spdk.TransportOptions) timeouts.InForce {
	f := timeouts.InForce{
		Name: name,
		Node: timeouts.Node{
			KeepAlive: time.Duration(o.KeepAliveMS) * time.Millisecond, AdminTimeout: time.Duration(o.TimeoutAdminUS) * time.Microsecond,
			IOTimeout: time.Duration(o.TimeoutUS) * time.Microsecond, TransportAck: int(o.TransportAckTimeout),
		},
		ActionOnTimeout: o.ActionOnTimeout, ConnectTimeout: time.Duration(o.TCPConnectTimeoutMS) * time.Millisecond,
	}
	if transport != nil {
		f.KAS, f.MinKATO = transport.KASUnits, time.Duration(transport.MinKATOms)*time.Millisecond
	}
	return f
}
