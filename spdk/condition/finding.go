package condition

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Severity is what a finding means for whoever uses the volume. They are those of the CSI specification's VolumeHealthErrorType.
type Severity string

// Severities.
const (
	// Degraded: the volume works, with less protection than it is to have, or with less than all functions.
	Degraded Severity = "degraded"
	// Inaccessible: the volume can't be used, or I/O on it waits.
	Inaccessible Severity = "inaccessible"
	// DataLoss: data are lost, as far as anybody can tell.
	DataLoss Severity = "data loss"
)

// Reason names a kind of finding in CamelCase, for programs. docs/reference.md says of each what it means and what to do.
type Reason string

// Reasons of what is seen in the record and at the SPDK nodes.
const (
	// ReasonReplicasMissing: fewer good replicas than asked for, but two or more, and none is being rebuilt.
	ReasonReplicasMissing Reason = "ReplicasMissing"
	// ReasonRebuilding: the same, and one is being rebuilt.
	ReasonRebuilding Reason = "Rebuilding"
	// ReasonAtRisk: one good replica of several.
	ReasonAtRisk Reason = "AtRisk"
	// ReasonPoolNearlyFull: an lvstore of a thin volume has little room left; a replica there is lost when it is full.
	ReasonPoolNearlyFull Reason = "PoolNearlyFull"
	// ReasonStandbyMissing: the volume runs without the standby that it is to have.
	ReasonStandbyMissing Reason = "StandbyMissing"
	// ReasonRaidHostSilent: the node where the volume runs doesn't answer JSON-RPC; whether I/O goes on is not known by that.
	ReasonRaidHostSilent Reason = "RaidHostSilent"
	// ReasonSwitchingOver: another node is taking the volume over, and I/O waits for that.
	ReasonSwitchingOver Reason = "SwitchingOver"
	// ReasonNoGoodReplica: no in-sync replica can be reached; one that returns ends it.
	ReasonNoGoodReplica Reason = "NoGoodReplica"
	// ReasonSalvageNeeded: nothing that returns by itself makes the volume usable; an operator must decide.
	ReasonSalvageNeeded Reason = "SalvageNeeded"
	// ReasonLastCopyLost: every in-sync replica's lvol is missing on a node that answers and has its lvstore loaded.
	ReasonLastCopyLost Reason = "LastCopyLost"
)

// Finding is one thing that is wrong with a volume. A volume has at most one of each reason.
type Finding struct {
	Severity Severity `json:"severity"`
	Reason   Reason   `json:"reason"`
	// Message is for the person on call: which part, on which node, since when, why, and what can be done. It has no relative times, so
	// that it stays the same while nothing changes.
	Message string `json:"message"`
}

// Findings says what is wrong with a volume, by its record and what was seen of the nodes; nothing of one that is being created or deleted.
func Findings(v *volume.Volume, s Sight) []Finding {
	if v.Phase != volume.PhaseReady {
		return nil
	}
	var found []Finding
	add := func(severity Severity, reason Reason, format string, args ...any) {
		found = append(found, Finding{Severity: severity, Reason: reason, Message: fmt.Sprintf(format, args...)})
	}
	c := Assess(v, s)
	rest := strings.Join(lacking(v, s, c), "; ")
	unseen := c.State == StateWaiting && runs(v) && s.Err(v.Assembly.RaidHost) != nil && len(v.InState(volume.ReplicaInSync)) > 0
	switch {
	case unseen: // nobody who answers knows whether I/O goes on
	case c.State == StateDegraded:
		add(Degraded, ReasonReplicasMissing, "%d of %d replicas are good: %s", c.Good, c.Wanted, rest)
	case c.State == StateRebuilding:
		add(Degraded, ReasonRebuilding, "%d of %d replicas are good: %s", c.Good, c.Wanted, rest)
	case c.State == StateAtRisk:
		add(Degraded, ReasonAtRisk, "one of %d replicas is good, %s, and the next loss stops the volume: %s", c.Wanted, theGoodOne(v, s), rest)
	case c.State == StateWaiting:
		found = append(found, waiting(v, s, rest)...)
	}
	if full := fullPools(v, s); full != "" {
		add(Degraded, ReasonPoolNearlyFull, "%s: a thin replica there that finds no room fails writes and is lost; add space, or delete volumes and snapshots there", full)
	}
	if !runs(v) {
		return found
	}
	host := v.Assembly.RaidHost
	if problem := s.Problem(host); problem != "" {
		add(Degraded, ReasonRaidHostSilent, "the volume runs on %s, and %s: which replicas it writes to, and whether I/O goes on, can't be seen; on record are %s", host, problem, states(v))
	}
	if v.Assembly.Held {
		add(Degraded, ReasonSwitchingOver, "%s is taking the volume over; I/O waits until it has", host)
	} else if why := standbyLacks(v, s); why != "" {
		add(Degraded, ReasonStandbyMissing, "there is no standby for raid host %s: %s; should that node be lost, I/O waits until the volume is assembled elsewhere", host, why)
	}
	return found
}

