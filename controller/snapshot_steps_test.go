package controller_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// everySnapshotStep does for flows of snapshots what everyStep does for those of volumes. source is a volume of two replicas that begin with 1s.
func everySnapshotStep(t *testing.T, prepare func(b *bench, name, source string), flow func(b *bench, name, source string) error, check func(b *bench, name, source string)) {
	t.Parallel()
	cluster.Every(t, func(t *testing.T, steps *cluster.Steps) func(*testing.T, func(func() error) bool) {
		b := newBench(t, 3, cluster.Options{Steps: steps})
		count := 0
		return func(t *testing.T, faulty func(func() error) bool) {
			count++
			name := fmt.Sprintf("s-%d", count)
			source := made(b, "source of "+name)
			b.fill(source, 1)
			prepare(b, name, source)
			if faulty(func() error { return flow(b, name, source) }) {
				b.restart()
			}
			if err := flow(b, name, source); err != nil {
				t.Fatalf("again, without a fault: %v", err)
			}
			check(b, name, source)
			for _, id := range []string{volume.IDFor(name), source} {
				b.must(b.remove(id))
			}
			b.must(b.removeSnapshot(volume.SnapshotIDFor(name)))
			for range 2 { // what lies on what has just gone
				b.must(b.Sweep(within(t)))
			}
			b.WantEmpty()
		}
	})
}

func nothing(*bench, string, string) {}

func taken(b *bench, name, source string) {
	b.t.Helper()
	b.mustSnapshot(name, source)
	b.fill(source, 2)
}

func TestEveryStepOfCreateSnapshotMayFail(t *testing.T) {
	everySnapshotStep(t, nothing,
		func(b *bench, name, source string) error { _, err := b.snapshot(name, source); return err },
		func(b *bench, name, source string) {
			b.wantTaken(volume.SnapshotIDFor(name), 2, 1)
			if v := b.Record(source); v.Snapshot != nil {
				b.t.Errorf("the wish is still on record: %+v", v.Snapshot)
			}
		})
}

func TestEveryStepOfDeleteSnapshotMayFail(t *testing.T) {
	everySnapshotStep(t, taken,
		func(b *bench, name, _ string) error { return b.removeSnapshot(volume.SnapshotIDFor(name)) },
		func(b *bench, name, _ string) {
			b.must(b.Sweep(within(b.t)))
			if _, err := b.Store.GetSnapshot(b.t.Context(), volume.SnapshotIDFor(name)); !errors.Is(err, volume.ErrNoSnapshot) {
				b.t.Errorf("it is still on record: %v", err)
			}
		})
}

func TestEveryStepOfRestoreMayFail(t *testing.T) {
	everySnapshotStep(t, taken,
		func(b *bench, name, _ string) error {
			_, err := b.create(from(order(name, 16*mib, volume.ParamReplicas, "2"), volume.SnapshotIDFor(name)))
			return err
		},
		func(b *bench, name, _ string) {
			b.wantCreated(volume.IDFor(name), 2)
			b.wantFill(volume.IDFor(name), 1)
		})
}

func TestEveryStepOfCloneMayFail(t *testing.T) {
	everySnapshotStep(t, nothing,
		func(b *bench, name, source string) error {
			_, err := b.create(from(order(name, 8*mib, volume.ParamReplicas, "2"), source))
			return err
		},
		func(b *bench, name, source string) {
			b.fill(source, 2)
			b.wantCreated(volume.IDFor(name), 2)
			b.wantFill(volume.IDFor(name), 1)
		})
}
