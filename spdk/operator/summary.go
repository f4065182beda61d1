package operator

import (
	"context"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Summary is a volume in a line.
type Summary struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Claim is "namespace/name"; "" if it has none, or that isn't known here.
	Claim string `json:"claim,omitempty"`
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

// Summaries sums all volumes up, in the order of their names, and returns what was seen of the SPDK nodes.
func (o *Operator) Summaries(ctx context.Context) ([]Summary, condition.Sight, error) {
	volumes, err := o.Volumes(ctx)
	if err != nil {
		return nil, nil, err
	}
	sight, report := o.sightAndReport(ctx, o.cluster.Names()...)
	claims := o.claimsOfVolumes(ctx)
	sums := make([]Summary, 0, len(volumes))
	for _, v := range volumes {
		c, _ := assess(v, sight, report)
		sums = append(sums, summarize(v, c, claims[v.ID]))
	}
	return sums, sight, nil
}

// claimsOfVolumes returns no claims if they can't be read: they are shown, and decide nothing.
func (o *Operator) claimsOfVolumes(ctx context.Context) map[string]string {
	if o.claims == nil {
		return nil
	}
	claims, err := o.claims.OfVolumes(ctx)
	if err != nil {
		klog.FromContext(ctx).Info("It can't be told which claims volumes have", "err", err)
	}
	return claims
}

func summarize(v *volume.Volume, c condition.Condition, claim string) Summary {
	sum := Summary{ID: v.ID, Name: v.Name, Claim: claim, SizeBytes: v.CapacityBytes(), Condition: c, MoveTo: v.MoveTo, Owner: v.Owner}
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
