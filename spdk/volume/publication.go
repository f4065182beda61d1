package volume

import (
	"fmt"
	"slices"
)

// AccessMode says what a publication may do with the volume.
type AccessMode string

// Access modes, after the CSI specification's VolumeCapability.AccessMode.
const (
	AccessSingleNodeWriter       AccessMode = "single-node-writer"
	AccessSingleNodeReaderOnly   AccessMode = "single-node-reader-only"
	AccessSingleNodeSingleWriter AccessMode = "single-node-single-writer"
	AccessSingleNodeMultiWriter  AccessMode = "single-node-multi-writer"
	AccessMultiNodeReaderOnly    AccessMode = "multi-node-reader-only"
	AccessMultiNodeSingleWriter  AccessMode = "multi-node-single-writer"
	AccessMultiNodeMultiWriter   AccessMode = "multi-node-multi-writer"
)

// MultiNode says whether the mode lets several nodes use the volume at once.
func (m AccessMode) MultiNode() bool {
	return m == AccessMultiNodeReaderOnly || m == AccessMultiNodeSingleWriter || m == AccessMultiNodeMultiWriter
}

// Publication says that a CSI node may use the volume, and how far it does.
type Publication struct {
	Node     string     `json:"node"`
	Mode     AccessMode `json:"mode"`
	ReadOnly bool       `json:"readOnly,omitempty"`
	Block    bool       `json:"block,omitempty"`

	// Staged: the node has the volume attached, or may have. It is set before the node attaches and cleared after it has let go.
	Staged bool `json:"staged,omitempty"`
	// Inherits: the volume became this node's when its owner let go, and its node service has not noticed yet.
	Inherits bool `json:"inherits,omitempty"`
	// Path and Standby are the numbers of the assembly and of the standby to which a guest is connected; 0 is none. Left says that it has no
	// path to an assembly of that number or a lower one, and gets no answer of one any more. It is lowered before the guest connects to such
	// a one again.
	Path    uint32 `json:"path,omitempty"`
	Standby uint32 `json:"standby,omitempty"`
	Left    uint32 `json:"left,omitempty"`
}

// Writes says whether the node may write to the volume.
func (p Publication) Writes() bool {
	return !p.ReadOnly && p.Mode != AccessMultiNodeReaderOnly && p.Mode != AccessSingleNodeReaderOnly
}

// Same says whether both are the same request.
func (p Publication) Same(o Publication) bool {
	return p.Node == o.Node && p.Mode == o.Mode && p.ReadOnly == o.ReadOnly && p.Block == o.Block
}

// Admits says whether a volume with these publications may have another: nil, or ErrInUse with the node in the way, or ErrIncompatible if the
// node has one of another kind.
func (v *Volume) Admits(p Publication) error {
	for _, other := range v.Publications {
		switch {
		case other.Node == p.Node && other.Same(p):
		case other.Node == p.Node:
			return fmt.Errorf("%w: it is published to that node as %s (read-only: %t, raw block: %t), asked for is %s (read-only: %t, raw block: %t)",
				ErrIncompatible, other.Mode, other.ReadOnly, other.Block, p.Mode, p.ReadOnly, p.Block)
		case !other.Mode.MultiNode():
			return fmt.Errorf("%w: it is published to node %s as %s, which is for one node; unpublish it there first", ErrInUse, other.Node, other.Mode)
		case !p.Mode.MultiNode():
			return fmt.Errorf("%w: it is published to node %s, and %s is for one node; unpublish it there first", ErrInUse, other.Node, p.Mode)
		case other.Block != p.Block:
			return fmt.Errorf("%w: it is published to node %s with raw block: %t; unpublish it there first", ErrInUse, other.Node, other.Block)
		case other.Writes() && p.Writes() && (other.Mode != AccessMultiNodeMultiWriter || p.Mode != AccessMultiNodeMultiWriter):
			return fmt.Errorf("%w: node %s may write to it, and %s allows one writer; publish it read-only or as %s, or unpublish it there first",
				ErrInUse, other.Node, AccessMultiNodeSingleWriter, AccessMultiNodeMultiWriter)
		}
	}
	return nil
}

// Publication returns the publication to a CSI node, or nil.
func (v *Volume) Publication(node string) *Publication {
	for i := range v.Publications {
		if v.Publications[i].Node == node {
			return &v.Publications[i]
		}
	}
	return nil
}

// HostNQNs are the hosts that the volume's target must allow, and no others.
func (v *Volume) HostNQNs() []string {
	hosts := make([]string, 0, len(v.Publications))
	for _, p := range v.Publications {
		hosts = append(hosts, HostNQN(p.Node))
	}
	slices.Sort(hosts)
	return hosts
}

