package converge

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// maxRounds bounds how often a volume is looked at. The longest way, from a running volume to a deleted one, has six steps; a
// plan that needs more contradicts itself.
const maxRounds = 16

// Converger carries plans out on the nodes of a cluster.
type Converger struct {
	cluster *Cluster
}

// New returns a Converger for a cluster.
func New(cluster *Cluster) *Converger { return &Converger{cluster: cluster} }

// ActionError is the failure of one action.
type ActionError struct {
	Action volume.Action
	Err    error
}

func (e *ActionError) Error() string { return fmt.Sprintf("%s: %v", e.Action, e.Err) }

// Unwrap returns the cause.
func (e *ActionError) Unwrap() error { return e.Err }

// ActionsError is the failures of one round of actions.
type ActionsError struct{ Failed []*ActionError }

func (e *ActionsError) Error() string {
	texts := make([]string, 0, len(e.Failed))
	for _, f := range e.Failed {
		texts = append(texts, f.Error())
	}
	return strings.Join(texts, "; ")
}

// Unwrap returns each failure.
func (e *ActionsError) Unwrap() []error {
	errs := make([]error, 0, len(e.Failed))
	for _, f := range e.Failed {
		errs = append(errs, f)
	}
	return errs
}

// Of returns why an action on a replica failed; nil if it did not, or e is nil.
func (e *ActionsError) Of(kind volume.Kind, replica string) error {
	if e == nil {
		return nil
	}
	for _, f := range e.Failed {
		if f.Action.Kind == kind && f.Action.Replica == replica {
			return f.Err
		}
	}
	return nil
}

// Only says whether each failure is one of those.
func (e *ActionsError) Only(those func(volume.Action) bool) bool {
	return e != nil && !slices.ContainsFunc(e.Failed, func(f *ActionError) bool { return !those(f.Action) })
}

// BlockedError says which nodes a volume waits for. It is a volume.ErrNodeDown.
type BlockedError struct {
	Nodes []volume.BlockedNode
}

func (e *BlockedError) Error() string {
	text := "waiting for SPDK nodes that do not answer:"
	for _, n := range e.Nodes {
		text += fmt.Sprintf(" %s (%v)", n.Node, n.Err)
	}
	return text
}

// Is makes a BlockedError a volume.ErrNodeDown.
func (e *BlockedError) Is(target error) bool { return target == volume.ErrNodeDown }

// Unwrap returns why each node doesn't answer.
func (e *BlockedError) Unwrap() []error {
	errs := make([]error, 0, len(e.Nodes))
	for _, n := range e.Nodes {
		errs = append(errs, n.Err)
	}
	return errs
}

// Waits says whether the node is among those waited for; nobody is if e is nil.
func (e *BlockedError) Waits(node string) bool {
	return e != nil && slices.ContainsFunc(e.Nodes, func(n volume.BlockedNode) bool { return n.Node == node })
}

// Run does what the record asks for until it has come true. Failures of actions come back as an ActionsError; nodes that don't
// answer as a BlockedError; both after everything that doesn't need them is done. The call may be repeated.
//
// A node that didn't answer once is not asked again: it costs one time-out, however many rounds there are. Those in down are not
// asked at all.
func (c *Converger) Run(ctx context.Context, v *volume.Volume, down ...string) error {
	_, err := c.run(ctx, v, volume.Plan, down)
	return err
}

// RunAndObserve does the same and returns, too, what was seen in the end.
func (c *Converger) RunAndObserve(ctx context.Context, v *volume.Volume, down ...string) (volume.Observed, error) {
	return c.run(ctx, v, volume.Plan, down)
}

// RunReplicas does the same for the lvols alone of a volume whose running is another's.
func (c *Converger) RunReplicas(ctx context.Context, v *volume.Volume) error {
	_, err := c.run(ctx, v, volume.PlanReplicas, nil)
	return err
}

