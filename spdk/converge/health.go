package converge

import (
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// LegHealth returns how the legs of an assembly are, by what its raid host was seen to have. ok is false if the raid is not there or
// not online: that says nothing about its legs.
func LegHealth(v *volume.Volume, a volume.Assembly, h spdk.Health) (legs map[string]volume.LegHealth, ok bool) {
	raid, ok := h.Raids[v.RaidName()]
	if !ok {
		return nil, false
	}
	legs = map[string]volume.LegHealth{}
	for _, id := range a.Legs {
		r := v.Replica(id)
		if r == nil {
			continue
		}
		controller := v.LegController(*r)
		bdev, seen := spdk.LegBdev(controller), h.Controllers[controller]
		legs[id] = volume.LegHealth{
			Listed: raid.Has(bdev), Member: raid.Holds(bdev), Connected: seen.State == spdk.LegEnabled,
			Refused: seen.State == spdk.LegReconnectIsDelayed, CNTLID: seen.CNTLID,
		}
	}
	return legs, true
}
