package converge

import (
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// LegHealth returns how the legs of a running volume are, by what its raid host was seen to have. ok is false if the raid is not
// there or not online: that says nothing about its legs.
func LegHealth(v *volume.Volume, h spdk.Health) (legs map[string]volume.LegHealth, ok bool) {
	raid, ok := h.Raids[v.RaidName()]
	if !ok {
		return nil, false
	}
	legs = map[string]volume.LegHealth{}
	for _, id := range v.Assembly.Legs {
		r := v.Replica(id)
		if r == nil {
			continue
		}
		controller := v.LegController(*r)
		legs[id] = volume.LegHealth{
			Member:    raid.Holds(spdk.LegBdev(controller)),
			Connected: h.Controllers[controller].State == spdk.LegEnabled,
		}
	}
	return legs, true
}
