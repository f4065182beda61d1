package metrics

import (
	"context"
	"path"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// CSI counts and times the calls of a CO.
type CSI struct {
	calls *prometheus.HistogramVec
}

// NewCSI returns a CSI with its metrics in the registry.
func NewCSI(registry prometheus.Registerer) *CSI {
	c := &CSI{calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: namespace, Name: "csi_call_duration_seconds", Help: "How long CSI calls took, by method and gRPC code.",
		Buckets: []float64{.005, .025, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120},
	}, []string{"method", "code"})}
	registry.MustRegister(c.calls)
	return c
}

// Observe is a grpc.UnaryServerInterceptor. It must see the codes that the CO sees: nothing may change an error after it.
func (c *CSI) Observe(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	begin := time.Now()
	resp, err := handler(ctx, req)
	c.calls.WithLabelValues(path.Base(info.FullMethod), status.Code(err).String()).Observe(time.Since(begin).Seconds())
	return resp, err
}
