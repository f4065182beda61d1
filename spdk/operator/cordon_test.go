package operator_test

import (
	"testing"

	"github.com/holdfast-csi/holdfast/spdk/operator"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

func TestCordonIsListedUntilItIsTakenBack(t *testing.T) {
	b := newBench(t, 2)
	wantError(t, b.Cordon(t.Context(), "n9", true), volume.ErrNodeUnknown)
	for _, cordoned := range []bool{true, true, false} {
		b.must(b.Cordon(t.Context(), "n2", cordoned))
		nodes, err := b.Nodes(t.Context())
		b.must(err)
		if nodes[0].Cordoned || nodes[1].Cordoned != cordoned {
			t.Errorf("listed is %+v", nodes)
		}
	}
}

func TestDrainMovesNothingToACordonedNode(t *testing.T) {
	b := newBench(t, 3)
	v := b.volume("moves", "n1", "n2", "n3")
	b.claim(v.ID, "n1")
	b.must(b.Cordon(t.Context(), "n2", true))
	moves := planned(b)
	if len(moves) != 1 || moves[0].To != "n3" {
		t.Errorf("planned is %+v", moves)
	}
}

// planned plans the drain of n1.
func planned(b *bench) []operator.PlannedMove {
	b.t.Helper()
	volumes, err := b.Volumes(b.t.Context())
	b.must(err)
	return operator.PlanDrain(volumes, "n1", b.Look(b.t.Context()))
}
