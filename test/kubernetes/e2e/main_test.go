//go:build e2e

// Package e2e runs the driver in a real cluster, installed by its chart; see package cluster. All tests share the cluster: each has claims and
// pods of its own.
package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/kubernetes/cluster"
)

// patience bounds what is to succeed: software emulation on a busy machine is slow.
const patience = 20 * time.Minute

// parameters are those of the StorageClass.
var parameters = map[string]string{"replicas": "3"}

var (
	shared *cluster.Cluster
	// failed is why there is no cluster.
	failed error
)

func TestMain(m *testing.M) {
	code := cluster.Main(m)
	if shared != nil {
		if err := shared.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "end the cluster:", err)
		}
	}
	os.Exit(code)
}

// run returns the cluster with the driver, and sees to it that a failed test tells where the logs are and a good one its time.
func run(t *testing.T) *cluster.Cluster {
	t.Helper()
	if shared == nil {
		logs, err := os.MkdirTemp("", "holdfast-cluster-")
		must(t, err)
		t.Log("logs:", logs)
		shared, err = cluster.Start(t.Context(), cluster.Options{Workers: 1, Logs: logs})
		if err == nil {
			err = shared.Install(t.Context(), cluster.Release{Tag: "before", Parameters: parameters})
		}
		if err != nil {
			failed = fmt.Errorf("%w; logs are in %s", err, shared.Report(t.Context()))
		}
	}
	must(t, failed)
	begin := time.Now()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("logs are in", shared.Report(context.WithoutCancel(t.Context())))
		}
		t.Logf("%s took %.0f s", t.Name(), time.Since(begin).Seconds())
	})
	return shared
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
