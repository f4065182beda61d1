package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-csi/holdfast/node"
)

// Node counts what happens to the volumes that are staged on a node. It implements node.Observer.
type Node struct {
	*replicas
	failovers     *prometheus.CounterVec
	pauses, holds *prometheus.HistogramVec
	reconnects    prometheus.Counter
}

var _ node.Observer = (*Node)(nil)

// NewNode returns a Node with its metrics in the registry.
func NewNode(registry prometheus.Registerer) *Node {
	n := &Node{
		replicas: newReplicas(registry),
		failovers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "failovers_total", Help: "Times that a staged volume has left its raid host, by cause.",
		}, []string{"cause"}),
		pauses: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "failover_duration_seconds", Buckets: []float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 20, 30, 60, 300},
			Help: "How long failovers took from when their cause was noticed until the target was ANA optimized; I/O waits about as long.",
		}, []string{"cause"}),
		holds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "snapshot_pause_duration_seconds", Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2, 3, 5},
			Help: "How long I/O of staged volumes was paused for snapshots, by whether the lvols were taken.",
		}, []string{"result"}),
		reconnects: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Name: "path_reconnects_total", Help: "Paths to raid hosts that were up again after a sweep had found them down.",
		}),
	}
	for _, cause := range node.Causes() {
		n.failovers.WithLabelValues(string(cause))
		n.pauses.WithLabelValues(string(cause))
	}
	for _, result := range []string{taken, failed} {
		n.holds.WithLabelValues(result)
	}
	registry.MustRegister(n.failovers, n.pauses, n.holds, n.reconnects)
	return n
}

// FailoverBegan implements node.Observer.
func (n *Node) FailoverBegan(cause node.Cause) { n.failovers.WithLabelValues(string(cause)).Inc() }

// FailoverEnded implements node.Observer.
func (n *Node) FailoverEnded(cause node.Cause, pause time.Duration) {
	n.pauses.WithLabelValues(string(cause)).Observe(pause.Seconds())
}

// SnapshotPaused implements node.Observer.
func (n *Node) SnapshotPaused(pause time.Duration, wasTaken bool) {
	result := failed
	if wasTaken {
		result = taken
	}
	n.holds.WithLabelValues(result).Observe(pause.Seconds())
}

// PathReconnected implements node.Observer.
func (n *Node) PathReconnected() { n.reconnects.Inc() }
