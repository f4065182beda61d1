package operator

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Status is the cluster at a glance.
type Status struct {
	At time.Time `json:"at"`
	// Teller says by whose report the SPDK nodes are seen; nil if they were asked.
	Teller *condition.Teller `json:"teller,omitempty"`
	// States counts the volumes in each state, SizeBytes is what all of them offer together.
	States    map[condition.State]int `json:"states"`
	SizeBytes int64                   `json:"sizeBytes"`
	// InUse counts the volumes that are published.
	InUse int `json:"inUse"`
	// Troubled are the volumes with something wrong, the worst first.
	Troubled []Trouble `json:"troubled"`
	Rebuilds []Rebuild `json:"rebuilds"`
	// Snapshots counts them by phase.
	Snapshots map[volume.SnapshotPhase]int `json:"snapshots"`
	Nodes     []NodeSummary                `json:"nodes"`
}

// Trouble is a volume with something wrong.
type Trouble struct {
	Summary
	Findings []condition.Finding `json:"findings"`
}

// Rebuild is a replica on record as being rebuilt. Progress is nil if it isn't known how much of it is copied.
type Rebuild struct {
	Summary
	Replica  string             `json:"replica"`
	Node     string             `json:"node"`
	Since    time.Time          `json:"since"`
	Progress *condition.Rebuild `json:"progress,omitempty"`
}

// Status looks at everything.
func (o *Operator) Status(ctx context.Context) (Status, error) {
	volumes, err := o.Volumes(ctx)
	if err != nil {
		return Status{}, err
	}
	snapshots, err := o.Snapshots(ctx)
	if err != nil {
		return Status{}, err
	}
	s := Status{At: o.clock.Now().UTC(), States: map[condition.State]int{}, Snapshots: map[volume.SnapshotPhase]int{}}
	for _, sn := range snapshots {
		s.Snapshots[sn.Phase]++
	}
	sight, report := o.sightAndReport(ctx, o.cluster.Names()...)
	if report != nil {
		s.Teller = &report.Teller
	}
	claims := o.claimsOfVolumes(ctx)
	for _, v := range volumes {
		c, findings := assess(v, sight, report)
		s.add(v, summarize(v, c, claims[v.ID]), findings)
	}
	slices.SortStableFunc(s.Troubled, func(a, b Trouble) int { return cmp.Compare(a.rank(), b.rank()) })
	s.Nodes, err = o.nodesOf(ctx, volumes)
	return s, err
}

// add enters a volume.
func (s *Status) add(v *volume.Volume, sum Summary, findings []condition.Finding) {
	s.States[sum.State]++
	s.SizeBytes += sum.SizeBytes
	if len(sum.PublishedTo) > 0 {
		s.InUse++
	}
	if len(findings) > 0 {
		s.Troubled = append(s.Troubled, Trouble{Summary: sum, Findings: findings})
	}
	for _, r := range v.InState(volume.ReplicaRebuilding) {
		rebuild := Rebuild{Summary: sum, Replica: r.ID, Node: r.Node, Since: r.Since}
		if sum.Rebuild != nil && sum.Rebuild.Replica == r.ID {
			rebuild.Progress = sum.Rebuild
		}
		s.Rebuilds = append(s.Rebuilds, rebuild)
	}
}

// rank is lower the worse a volume is off.
func (t Trouble) rank() int {
	worst := len(severities)
	for _, f := range t.Findings {
		worst = min(worst, slices.Index(severities, f.Severity))
	}
	rank := 2 * worst
	if t.State != condition.StateAtRisk {
		rank++
	}
	return rank
}

// severities begins with the worst.
var severities = []condition.Severity{condition.DataLoss, condition.Inaccessible, condition.Degraded}
