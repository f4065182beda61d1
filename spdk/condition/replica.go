package condition

import (
	"fmt"
	"strings"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// theGoodOne names the replica that can be used.
func theGoodOne(v *volume.Volume, s Sight) string {
	for _, r := range v.InState(volume.ReplicaInSync) {
		if s.usable(v, r) {
			return r.ID + " on " + r.Node
		}
	}
	return ""
}

// lacking says of each replica that isn't good how it is, since when and why, and how many are not there at all.
func lacking(v *volume.Volume, s Sight, c Condition) []string {
	var all []string
	there := 0
	for _, r := range v.Replicas {
		if r.State == volume.ReplicaRemoving {
			continue
		}
		there++
		if r.State == volume.ReplicaInSync && s.usable(v, r) {
			continue
		}
		all = append(all, fmt.Sprintf("replica %s on %s is %s", r.ID, r.Node, how(v, r, s, c)))
	}
	if missing := c.Wanted - there; missing > 0 {
		all = append(all, fmt.Sprintf("%d more to be placed by the controller", missing))
	}
	return all
}

// how says how a replica is that isn't good.
func how(v *volume.Volume, r volume.Replica, s Sight, c Condition) string {
	problem := s.Problem(r.Node)
	if missing, _ := s.absent(v, r); problem == "" {
		problem = missing
	}
	text := fmt.Sprintf("%s since %s", r.State, at(r.Since))
	switch {
	case r.State == volume.ReplicaInSync:
		return text + ", but " + problem
	case r.State == volume.ReplicaPlanned:
		text = "being made"
	case r.State == volume.ReplicaSuspect:
		text += " (seen failing; writes may have been acknowledged without it)"
	case r.State == volume.ReplicaRebuilding && c.Rebuild != nil && c.Rebuild.Replica == r.ID && c.Rebuild.Copied:
		text += ", all copied, and counts when that has held for " + v.Parameters.Budgets.ReplicaStall.String()
	case r.State == volume.ReplicaRebuilding && c.Rebuild != nil && c.Rebuild.Replica == r.ID:
		text += fmt.Sprintf(", %d %% copied", c.Rebuild.Percent)
	case r.State == volume.ReplicaOutOfSync && problem == "":
		text += waits(r, c)
	}
	switch {
	case problem == "":
		return text
	case r.State == volume.ReplicaOutOfSync && strings.HasPrefix(problem, r.Node):
		return fmt.Sprintf("%s: %s, and another takes its place when that has lasted for %s", text, problem, v.Parameters.ReplaceAfter)
	}
	return text + ": " + problem
}

// waits says what the rebuild of a replica waits for that could be rebuilt.
func waits(r volume.Replica, c Condition) string {
	switch delay := r.RebuildDelay(); {
	case c.Rebuild != nil:
		return ": rebuilt after " + c.Rebuild.Replica
	case delay > 0:
		return fmt.Sprintf(": lost %d times in a row soon after a rebuild or in one, and rebuilt again at %s at the earliest", r.Strikes, at(r.Since.Add(delay)))
	}
	return ": its rebuild has not begun"
}
