package metrics

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-csi/holdfast/spdk"
)

// SPDK counts and times the JSON-RPC calls to SPDK nodes.
type SPDK struct {
	methods, nodes *prometheus.HistogramVec
}

// NewSPDK returns an SPDK with its metrics in the registry.
func NewSPDK(registry prometheus.Registerer) *SPDK {
	buckets := []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	s := &SPDK{
		methods: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "spdk_call_duration_seconds", Help: "How long JSON-RPC calls to SPDK took, by method and outcome.", Buckets: buckets,
		}, []string{"method", "outcome"}),
		nodes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "spdk_node_call_duration_seconds", Help: "How long JSON-RPC calls to each SPDK node took, by outcome.", Buckets: buckets,
		}, []string{"spdk_node", "outcome"}),
	}
	registry.MustRegister(s.methods, s.nodes)
	return s
}

// Wrap returns a Caller that observes the calls to a node.
func (s *SPDK) Wrap(node string, rpc spdk.Caller) spdk.Caller { return observed{s, node, rpc} }

type observed struct {
	*SPDK
	node string
	rpc  spdk.Caller
}

// Call implements spdk.Caller.
func (o observed) Call(ctx context.Context, method string, params, result any) error {
	begin := time.Now()
	err := o.rpc.Call(ctx, method, params, result)
	took, outcome := time.Since(begin).Seconds(), outcomeOf(err)
	o.methods.WithLabelValues(method, outcome).Observe(took)
	o.nodes.WithLabelValues(o.node, outcome).Observe(took)
	return err
}

// outcomeOf names what became of a call.
func outcomeOf(err error) string {
	var answer *spdk.Error
	switch {
	case err == nil:
		return "done"
	case errors.As(err, &answer):
		return "refused"
	case errors.Is(err, spdk.ErrUnreachable):
		return "unreachable"
	}
	return "unknown"
}