// runs says whether a host may use the volume now.
func runs(v *volume.Volume) bool {
	return v.Assembly != nil && v.Assembly.Running && !v.Assembly.Stopping && len(v.Publications) > 0
}

// waiting says why no replica can be used, and whether one that returns changes that.
func waiting(v *volume.Volume, s Sight, rest string) []Finding {
	good := v.InState(volume.ReplicaInSync)
	lost := len(good) > 0 && !slices.ContainsFunc(good, func(r volume.Replica) bool {
		what, loaded := s.absent(v, r)
		return what == "" || !loaded
	})
	suspects := slices.ContainsFunc(v.InState(volume.ReplicaSuspect), func(r volume.Replica) bool {
		leg, _ := s.Leg(v, r)
		return leg == LegMember || leg == LegFailing
	})
	finding := Finding{Severity: Inaccessible, Reason: ReasonNoGoodReplica}
	switch {
	case lost:
		finding.Reason = ReasonSalvageNeeded
		finding.Message = fmt.Sprintf("the last good replica is lost, and the volume waits for an operator: %s; restore a backup, or go on with what another replica holds (%q)", rest, salvage(v))
		return []Finding{{Severity: DataLoss, Reason: ReasonLastCopyLost, Message: "the last good replica is lost: " + rest}, finding}
	case len(good) == 0 && !suspects:
		finding.Reason = ReasonSalvageNeeded
		finding.Message = fmt.Sprintf("no replica is in-sync on record, and the volume waits for an operator: %s; choose the replica to go on with (%q)", rest, salvage(v))
	case len(good) == 0:
		finding.Message = "no replica is known to be good, and I/O may wait: " + rest + "; a suspect that stays connected for the stall budget counts as good again"
	default:
		finding.Message = fmt.Sprintf("no good replica can be reached, and the volume waits for one: %s; bring its node back, or, if it never returns, choose another replica (%q)", rest, salvage(v))
	}
	return []Finding{finding}
}

func salvage(v *volume.Volume) string { return "holdfast volume salvage " + v.Name }

// standbyLacks says why a running volume has no standby that could take over; "" if it has one, or is to have none.
func standbyLacks(v *volume.Volume, s Sight) string {
	switch {
	case !v.WantsStandby(), v.Owner == "": // the node that stages the volume makes it
		return ""
	case v.Standby == nil:
		return "none is on record; one is made when another SPDK node can run it"
	case s.Err(v.Standby.RaidHost) != nil:
		return s.Problem(v.Standby.RaidHost)
	case !v.Standby.Running:
		return "the one on " + v.Standby.RaidHost + " is being made"
	}
	return ""
}

// states lists the replicas with their states on record.
func states(v *volume.Volume) string {
	var all []string
	for _, r := range v.Replicas {
		all = append(all, fmt.Sprintf("%s on %s: %s", r.ID, r.Node, r.State))
	}
	return strings.Join(all, ", ")
}

func at(t time.Time) string { return t.UTC().Format(time.RFC3339) }
