package controller

import (
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// readNear reads where a volume is wanted. What is preferred comes before what is only allowed. Segments of other keys say nothing here.
func readNear(r *csi.TopologyRequirement) volume.Near {
	var near volume.Near
	if preferred := r.GetPreferred(); len(preferred) > 0 {
		near.Node = preferred[0].GetSegments()[volume.TopologyNode]
	}
	for _, t := range slices.Concat(r.GetPreferred(), r.GetRequisite()) {
		if zone := t.GetSegments()[volume.TopologyZone]; zone != "" && !slices.Contains(near.Zones, zone) {
			near.Zones = append(near.Zones, zone)
		}
	}
	return near
}

// accessible returns from where a volume may be used; nil is everywhere.
func (s *Server) accessible(v *volume.Volume) []*csi.Topology {
	if v.Parameters.Access != volume.AccessZone {
		return nil
	}
	var all []*csi.Topology
	for _, zone := range s.zonesOf(v) {
		all = append(all, &csi.Topology{Segments: map[string]string{volume.TopologyZone: zone}})
	}
	return all
}

// zonesOf returns the zones of a volume's replicas in order.
func (s *Server) zonesOf(v *volume.Volume) []string {
	var zones []string
	for _, r := range v.Replicas {
		node, err := s.cluster.Node(r.Node)
		if err == nil && r.State != volume.ReplicaRemoving && node.Zone != "" && !slices.Contains(zones, node.Zone) {
			zones = append(zones, node.Zone)
		}
	}
	slices.Sort(zones)
	return zones
}

// reaches says whether a volume that exists can be used from one of the zones where it is wanted. One that has no replicas yet gets them
// where it was wanted first.
func (s *Server) reaches(v *volume.Volume, near volume.Near) bool {
	zones := s.zonesOf(v)
	return v.Parameters.Access != volume.AccessZone || len(near.Zones) == 0 || len(zones) == 0 ||
		slices.ContainsFunc(zones, func(zone string) bool { return slices.Contains(near.Zones, zone) })
}

// allowedIn leaves out the lvstores in zones from where the volume must not be used.
func allowedIn(pools []pool, access volume.Access, near volume.Near) []pool {
	if access != volume.AccessZone {
		return pools
	}
	return slices.DeleteFunc(pools, func(p pool) bool {
		return p.node.Zone == "" || len(near.Zones) > 0 && !slices.Contains(near.Zones, p.node.Zone)
	})
}

// zonesAllowed says, for an error, in which zones replicas must be; "" if that is open.
func zonesAllowed(v *volume.Volume) string {
	switch {
	case v.Parameters.Access != volume.AccessZone:
		return ""
	case len(v.Near.Zones) == 0:
		return " and have a zone"
	}
	return fmt.Sprintf(" and are in zones %v", v.Near.Zones)
}

// distance orders nodes by where a volume is wanted: less is nearer. Only the first replica is to be on the machine itself, so that
// the others can be elsewhere when that fails.
func distance(near volume.Near, node *converge.Node, first bool) int {
	if first && near.Node != "" && volume.NodeSegment(node.Host) == near.Node {
		return -1
	}
	if at := slices.Index(near.Zones, node.Zone); at >= 0 && node.Zone != "" {
		return at
	}
	return len(near.Zones)
}
