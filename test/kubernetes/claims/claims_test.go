//go:build e2e

// Package claims has many claims made at once in a real API server: Kubernetes' own volume controller and provisioner over the driver's
// controller, its records as resources there, and simulated SPDK nodes; see package cluster.
package claims

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/kubernetes/cluster"
)

const (
	claims = 1000
	// patience bounds what is to succeed, on a busy machine.
	patience = 20 * time.Minute
)

func TestMain(m *testing.M) { os.Exit(cluster.Main(m)) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Every one of them is bound, to a volume of its own, and nothing is left of them when they are deleted.
func TestThousandClaimsAtOnceAreBound(t *testing.T) {
	logs, err := os.MkdirTemp("", "holdfast-claims-")
	must(t, err)
	t.Log("logs:", logs)
	c, err := cluster.Start(t.Context(), cluster.Options{Logs: logs})
	t.Cleanup(func() {
		if t.Failed() {
			c.Report(context.WithoutCancel(t.Context()))
		}
		must(t, c.Close())
	})
	must(t, err)
	controller, provisioner, err := c.InstallBeside(t.Context(), cluster.Release{Tag: "before", Parameters: map[string]string{"replicas": "3"}, Binding: "Immediate"})
	must(t, err)

	var manifest strings.Builder
	for i := range claims {
		fmt.Fprintf(&manifest, `---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim-%d}
spec: {storageClassName: holdfast, accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}
`, i)
	}
	begin := time.Now()
	_, err = c.Kubectl(t.Context(), manifest.String(), "create", "-f", "-")
	must(t, err)
	t.Logf("%d claims are made after %.0f s", claims, time.Since(begin).Seconds())
	await(t, c, func(out string) bool { return strings.Count(out, "Bound ") == claims }, "get", "pvc", "-o", `jsonpath={range .items[*]}{.status.phase} {end}`)
	t.Logf("%d claims are bound after %.0f s", claims, time.Since(begin).Seconds())
	volumes := map[string]bool{}
	out, err := c.Kubectl(t.Context(), "", "get", "pv", "-o", `jsonpath={range .items[*]}{.spec.csi.volumeHandle} {end}`)
	must(t, err)
	for _, id := range strings.Fields(out) {
		volumes[id] = true
	}
	records, err := c.Kubectl(t.Context(), "", "get", "volumes.csi.holdfast.dev", "-o", "name")
	must(t, err)
	if n := len(strings.Fields(records)); len(volumes) != claims || n != claims {
		t.Errorf("%d claims are bound to %d volumes, of which %d are on record", claims, len(volumes), n)
	}

	begin = time.Now()
	_, err = c.Kubectl(t.Context(), "", "delete", "pvc", "--all", "--wait=false")
	must(t, err)
	await(t, c, func(out string) bool { return out == "" }, "get", "pv,volumes.csi.holdfast.dev", "-o", "name")
	t.Logf("they are deleted after %.0f s", time.Since(begin).Seconds())
	must(t, c.SPDK.Leftovers(t.Context()))

	for name, p := range map[string]interface{ PeakMemory() (int64, error) }{"controller": controller, "csi-provisioner": provisioner} {
		bytes, err := p.PeakMemory()
		must(t, err)
		t.Logf("%s had %d MiB of memory at the most", name, bytes>>20)
	}
}

func await(t *testing.T, c *cluster.Cluster, done func(string) bool, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := c.Await(ctx, done, args...)
	must(t, err)
}
