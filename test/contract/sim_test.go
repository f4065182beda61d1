package contract

import (
	"path/filepath"
	"strconv"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/spdk/sim"
)

// simulated starts n simulated targets, set up as the real ones are for this suite, and
// returns their sockets.
func simulated(t *testing.T, n int) []string {
	t.Helper()
	dir := t.TempDir()
	network := sim.NewNetwork(clock.RealClock{})
	var all []string
	for i := range n {
		name := "n" + strconv.Itoa(i+1)
		node, err := sim.New(sim.Config{
			Name: name, Socket: filepath.Join(dir, name), Network: network, Logger: logr.Discard(),
			Pools:     []sim.PoolConfig{{Name: "lvs", SizeBytes: 4 << 30, ClusterSize: 1 << 20}},
			Transport: map[string]any{"kas": 5, "min_kato": 2000},
			NVMeOptions: map[string]any{
				"action_on_timeout": "reset", "timeout_us": 60_000_000, "timeout_admin_us": 30_000_000,
				"keep_alive_timeout_ms": 10_000, "transport_ack_timeout": 10,
			},
		})
		ok(t, err)
		ok(t, node.Start())
		t.Cleanup(func() { node.Close() })
		all = append(all, node.Socket())
	}
	return all
}
