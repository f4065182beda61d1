package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// rebuildBuckets are in seconds, a minute to two days.
var rebuildBuckets = []float64{10, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 86400, 172800}

// Results of a rebuild and of a pause for a snapshot.
const (
	finished = "finished"
	failed   = "failed"
	taken    = "taken"
)

// replicas counts what becomes of replicas, in the process that puts it on record.
type replicas struct {
	suspected, ejected, begun prometheus.Counter
	rebuilds                  *prometheus.HistogramVec
}

func newReplicas(registry prometheus.Registerer) *replicas {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
	}
	r := &replicas{
		suspected: counter("replicas_suspected_total", "Replicas that this process has put on record as suspect."),
		ejected:   counter("replicas_ejected_total", "Replicas that this process has put on record as out-of-sync, having been in-sync or suspect."),
		begun:     counter("rebuilds_begun_total", "Rebuilds that this process has begun."),
		rebuilds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "rebuild_duration_seconds", Buckets: rebuildBuckets,
			Help: "How long rebuilds were on record, until the replica was in-sync or the rebuild had failed.",
		}, []string{"result"}),
	}
	for _, result := range []string{finished, failed} {
		r.rebuilds.WithLabelValues(result)
	}
	registry.MustRegister(r.suspected, r.ejected, r.begun, r.rebuilds)
	return r
}

// ReplicaChanged is as node.Observer and controller.Observer say.
func (r *replicas) ReplicaChanged(c volume.ReplicaChange) {
	switch {
	case c.To == volume.ReplicaSuspect:
		r.suspected.Inc()
	case c.To == volume.ReplicaOutOfSync && (c.From == volume.ReplicaInSync || c.From == volume.ReplicaSuspect):
		r.ejected.Inc()
	case c.To == volume.ReplicaRebuilding:
		r.begun.Inc()
	case c.From == volume.ReplicaRebuilding && c.To == volume.ReplicaInSync:
		r.ended(finished, c.After)
	case c.From == volume.ReplicaRebuilding:
		r.ended(failed, c.After)
	}
}

func (r *replicas) ended(result string, after time.Duration) {
	r.rebuilds.WithLabelValues(result).Observe(after.Seconds())
}

// replicaStates are all states that a replica can have on record.
var replicaStates = []volume.ReplicaState{
	volume.ReplicaPlanned, volume.ReplicaInSync, volume.ReplicaSuspect, volume.ReplicaOutOfSync, volume.ReplicaRebuilding, volume.ReplicaRemoving,
}
