package operator

import (
	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Summary is a volume in a line.
type Summary struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// SizeBytes is what it offers.
	SizeBytes int64 `json:"sizeBytes"`
	condition.Condition
	// RaidHost and Standby are SPDK nodes, MoveTo the one that the volume is asked to move to.
	RaidHost string `json:"raidHost,omitempty"`
	Standby  string `json:"standby,omitempty"`
	MoveTo   string `json:"moveTo,omitempty"`
	// Owner and PublishedTo are CSI nodes.
	Owner       string   `json:"owner,omitempty"`
	PublishedTo []string `json:"publishedTo,omitempty"`
}

// Summarize sums a volume up.
func Summarize(v *volume.Volume, s condition.Sight) Summary {
	sum := Summary{ID: v.ID, Name: v.Name, SizeBytes: v.CapacityBytes(), Condition: condition.Assess(v, s), MoveTo: v.MoveTo, Owner: v.Owner}
	if v.Assembly != nil {
		sum.RaidHost = v.Assembly.RaidHost
	}
	if v.Standby != nil {
		sum.Standby = v.Standby.RaidHost
	}
	for _, p := range v.Publications {
		sum.PublishedTo = append(sum.PublishedTo, p.Node)
	}
	return sum
}