// Guests are the publications to nodes that have the volume staged beside its owner.
func (v *Volume) Guests() []Publication {
	return slices.DeleteFunc(slices.Clone(v.Publications), func(p Publication) bool { return !p.Staged || p.Node == v.Owner })
}

// Behind are the guests that may still get an answer of the assembly of that number.
func (v *Volume) Behind(number uint32) []Publication {
	return slices.DeleteFunc(v.Guests(), func(p Publication) bool { return p.Left >= number })
}

// OnStandby returns a guest that is to be connected to the standby alone, or still is; nil if there is none.
func (v *Volume) OnStandby() *Publication {
	if v.Assembly == nil || v.Standby == nil {
		return nil
	}
	for _, p := range v.Guests() {
		if v.Assembly.Leaving || p.Path != v.Assembly.Number && p.Standby == v.Standby.Number {
			return &p
		}
	}
	return nil
}

// GuestPaths are the assemblies to which a guest is to be connected, and to no others: where the volume runs and the standby that is ready;
// the standby alone while its guests are to leave the raid host.
func (v *Volume) GuestPaths() []Assembly {
	var to []Assembly
	for _, a := range v.Running() {
		if a.Running && !a.Leaving {
			to = append(to, a)
		}
	}
	return to
}

// guestWanted says whether a guest has something to do.
func (v *Volume) guestWanted(p Publication) bool {
	if !p.Staged || p.Node == v.Owner || v.Assembly == nil || v.Assembly.Stopping {
		return false
	}
	path, standby := v.guestNumbers()
	return p.Path != path || p.Standby != standby || v.Assembly.Leaving && p.Left < v.Assembly.Number
}

// guestNumbers are what Path and Standby of a guest are to be.
func (v *Volume) guestNumbers() (path, standby uint32) {
	for _, a := range v.GuestPaths() {
		if a.Number == v.Assembly.Number {
			path = a.Number
		} else {
			standby = a.Number
		}
	}
	return path, standby
}

// MayReturn says whether a guest has to put on record, before it connects as the record says, that it has left less than it had.
func (v *Volume) MayReturn(p Publication) bool { return p.Left > v.beforeGuestPaths() }

// Return puts that on record.
func (v *Volume) Return(p *Publication) { p.Left = min(p.Left, v.beforeGuestPaths()) }

// Arrive puts on record that a guest is connected as the record was when it read it, as, and to nothing else.
func (p *Publication) Arrive(as *Volume) {
	p.Path, p.Standby = as.guestNumbers()
	p.Left = as.beforeGuestPaths()
}

// beforeGuestPaths is the highest number of an assembly that guests are to have left.
func (v *Volume) beforeGuestPaths() uint32 {
	before := v.Assemblies
	for _, a := range v.GuestPaths() {
		before = min(before, a.Number-1)
	}
	return before
}

// Wanted are the CSI nodes whose node services have something to do for the volume now that they can't know of themselves, each once.
func (v *Volume) Wanted() []string {
	var nodes []string
	heir := v.Publication(v.Owner)
	if v.OwnerWanted() || v.Owner != "" && (v.Review || heir != nil && heir.Inherits) {
		nodes = append(nodes, v.Owner)
	}
	for _, p := range v.Publications {
		if v.guestWanted(p) {
			nodes = append(nodes, p.Node)
		}
	}
	return nodes
}

// Unstage puts on record that a node has let go of the volume. If it was the owner, a guest is the next, and without guests nobody.
func (v *Volume) Unstage(node string) {
	if p := v.Publication(node); p != nil {
		p.Staged, p.Inherits, p.Path, p.Standby, p.Left = false, false, 0, 0, 0
	}
	if v.Owner == node {
		v.inherit(v.Guests())
	}
}

// Unpublish takes the publication of a node away; every node's if node is empty. If it was the owner, which may be dead, another node that the volume is
// published to is the next, one that has it staged before others. Without publications the volume runs no longer.
func (v *Volume) Unpublish(node string) {
	v.Publications = slices.DeleteFunc(v.Publications, func(p Publication) bool { return node == "" || p.Node == node })
	switch {
	case len(v.Publications) == 0:
		if v.Assembly != nil && !v.Assembly.Stopping {
			v.Stop()
		}
	case v.Owner != "" && v.Publication(v.Owner) == nil:
		v.Review = true
		v.inherit(append(v.Guests(), v.Publications...))
	case v.Owner != "":
		v.Review = true
	}
}

// inherit makes the first of these the owner; nobody if there is none.
func (v *Volume) inherit(heirs []Publication) {
	v.Owner = ""
	if len(heirs) > 0 {
		v.Owner = heirs[0].Node
		p := v.Publication(v.Owner)
		p.Inherits, p.Path, p.Standby, p.Left = true, 0, 0, 0
	}
}
