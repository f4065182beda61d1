package volume

import (
	"fmt"
	"slices"
)

// Observed is what was seen of one volume on the SPDK nodes that its record names. It is a snapshot: each action that follows
// from it reads again before it acts.
type Observed struct {
	Nodes map[string]NodeView
}

// NodeView is what one SPDK node has of the volume. Err says that the node did not answer; then the rest says nothing.
type NodeView struct {
	Err error
	// Replicas has the lvols that exist, by replica ID.
	Replicas map[string]ReplicaView
	// Legs has the NVMe controllers that exist, by replica ID.
	Legs map[string]LegView
	// Raid is the volume's raid bdev; nil when there is none.
	Raid *RaidView
	// Target is the volume's subsystem; nil when there is none.
	Target *TargetView
	// Stuck: the raid could not be deleted just now. Nobody waits until it lets go of its legs.
	Stuck bool
}

// ReplicaView is an lvol and its export.
type ReplicaView struct {
	SizeBytes int64
	// Unfinished: it was begun as a clone and doesn't have its content or its size yet.
	Unfinished bool
	// Exported says that its subsystem is complete; Hosts are the NQNs it allows. A subsystem begun and not finished has
	// ExportBegun alone.
	ExportBegun, Exported bool
	Hosts                 []string
}

// LegView is an attached replica. Bdev is empty while the controller has no namespace.
type LegView struct {
	Bdev string
	// Refused: its peer is known to be gone and isn't being connected to now.
	Refused bool
}

// RaidView is a raid bdev.
type RaidView struct {
	// Online: the raid has a bdev, and its assembly was not interrupted.
	Online bool
	// SizeBytes is 0 unless the raid is online.
	SizeBytes int64
	// Slots is how many slots it has, Legs are the replicas in them, one that is being rebuilt included.
	Slots int
	Legs  []string
	// Limits are those in force.
	Limits Limits
}

// TargetView is the subsystem that exports the raid.
type TargetView struct {
	Complete bool
	Hosts    []string
	// Held: its listener is ANA inaccessible.
	Held bool
}

// Kind is what an action does.
type Kind string

// Actions. Each names one operation of package spdk, idempotent in itself.
const (
	CreateReplica   Kind = "create replica"
	DeleteReplica   Kind = "delete replica"
	GrowReplica     Kind = "grow replica"
	ExportReplica   Kind = "export replica"
	UnexportReplica Kind = "unexport replica"
	AttachLeg       Kind = "attach leg"
	DetachLeg       Kind = "detach leg"
	AddLeg          Kind = "add leg"
	EjectLeg        Kind = "eject leg"
	AssembleRaid    Kind = "assemble raid"
	GrowRaid        Kind = "grow raid"
	LimitRaid       Kind = "limit raid"
	DeleteRaid      Kind = "delete raid"
	ExportTarget    Kind = "export target"
	ReviewTarget    Kind = "review target"
	UnexportTarget  Kind = "unexport target"
)

// Action is one step on one SPDK node. Replica is the ID of the replica it concerns, where it concerns one.
type Action struct {
	Kind    Kind
	Node    string
	Replica string
}

func (a Action) String() string {
	if a.Replica == "" {
		return fmt.Sprintf("%s on %s", a.Kind, a.Node)
	}
	return fmt.Sprintf("%s %s on %s", a.Kind, a.Replica, a.Node)
}

// Steps is a plan: what can be done now, and what is in the way of the rest.
type Steps struct {
	// Now are actions that depend on no other: they may run side by side. After them the volume is observed again.
	Now []Action
	// Blocked are the nodes that do not answer although the record can't come true without them, each with its error.
	Blocked []BlockedNode
}

// BlockedNode is an SPDK node that something waits for.
type BlockedNode struct {
	Node string
	Err  error
}

// Done says that the record has come true.
func (s Steps) Done() bool { return len(s.Now) == 0 && len(s.Blocked) == 0 }