// RunStandby does what the record asks of the standby alone.
func (c *Converger) RunStandby(ctx context.Context, v *volume.Volume, down ...string) error {
	_, err := c.run(ctx, v, volume.PlanStandby, down)
	return err
}

// RunTargets has the targets of a volume that runs allow the hosts on record and no others.
func (c *Converger) RunTargets(ctx context.Context, v *volume.Volume, down ...string) error {
	_, err := c.run(ctx, v, volume.PlanTargets, down)
	return err
}

// errNotAsked is the error of a node that the caller knows not to answer.
var errNotAsked = fmt.Errorf("%w: it did not a moment ago", spdk.ErrUnreachable)

func (c *Converger) run(ctx context.Context, v *volume.Volume, plan func(*volume.Volume, volume.Observed) volume.Steps, down []string) (seen volume.Observed, err error) {
	silent := unasked(down)
	failed := map[volume.Action]*ActionError{}
	for range maxRounds {
		seen = c.observe(ctx, v, silent)
		for a := range failed {
			if a.Kind == volume.DeleteRaid {
				view := seen.Nodes[a.Node]
				view.Stuck = true
				seen.Nodes[a.Node] = view
			}
		}
		steps := plan(v, seen)
		steps.Now = slices.DeleteFunc(steps.Now, func(a volume.Action) bool { return failed[a] != nil })
		if len(steps.Now) == 0 {
			return seen, outcome(besidesLimits(ctx, v, failed), steps.Blocked)
		}
		for _, f := range c.do(ctx, v, steps.Now) {
			failed[f.Action] = f
		}
	}
	return seen, fmt.Errorf("volume %s is not as its record wants it after %d rounds: another writer works against this one", v.ID, maxRounds)
}

// outcome is what is left of a run.
func outcome(failed map[volume.Action]*ActionError, blocked []volume.BlockedNode) error {
	var errs []error
	if len(failed) > 0 {
		all := slices.Collect(maps.Values(failed))
		slices.SortFunc(all, func(a, b *ActionError) int { return strings.Compare(a.Action.String(), b.Action.String()) })
		errs = append(errs, &ActionsError{Failed: all})
	}
	if len(blocked) > 0 {
		errs = append(errs, &BlockedError{Nodes: blocked})
	}
	return errors.Join(errs...)
}

// do runs actions side by side, waits for all of them and returns those that failed.
func (c *Converger) do(ctx context.Context, v *volume.Volume, actions []volume.Action) []*ActionError {
	var mu sync.Mutex
	var failed []*ActionError
	var wg sync.WaitGroup
	for _, a := range actions {
		wg.Go(func() {
			klog.FromContext(ctx).V(4).Info("Step", "volumeID", v.ID, "action", a.Kind, "node", a.Node, "replica", a.Replica)
			if err := c.act(ctx, v, a); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = append(failed, &ActionError{Action: a, Err: err})
			}
		})
	}
	wg.Wait()
	return failed
}

// act carries out one action.
func (c *Converger) act(ctx context.Context, v *volume.Volume, a volume.Action) error {
	node, err := c.cluster.Node(a.Node)
	if err != nil {
		return err
	}
	var r volume.Replica
	if a.Replica != "" {
		r = *v.Replica(a.Replica)
	}
	switch a.Kind {
	case volume.CreateReplica:
		err = createReplica(ctx, v, r, node)
	case volume.DeleteReplica:
		err = deleteReplica(ctx, v, r, node)
	case volume.GrowReplica:
		err = node.ResizeLvol(ctx, r.LvStore, v.LvolName(r), v.SizeBytes)
	case volume.ExportReplica:
		err = c.exportReplica(ctx, v, r, node)
	case volume.UnexportReplica:
		err = node.Unexport(ctx, v.ReplicaNQN(r))
	case volume.AttachLeg:
		err = c.attachLeg(ctx, v, r, node)
	case volume.DetachLeg:
		err = detachLeg(ctx, v, r, node)
	case volume.AddLeg:
		err = node.AddRaidLeg(ctx, v.RaidName(), spdk.LegBdev(v.LegController(r)))
	case volume.EjectLeg:
		err = node.RemoveRaidLeg(ctx, v.RaidName(), spdk.LegBdev(v.LegController(r)))
	case volume.AssembleRaid:
		err = c.assemble(ctx, v, node)
	case volume.GrowRaid:
		err = node.AwaitRaidBytes(ctx, v.RaidName(), v.SizeBytes)
	case volume.LimitRaid:
		err = node.SetRateLimits(ctx, v.RaidName(), RateLimits(v.Parameters.Limits))
	case volume.DeleteRaid:
		err = node.DeleteRaid(ctx, v.RaidName())
	case volume.ExportTarget:
		err = c.exportTarget(ctx, v, node, v.KeepsHosts())
	case volume.ReviewTarget:
		err = c.exportTarget(ctx, v, node, false)
	case volume.UnexportTarget:
		err = unexportTarget(ctx, v, node)
	default:
		err = fmt.Errorf("no such action")
	}
	return err
}

