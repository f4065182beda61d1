package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// What a node service tells of how things are. Those with the labels volume_id and volume have a series for each volume that is staged on the
// node, and no others.
var (
	stagedVolumes   = describe("staged_volumes", "Volumes that are staged on this node, by condition.", "condition")
	stagedReplicas  = describe("staged_replicas", "Replicas of the volumes that are staged on this node, by their state on record.", "state")
	stagedLegs      = describe("staged_legs", "Legs of the volumes that are staged on this node, as their raid hosts have them.", "state")
	withoutStandby  = describe("staged_volumes_without_standby", "Staged volumes that are to have a standby and have none that is ready.")
	goodReplicas    = describe("staged_volume_good_replicas", "Good replicas of a staged volume.", "volume_id", "volume")
	wantedReplicas  = describe("staged_volume_wanted_replicas", "Replicas that a staged volume is to have.", "volume_id", "volume")
	waitingSeconds  = describe("staged_volume_io_waiting_seconds", "How long I/O of a staged volume has been seen to wait; 0 if it does not.", "volume_id", "volume")
	rebuildRatio    = describe("staged_volume_rebuild_ratio", "How much of a replica of a staged volume is rebuilt, 0 to 1, while one is.", "volume_id", "volume")
	volumeFailovers = describe("staged_volume_failovers_total", "Times that a staged volume has left its raid host.", "volume_id", "volume")
	hostPaths       = describe("paths", "NVMe/TCP paths of this node to targets of volumes, by their state.", "state")
	spdkNodeUp      = describe("spdk_node_up", "Whether an SPDK node answered when it was last looked at.", "spdk_node")
)

// stagedConditions are the conditions that a staged volume can have; conditionGuest is that of one that another node
// looks after, conditionUnknown that of one whose record isn't known.
var stagedConditions = []condition.State{
	condition.StateHealthy, condition.StateDegraded, condition.StateRebuilding, condition.StateAtRisk, condition.StateWaiting, condition.StateCreating,
	condition.StateDeleting, conditionGuest, conditionUnknown,
}

const (
	conditionGuest   condition.State = "guest"
	conditionUnknown condition.State = "unknown"
)

// legNames are how legs are called: the first is one that the raid host doesn't have, or that can't be seen.
var legNames = map[condition.Leg]string{
	condition.LegNone: "missing", condition.LegMember: "member", condition.LegFailing: "failing", condition.LegRebuilding: "rebuilding",
}

// pathStates are those that the kernel's NVMe host has for a controller (drivers/nvme/host/sysfs.c, nvme_sysfs_show_state).
var pathStates = []string{"new", "live", "resetting", "connecting", "deleting", "deleting (no IO)", "dead"}

// Staged tells how the volumes are that are staged on a node. It implements prometheus.Collector.
type Staged struct {
	// Server is the node service that has them staged.
	Server *node.Server
}

// Describe implements prometheus.Collector.
func (Staged) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		stagedVolumes, stagedReplicas, stagedLegs, withoutStandby, goodReplicas, wantedReplicas, waitingSeconds, rebuildRatio, volumeFailovers, hostPaths,
		spdkNodeUp,
	} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (s Staged) Collect(metrics chan<- prometheus.Metric) {
	status, to := s.Server.Status(), sink(metrics)
	conditions, states, legs := map[condition.State]int{}, map[volume.ReplicaState]int{}, map[condition.Leg]int{}
	unprotected := 0
	for _, v := range status.Volumes {
		if v.Guest {
			conditions[conditionGuest]++
			continue
		}
		if v.Record == nil {
			conditions[conditionUnknown]++
			continue
		}
		conditions[v.Condition.State]++
		for _, r := range v.Record.Replicas {
			states[r.State]++
		}
		for _, leg := range v.Legs {
			legs[leg]++
		}
		if v.WithoutStandby {
			unprotected++
		}
		to.staged(v)
	}
	for _, c := range stagedConditions {
		to.gauge(stagedVolumes, float64(conditions[c]), string(c))
	}
	for _, state := range replicaStates {
		to.gauge(stagedReplicas, float64(states[state]), string(state))
	}
	for leg, name := range legNames {
		to.gauge(stagedLegs, float64(legs[leg]), name)
	}
	to.gauge(withoutStandby, float64(unprotected))
	for _, state := range pathStates {
		to.gauge(hostPaths, float64(status.Paths[state]), state)
	}
	for name, up := range status.SPDKNodes {
		to.flag(spdkNodeUp, up, name)
	}
}

// staged sends what there is to tell of one volume.
func (s sink) staged(v node.VolumeStatus) {
	labels := []string{v.ID, v.Record.Name}
	s.gauge(goodReplicas, float64(v.Condition.Good), labels...)
	s.gauge(wantedReplicas, float64(v.Condition.Wanted), labels...)
	s.gauge(waitingSeconds, v.Waiting.Seconds(), labels...)
	s <- prometheus.MustNewConstMetric(volumeFailovers, prometheus.CounterValue, float64(v.Failovers), labels...)
	if v.Condition.Rebuild != nil {
		s.gauge(rebuildRatio, float64(v.Condition.Rebuild.Percent)/100, labels...)
	}
}