// Plan says what is to be done so that the SPDK nodes come to be as the record wants them. It does no I/O and decides by the
// record alone what ought to be; by what was seen it decides only what is left to do.
//
// Order, from which no action departs: a replica is exported before it is attached, attached before the raid is assembled, and
// the target comes last; the way back is the same in reverse. So no host ever sees a target without its raid, and no raid host
// keeps a leg whose replica is being deleted (spdk#3487 and the use after free mended by 607f67020d).
func Plan(v *Volume, seen Observed) Steps {
	p := planner{volume: v, seen: seen}
	switch {
	case v.Phase == PhaseDeleting:
		if p.takeDown() && p.retire() {
			p.deleteReplicas(v.Replicas)
		}
		return p.steps
	case v.Assembly == nil || v.Assembly.Stopping:
		p.takeDown()
	default:
		for _, a := range v.Running() {
			p.bringUp(a)
			p.dropLegs(a)
		}
		p.reopenLegs(*v.Assembly)
		p.rebuild(*v.Assembly)
		p.unexportStrangers()
		p.closeLegs()
	}
	p.retireReachable()
	p.createReplicas()
	p.growReplicas()
	p.deleteRemoving()
	return p.steps
}

type planner struct {
	volume *Volume
	seen   Observed
	steps  Steps
}

func (p *planner) do(kind Kind, node, replica string) {
	a := Action{Kind: kind, Node: node, Replica: replica}
	if !slices.Contains(p.steps.Now, a) {
		p.steps.Now = append(p.steps.Now, a)
	}
}

// view returns what a node has, or notes that the plan waits for it.
func (p *planner) view(node string) (NodeView, bool) {
	view, known := p.seen.Nodes[node]
	if known && view.Err == nil {
		return view, true
	}
	err := view.Err
	if !known {
		err = ErrNodeUnknown
	}
	if !slices.ContainsFunc(p.steps.Blocked, func(b BlockedNode) bool { return b.Node == node }) {
		p.steps.Blocked = append(p.steps.Blocked, BlockedNode{Node: node, Err: err})
	}
	return NodeView{}, false
}

func (p *planner) createReplicas() {
	for _, r := range p.volume.InState(ReplicaPlanned) {
		view, ok := p.view(r.Node)
		if !ok {
			continue
		}
		if found, exists := view.Replicas[r.ID]; !exists || found.Unfinished {
			p.do(CreateReplica, r.Node, r.ID)
		} else if p.small(found) {
			p.do(GrowReplica, r.Node, r.ID)
		}
	}
}

func (p *planner) deleteReplicas(replicas []Replica) {
	for _, r := range replicas {
		view, ok := p.view(r.Node)
		if !ok {
			continue
		}
		if _, exists := view.Replicas[r.ID]; exists {
			p.do(DeleteReplica, r.Node, r.ID)
		}
	}
}

// deleteRemoving deletes the replicas that were given up, where their nodes answer and no raid host holds them, and waits for none.
func (p *planner) deleteRemoving() {
	for _, r := range p.volume.InState(ReplicaRemoving) {
		view, known := p.seen.Nodes[r.Node]
		seen, exists := view.Replicas[r.ID]
		switch {
		case !known || view.Err != nil || !exists || p.attached(r.ID):
		case seen.ExportBegun:
			p.do(UnexportReplica, r.Node, r.ID)
		default:
			p.do(DeleteReplica, r.Node, r.ID)
		}
	}
}

// attached says whether a raid host has a replica attached that answers and can let go of it.
func (p *planner) attached(id string) bool {
	for _, view := range p.seen.Nodes {
		if view.holds(id) {
			return true
		}
	}
	return false
}

func (n NodeView) holds(id string) bool {
	_, attached := n.Legs[id]
	return n.Err == nil && attached && !n.Stuck
}

