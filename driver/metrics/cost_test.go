package metrics_test

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-csi/holdfast/driver/metrics"
)

type instant struct{}

func (instant) Call(context.Context, string, any, any) error { return nil }

// What a call to SPDK costs more for being observed.
func BenchmarkObservedCall(b *testing.B) {
	rpc := metrics.NewSPDK(prometheus.NewRegistry()).Wrap("n1", instant{})
	for b.Loop() {
		_ = rpc.Call(b.Context(), "bdev_raid_get_bdevs", nil, nil)
	}
}
