package node_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// everyStep runs a flow with each of its steps failing in each mode: uses of the store, operations of the machine, calls to SPDK. A
// service that crashed is replaced. Then the flow is run again without a fault, the outcome checked, the volume detached, and
// nothing may be left. With blank each step gets a volume that was never used, else one serves them all.
func everyStep(t *testing.T, blank bool, prepare func(b *bench, id string), flow func(b *bench, id string) error, check func(b *bench, id string)) {
	everyStepAs(t, volume.EncryptionNone, blank, prepare, flow, check)
}

func everyStepAs(t *testing.T, encryption volume.Encryption, blank bool, prepare func(b *bench, id string), flow func(b *bench, id string) error, check func(b *bench, id string)) {
	t.Parallel()
	cluster.Every(t, func(t *testing.T, steps *cluster.Steps) func(*testing.T, func(func() error) bool) {
		b := newBench(t, 2, cluster.Options{Steps: steps})
		b.secrets = right
		id, count := "", 0
		return func(t *testing.T, faulty func(func() error) bool) {
			if id == "" || blank {
				count++
				id = b.publishedAs(fmt.Sprintf("volume-%d", count), encryption)
			}
			prepare(b, id)
			if faulty(func() error { return flow(b, id) }) {
				b.restart()
			}
			if err := flow(b, id); err != nil {
				t.Fatalf("again, without a fault: %v", err)
			}
			check(b, id)
			b.must(b.unpublish(id))
			b.must(b.unstage(id))
			b.wantDetached(id)
			if blank {
				b.dispose(id)
				b.WantEmpty()
			}
		}
	})
}

func staged(b *bench, id string) {
	b.t.Helper()
	b.must(b.stage(id))
}

func inUse(b *bench, id string) {
	b.t.Helper()
	b.must(b.stage(id))
	b.must(b.publish(id))
}

func TestEveryStepOfStageMayFail(t *testing.T) {
	everyStep(t, true, func(*bench, string) {}, (*bench).stage, func(b *bench, id string) {
		b.must(b.publish(id))
		b.wantUsable(b.target())
	})
}

func TestEveryStepOfNodePublishMayFail(t *testing.T) {
	everyStep(t, false, staged, (*bench).publish, func(b *bench, _ string) { b.wantUsable(b.target()) })
}

func TestEveryStepOfNodeUnpublishMayFail(t *testing.T) {
	everyStep(t, false, inUse, (*bench).unpublish, func(b *bench, _ string) {
		if _, err := os.Stat(b.target()); err == nil {
			b.t.Error("the target is still there")
		}
	})
}

func TestEveryStepOfUnstageMayFail(t *testing.T) {
	everyStep(t, false, staged, (*bench).unstage, (*bench).wantDetached)
}

func TestEveryStepOfStageOfAnEncryptedVolumeMayFail(t *testing.T) {
	everyStepAs(t, volume.EncryptionLUKS2, true, func(*bench, string) {}, (*bench).stage, func(b *bench, id string) {
		b.must(b.publish(id))
		b.wantUsable(b.target())
	})
}

func TestEveryStepOfUnstageOfAnEncryptedVolumeMayFail(t *testing.T) {
	everyStepAs(t, volume.EncryptionLUKS2, false, staged, (*bench).unstage, (*bench).wantDetached)
}