// bringUp works towards a running assembly, one layer at a time.
func (p *planner) bringUp(a Assembly) {
	host, ok := p.view(a.RaidHost)
	if !ok {
		return
	}
	if host.Raid == nil || !host.Raid.Online {
		switch {
		case len(p.volume.GoodLegs(a)) == 0:
			p.steps.Blocked = append(p.steps.Blocked, BlockedNode{Node: a.RaidHost, Err: ErrNoGoodReplica})
		case p.exportLegs(a) && p.attachLegs(a, host):
			p.do(AssembleRaid, a.RaidHost, "")
		}
		return
	}
	if host.Raid.SizeBytes < p.volume.SizeBytes && p.legsGrown(*host.Raid) {
		p.do(GrowRaid, a.RaidHost, "")
	}
	if host.Raid.Limits != p.volume.Parameters.Limits {
		p.do(LimitRaid, a.RaidHost, "")
	}
	if t := host.Target; t == nil || !t.Complete || t.Held != a.Held || !p.volume.allowedBy(t.Hosts) {
		p.do(ExportTarget, a.RaidHost, "")
	}
}

// exportLegs says whether every leg's replica is exported to its raid hosts and to nobody else.
func (p *planner) exportLegs(a Assembly) bool {
	all := true
	for _, id := range p.volume.GoodLegs(a) {
		all = p.exportLeg(id) && all
	}
	return all
}

func (p *planner) exportLeg(id string) bool {
	r := p.volume.Replica(id)
	view, ok := p.view(r.Node)
	if !ok {
		return false
	}
	seen := view.Replicas[id]
	if seen.Exported && slices.Equal(seen.Hosts, p.volume.LegHosts(id)) {
		return true
	}
	p.do(ExportReplica, r.Node, id)
	return false
}

// reopenLegs exports the legs of a raid that runs whose targets were started again: a leg that comes back before its raid has ejected it has
// missed nothing. While a switch is on its way that is the switch's to do.
func (p *planner) reopenLegs(a Assembly) {
	host := p.seen.Nodes[a.RaidHost]
	if a.Held || host.Err != nil || host.Raid == nil || !host.Raid.Online {
		return
	}
	for _, r := range p.volume.InState(ReplicaInSync, ReplicaSuspect) {
		view := p.seen.Nodes[r.Node]
		if seen, exists := view.Replicas[r.ID]; view.Err == nil && exists && !seen.Exported && slices.Contains(a.Legs, r.ID) {
			p.do(ExportReplica, r.Node, r.ID)
		}
	}
}

func (p *planner) attachLegs(a Assembly, host NodeView) bool {
	all := true
	for _, id := range p.volume.GoodLegs(a) {
		if host.Legs[id].Bdev == "" {
			p.do(AttachLeg, a.RaidHost, id)
			all = false
		}
	}
	return all
}

// dropLegs takes replicas that are no source out of an assembly, and detaches them: what comes back is attached anew. One whose node
// doesn't answer is left to SPDK's own timeouts, unless they have run out. A standby keeps them while a guest is connected to nothing else: a raid
// that loses its last leg takes the namespace away.
func (p *planner) dropLegs(a Assembly) {
	if a.Number != p.volume.Assembly.Number && p.volume.OnStandby() != nil {
		return
	}
	host := p.seen.Nodes[a.RaidHost]
	if host.Err != nil {
		return
	}
	for _, r := range p.volume.Replicas {
		wanted := slices.Contains(a.Legs, r.ID) && r.State != ReplicaOutOfSync && r.State != ReplicaRemoving
		leg, attached := host.Legs[r.ID]
		switch {
		case wanted:
		case !leg.Refused && p.seen.Nodes[r.Node].Err != nil: // a raid that removes a leg whose peer hangs writes nothing until that is noticed
		case host.Raid != nil && slices.Contains(host.Raid.Legs, r.ID):
			p.do(EjectLeg, a.RaidHost, r.ID)
		case attached:
			p.do(DetachLeg, a.RaidHost, r.ID)
		}
	}
}

