package converge_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// silent answers no call and counts them.
type silent struct{ calls atomic.Int32 }

func (s *silent) Call(_ context.Context, method string, _, _ any) error {
	s.calls.Add(1)
	return fmt.Errorf("%s: %w", method, spdk.ErrUnreachable)
}

// A node that doesn't answer costs one time-out a run, not one a round: the first observation finds out, and the second, after the
// replicas were made on the others, does without it.
func TestSilentNodeIsAskedOnce(t *testing.T) {
	c := cluster.New(t, 3, cluster.Options{})
	dead := &silent{}
	nodes, closeAll, err := c.Config.Cluster(func(node string, rpc spdk.Caller) spdk.Caller {
		if node == "n3" {
			return dead
		}
		return rpc
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closeAll)
	parameters, err := volume.ParseParameters(nil)
	if err != nil {
		t.Fatal(err)
	}
	v := &volume.Volume{ID: volume.IDFor("x"), UUID: uuid.New(), SizeBytes: 8 << 20, Parameters: parameters, Phase: volume.PhaseCreating}
	for i, node := range c.Names() {
		v.Replicas = append(v.Replicas, volume.Replica{ID: fmt.Sprintf("%08d", i), Node: node, LvStore: cluster.Pool, State: volume.ReplicaPlanned})
	}
	var blocked *converge.BlockedError
	err = converge.New(nodes).Run(t.Context(), v)
	if !errors.As(err, &blocked) || !blocked.Waits("n3") {
		t.Fatalf("got %v", err)
	}
	if n := dead.calls.Load(); n != 1 {
		t.Errorf("the silent node was asked %d times", n)
	}
	seen := c.Observe(v)
	for _, r := range v.Replicas[:2] {
		if _, ok := seen.Nodes[r.Node].Replicas[r.ID]; !ok {
			t.Errorf("replica on %s was not made", r.Node)
		}
	}
}
