package metrics

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-csi/holdfast/controller"
	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Controller counts what the controller does. It implements controller.Observer.
type Controller struct {
	*replicas
	replacements prometheus.Counter
	sweeps       *prometheus.HistogramVec
}

var _ controller.Observer = (*Controller)(nil)

// NewController returns a Controller with its metrics in the registry.
func NewController(registry prometheus.Registerer) *Controller {
	c := &Controller{
		replicas: newReplicas(registry),
		replacements: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Name: "replica_replacements_total", Help: "Replicas that took the places of lost ones.",
		}),
		sweeps: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "sweep_duration_seconds", Buckets: []float64{.01, .05, .1, .5, 1, 2.5, 5, 10, 30, 60},
			Help: "How long sweeps over all records took; the result unfinished says that an error has left something undone.",
		}, []string{"result"}),
	}
	for _, result := range []string{finished, unfinished} {
		c.sweeps.WithLabelValues(result)
	}
	registry.MustRegister(c.replacements, c.sweeps)
	return c
}

const unfinished = "unfinished"

// ReplicasReplaced implements controller.Observer.
func (c *Controller) ReplicasReplaced(count int) { c.replacements.Add(float64(count)) }

// Swept implements controller.Observer.
func (c *Controller) Swept(took time.Duration, err error) {
	result := finished
	if err != nil {
		result = unfinished
	}
	c.sweeps.WithLabelValues(result).Observe(took.Seconds())
}

// What a controller tells of how things are, by its last sweep.
var (
	lastSweep     = describe("last_sweep_timestamp_seconds", "When the last sweep ended that could read all records; before the first, when the controller began.")
	volumes       = describe("volumes", "Volumes on record, by condition and by whether a node service has them staged.", "condition", "staged")
	replicasOn    = describe("replicas", "Replicas on record, by SPDK node and state.", "spdk_node", "state")
	snapshots     = describe("snapshots", "Snapshots on record, by phase, those included that only clones need.", "phase")
	lvstoreSize   = describe("lvstore_size_bytes", "Size of an lvstore that may be used.", "spdk_node", "lvstore")
	lvstoreFree   = describe("lvstore_free_bytes", "What is free of an lvstore.", "spdk_node", "lvstore")
	lvstoreCommit = describe("lvstore_committed_bytes", "What of an lvstore is promised to replicas, thin or not, and held by snapshots.", "spdk_node", "lvstore")
	thinPressure  = describe("lvstore_thin_pressure_ratio", "What thin replicas may yet take of an lvstore, relative to what is free. Above 1 a write can find no room.", "spdk_node", "lvstore")
	orphanLvols   = describe("orphan_lvols", "Lvols with a name of Holdfast's that no record speaks of.", "spdk_node")
)

var (
	snapshotPhases   = []volume.SnapshotPhase{volume.SnapshotTaking, volume.SnapshotReady, volume.SnapshotDeleting}
	volumeConditions = slices.DeleteFunc(slices.Clone(stagedConditions), func(c condition.State) bool { return c == conditionGuest || c == conditionUnknown })
)

// Swept tells how things were when a controller last swept. It implements prometheus.Collector.
type Swept struct {
	// Server is the controller.
	Server *controller.Server
}

// Describe implements prometheus.Collector.
func (Swept) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		lastSweep, volumes, replicasOn, snapshots, lvstoreSize, lvstoreFree, lvstoreCommit, thinPressure, orphanLvols, spdkNodeUp,
	} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (s Swept) Collect(metrics chan<- prometheus.Metric) {
	status, to := s.Server.Status(), sink(metrics)
	to.gauge(lastSweep, float64(status.SweptAt.UnixMilli())/1000)
	to.records(status)
	for _, l := range status.LvStores {
		to.gauge(lvstoreSize, float64(l.SizeBytes), l.Node, l.Name)
		to.gauge(lvstoreFree, float64(l.FreeBytes), l.Node, l.Name)
		to.gauge(lvstoreCommit, float64(l.CommittedBytes), l.Node, l.Name)
		to.gauge(thinPressure, pressure(l), l.Node, l.Name)
	}
	for name, count := range status.Orphans {
		to.gauge(orphanLvols, float64(count), name)
	}
	for name, up := range status.SPDKNodes {
		to.flag(spdkNodeUp, up, name)
	}
}

// records sends the counts of records.
func (s sink) records(status controller.Status) {
	conditions := map[condition.State]map[string]int{}
	states := map[string]map[volume.ReplicaState]int{}
	for name := range status.SPDKNodes {
		states[name] = map[volume.ReplicaState]int{}
	}
	for _, c := range volumeConditions {
		conditions[c] = map[string]int{"yes": 0, "no": 0}
	}
	for _, v := range status.Volumes {
		staged := "no"
		if v.Record.Owner != "" {
			staged = "yes"
		}
		conditions[v.State][staged]++
		for _, r := range v.Record.Replicas {
			if states[r.Node] == nil {
				states[r.Node] = map[volume.ReplicaState]int{}
			}
			states[r.Node][r.State]++
		}
	}
	for c, counts := range conditions {
		for staged, count := range counts {
			s.gauge(volumes, float64(count), string(c), staged)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(states)) {
		for _, state := range replicaStates {
			s.gauge(replicasOn, float64(states[name][state]), name, string(state))
		}
	}
	phases := map[volume.SnapshotPhase]int{}
	for _, sn := range status.Snapshots {
		phases[sn.Phase]++
	}
	for _, phase := range snapshotPhases {
		s.gauge(snapshots, float64(phases[phase]), string(phase))
	}
}

// pressure is what is promised of an lvstore and not taken yet, relative to what is free.
func pressure(l controller.LvStoreStatus) float64 {
	due := l.CommittedBytes - (l.SizeBytes - l.FreeBytes)
	switch {
	case due <= 0:
		return 0
	case l.FreeBytes <= 0:
		return math.Inf(1)
	}
	return float64(due) / float64(l.FreeBytes)
}
