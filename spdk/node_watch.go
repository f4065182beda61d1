package spdk

import "context"

// Health is what a watcher needs to know of a node's raids, read in two calls however many there are.
type Health struct {
	// Raids are the online raids' members by raid name. RaidState's sizes and InUse are not read.
	Raids map[string]RaidState
	// Controllers are the NVMe/TCP controllers by name. LegState's bdev and sizes are not read.
	Controllers map[string]LegState
}

// Health reads who is a member of which raid, and how the controllers of legs are. The two reads are not one moment: membership is
// read last, so that a leg that was ejected in between is seen as ejected.
func (n *Node) Health(ctx context.Context) (Health, error) {
	controllers, err := BdevNVMeGetControllers(ctx, n.rpc, BdevNVMeGetControllersParams{})
	if err != nil {
		return Health{}, n.wrap(err, "list NVMe controllers")
	}
	raids, err := BdevRaidGetBdevs(ctx, n.rpc, BdevRaidGetBdevsParams{Category: RaidOnline})
	if err != nil {
		return Health{}, n.wrap(err, "list raids")
	}
	h := Health{Raids: map[string]RaidState{}, Controllers: map[string]LegState{}}
	for _, c := range controllers {
		if len(c.Ctrlrs) > 0 {
			h.Controllers[c.Name] = legState(c.Name, c.Ctrlrs[0], nil)
		}
	}
	for _, r := range raids {
		h.Raids[r.Name] = raidState(r, nil)
	}
	return h, nil
}