// replicaExport is a replica as its raid hosts alone may attach it.
func replicaExport(v *volume.Volume, r volume.Replica, node *Node) spdk.Export {
	return spdk.Export{
		NQN: v.ReplicaNQN(r), Serial: v.Serial(), Model: model, Bdev: r.LvStore + "/" + v.LvolName(r), NSUUID: v.ReplicaNSUUID(r),
		Listen: node.NVMf, Hosts: v.LegHosts(r.ID),
	}
}

// targetExport is the volume as its hosts see it, the same on every raid host but for the controller ids.
func targetExport(v *volume.Volume, node *Node) spdk.Export {
	a, _ := v.RunningOn(node.Name)
	lowest, highest := a.CNTLIDs()
	state := spdk.ANAOptimized
	if a.Held {
		state = spdk.ANAInaccessible
	}
	return spdk.Export{
		NQN: v.NQN(), Serial: v.Serial(), Model: model, Bdev: v.RaidName(), NSUUID: v.UUID, Listen: node.NVMf, Hosts: v.HostNQNs(),
		MinCNTLID: lowest, MaxCNTLID: highest, ANAReporting: true, ANAState: state,
	}
}

// model is the model number that hosts see (Identify Controller, MN).
const model = "Holdfast volume"

func (c *Converger) attachLeg(ctx context.Context, v *volume.Volume, r volume.Replica, node *Node) error {
	from, err := c.cluster.Node(r.Node)
	if err != nil {
		return err
	}
	values, err := timeouts.Derive(v.Parameters.Budgets)
	if err != nil {
		return err
	}
	keys, err := c.cluster.legKeys(v, r, node.Name)
	if err != nil {
		return err
	}
	_, err = node.AttachLeg(ctx, spdk.Leg{
		Controller: v.LegController(r), NQN: v.ReplicaNQN(r), Address: from.NVMf, HostNQN: volume.SPDKHostNQN(node.Name), Keys: keys,
		CtrlrLossSec: int(values.Leg.CtrlrLoss.Seconds()), ReconnectDelaySec: int(values.Leg.ReconnectDelay.Seconds()),
		FastIOFailSec: int(values.Leg.FastIOFail.Seconds()),
	})
	return err
}

// assemble makes the raid of the legs that are in-sync.
func (c *Converger) assemble(ctx context.Context, v *volume.Volume, node *Node) error {
	a, _ := v.RunningOn(node.Name)
	good := v.GoodLegs(a)
	if len(good) == 0 {
		return volume.ErrNoGoodReplica
	}
	legs := make([]string, 0, len(good))
	for _, id := range good {
		legs = append(legs, spdk.LegBdev(v.LegController(*v.Replica(id))))
	}
	_, err := node.AssembleRaid(ctx, spdk.RaidSpec{
		Name: v.RaidName(), UUID: v.RaidUUID(), Slots: v.Slots(len(legs)), Legs: legs,
	})
	return err
}
