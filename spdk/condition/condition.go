package condition

import (
	"fmt"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// State sums a volume up in a word. docs/operations.md says what to do about each.
type State string

// States. A good replica is one that is in-sync on record and can be used now: its node answers and isn't known to lack it, or the raid
// that runs writes to it.
const (
	// StateHealthy: as many good replicas as were asked for.
	StateHealthy State = "healthy"
	// StateDegraded: fewer, but two or more.
	StateDegraded State = "degraded"
	// StateRebuilding: the same, and one of the others is being rebuilt.
	StateRebuilding State = "rebuilding"
	// StateAtRisk: one good replica of several that were asked for; the next loss stops the volume.
	StateAtRisk State = "at risk"
	// StateWaiting: no good replica; the volume can't be used before one returns.
	StateWaiting State = "waiting"
	// StateCreating and StateDeleting are the phases of the same name.
	StateCreating State = "creating"
	StateDeleting State = "deleting"
)

// Condition is how a volume is.
type Condition struct {
	State State `json:"state"`
	// Good counts the good replicas, Wanted those that the parameters ask for.
	Good   int `json:"good"`
	Wanted int `json:"wanted"`
	// Rebuild is nil while nothing is rebuilt.
	Rebuild *Rebuild `json:"rebuild,omitempty"`
}

// Rebuild is a rebuild under way.
type Rebuild struct {
	Replica string `json:"replica"`
	// Percent is how much is copied. With Copied all is, and the replica is being watched for a stall budget before it counts.
	Percent int  `json:"percent"`
	Copied  bool `json:"copied,omitempty"`
}

func (r Rebuild) String() string {
	if r.Copied {
		return "rebuilt, settling"
	}
	return fmt.Sprintf("rebuilding %d %%", r.Percent)
}

func (c Condition) String() string {
	text := string(c.State)
	switch c.State {
	case StateHealthy, StateCreating, StateDeleting:
		return text
	case StateDegraded:
		text = fmt.Sprintf("degraded %d of %d", c.Good, c.Wanted)
	case StateRebuilding:
		return fmt.Sprintf("%s, %d of %d", c.Rebuild, c.Good, c.Wanted)
	default:
		text = fmt.Sprintf("%s, %d of %d", text, c.Good, c.Wanted)
	}
	if c.Rebuild != nil {
		text += ", " + c.Rebuild.String()
	}
	return text
}

// Assess says how a volume is, by its record and what was seen of the nodes.
func Assess(v *volume.Volume, s Sight) Condition {
	c := Condition{Wanted: v.Parameters.Replicas, Rebuild: rebuildOf(v, s)}
	for _, r := range v.InState(volume.ReplicaInSync) {
		if s.usable(v, r) {
			c.Good++
		}
	}
	switch {
	case v.Phase == volume.PhaseCreating:
		c.State = StateCreating
	case v.Phase == volume.PhaseDeleting:
		c.State = StateDeleting
	case c.Good == 0:
		c.State = StateWaiting
	case c.Good >= c.Wanted:
		c.State = StateHealthy
	case c.Good == 1:
		c.State = StateAtRisk
	case c.Rebuild != nil:
		c.State = StateRebuilding
	default:
		c.State = StateDegraded
	}
	return c
}

// usable says whether an in-sync replica can be used now.
func (s Sight) usable(v *volume.Volume, r volume.Replica) bool {
	if leg, _ := s.Leg(v, r); leg == LegMember {
		return true
	}
	missing, _ := s.absent(v, r)
	return s.Err(r.Node) == nil && missing == ""
}

// rebuildOf finds the rebuild that runs. One that the record alone speaks of has copied all, or its raid host can't be asked: then
// nothing is said of it.
func rebuildOf(v *volume.Volume, s Sight) *Rebuild {
	var settling *Rebuild
	for _, r := range v.Replicas {
		switch leg, percent := s.Leg(v, r); {
		case leg == LegRebuilding:
			return &Rebuild{Replica: r.ID, Percent: percent}
		case leg == LegMember && r.State == volume.ReplicaRebuilding:
			settling = &Rebuild{Replica: r.ID, Percent: 100, Copied: true}
		}
	}
	return settling
}