// rebuild adds the replica that is to be rebuilt to the raid that runs.
func (p *planner) rebuild(a Assembly) {
	host := p.seen.Nodes[a.RaidHost]
	if host.Err != nil || host.Raid == nil || !host.Raid.Online {
		return
	}
	for _, r := range p.volume.InState(ReplicaRebuilding) {
		switch {
		case !slices.Contains(a.Legs, r.ID) || slices.Contains(host.Raid.Legs, r.ID):
		case p.small(p.seen.Nodes[r.Node].Replicas[r.ID]): // a raid refuses a leg that is smaller than it is; it is grown first
		case !p.exportLeg(r.ID):
		case host.Legs[r.ID].Bdev == "":
			p.do(AttachLeg, a.RaidHost, r.ID)
		default:
			p.do(AddLeg, a.RaidHost, r.ID)
		}
	}
}

// unexportStrangers takes away the exports of replicas that are nobody's legs: a raid host that held them before, and could not be
// asked, is so kept from writing to them.
func (p *planner) unexportStrangers() {
	for _, r := range p.volume.Replicas {
		view := p.seen.Nodes[r.Node]
		stranger := len(p.volume.LegHosts(r.ID)) == 0 || r.State == ReplicaOutOfSync
		if view.Err == nil && view.Replicas[r.ID].ExportBegun && stranger && r.State != ReplicaRemoving && !p.attached(r.ID) {
			p.do(UnexportReplica, r.Node, r.ID)
		}
	}
}

// closeLegs closes the exports of legs to raid hosts that are left, once these have let go of them or can't be asked. While a switch is on
// its way that is the switch's to do.
func (p *planner) closeLegs() {
	if p.volume.Assembly.Held {
		return
	}
	for _, r := range p.volume.InState(ReplicaInSync, ReplicaSuspect, ReplicaRebuilding) {
		view, want := p.seen.Nodes[r.Node], p.volume.LegHosts(r.ID)
		left := func(host string) bool { return !slices.Contains(want, host) }
		held := func(a Assembly) bool {
			return p.seen.Nodes[a.RaidHost].holds(r.ID) && left(SPDKHostNQN(a.RaidHost))
		}
		seen := view.Replicas[r.ID]
		if view.Err == nil && seen.Exported && len(want) > 0 && slices.ContainsFunc(seen.Hosts, left) && !slices.ContainsFunc(p.volume.Retired, held) {
			p.do(ExportReplica, r.Node, r.ID)
		}
	}
}

// takeDown works towards a volume that runs nowhere, and says whether that is so. Exports on nodes that don't answer are left
// for later: nothing attaches to them.
func (p *planner) takeDown() bool {
	if a := p.volume.Assembly; a != nil && !p.takeApart(*a) {
		return false
	}
	clear := true
	for _, r := range p.volume.Replicas {
		view := p.seen.Nodes[r.Node]
		if view.Err == nil && view.Replicas[r.ID].ExportBegun {
			p.do(UnexportReplica, r.Node, r.ID)
			clear = false
		}
	}
	return clear
}

// retire takes apart what is left of former assemblies and says whether nothing is.
func (p *planner) retire() bool {
	clear := true
	for _, a := range p.volume.Retired {
		clear = p.takeApart(a) && clear
	}
	return clear
}

// retireReachable does the same where their raid hosts answer, and waits for none.
func (p *planner) retireReachable() {
	for _, a := range p.volume.Retired {
		if _, occupied := p.volume.RunningOn(a.RaidHost); occupied {
			continue
		}
		if view, known := p.seen.Nodes[a.RaidHost]; known && view.Err == nil {
			p.takeApart(a)
		}
	}
}

// takeApart removes an assembly's target, raid and legs from its raid host, in that order, and says whether all are gone.
func (p *planner) takeApart(a Assembly) bool {
	host, ok := p.view(a.RaidHost)
	if !ok {
		return false
	}
	switch {
	case host.Target != nil:
		p.do(UnexportTarget, a.RaidHost, "")
	case host.Raid != nil:
		p.do(DeleteRaid, a.RaidHost, "")
	case len(host.Legs) > 0:
		for _, r := range p.volume.Replicas {
			if _, attached := host.Legs[r.ID]; attached {
				p.do(DetachLeg, a.RaidHost, r.ID)
			}
		}
	default:
		return true
	}
	return false
}
