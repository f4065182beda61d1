package volume

import (
	"cmp"
	"regexp"
	"slices"
)

// Keys of the topology segments that CSI nodes announce (CSI specification, Topology).
const (
	// TopologyNode names the machine; every CSI node has it. Its value is NodeSegment of the CSI node's name.
	TopologyNode = "topology.csi.holdfast.dev/node"
	// TopologyZone names the failure domain of the machine, in the words of the configuration's nodes[].zone.
	TopologyZone = "topology.csi.holdfast.dev/zone"
)

// Access says from where a volume may be used.
type Access string

// Access values. Records of before there was a choice have none, which is AccessAnywhere.
const (
	// AccessAnywhere: from every node, over the network.
	AccessAnywhere Access = "anywhere"
	// AccessZone: from the zones of its replicas only; the CO is told, and runs pods nowhere else.
	AccessZone Access = "zone"
)

func (a Access) orDefault() Access { return cmp.Or(a, AccessAnywhere) }

// Near is where a volume is wanted, by the CO's accessibility requirements when it was made.
type Near struct {
	// Node is the segment of the CSI node on whose machine the first replica goes if an SPDK node there has room; "" is no wish.
	Node string `json:"node,omitempty"`
	// Zones are tried in this order. With AccessZone there are no others, unless the list is empty.
	Zones []string `json:"zones,omitempty"`
}

// validSegment is the form of a segment's value (CSI specification, Topology).
var validSegment = regexp.MustCompile(`^[A-Za-z0-9]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$`)

// ValidSegment says whether a zone can be announced: 1 to 63 letters, digits, dashes, underscores and dots, with a letter or a digit at
// both ends.
func ValidSegment(zone string) bool { return validSegment.MatchString(zone) }

// NodeSegment is the value of TopologyNode for a CSI node: its name, or a digest of one that can't stand in a segment.
func NodeSegment(name string) string {
	if ValidSegment(name) {
		return name
	}
	return ObjectPrefix + digest(name)
}

func (n Near) clone() Near {
	n.Zones = slices.Clone(n.Zones)
	return n
}
