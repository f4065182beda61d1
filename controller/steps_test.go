package controller_test

import (
	"fmt"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// everyStep runs a flow with each of its steps failing in each mode; a controller that crashed is replaced. Then the flow is run
// again without a fault, the outcome checked, the volume deleted, and nothing may be left. Two replicas on three nodes leave a
// place to go to.
func everyStep(t *testing.T, prepare func(b *bench, name string) (id string), flow func(b *bench, name, id string) error, check func(b *bench, id string)) {
	t.Parallel()
	cluster.Every(t, func(t *testing.T, steps *cluster.Steps) func(*testing.T, func(func() error) bool) {
		b := newBench(t, 3, cluster.Options{Steps: steps})
		count := 0
		return func(t *testing.T, faulty func(func() error) bool) {
			count++
			name := fmt.Sprintf("volume-%d", count)
			id := prepare(b, name)
			if faulty(func() error { return flow(b, name, id) }) {
				b.restart()
			}
			if err := flow(b, name, id); err != nil {
				t.Fatalf("again, without a fault: %v", err)
			}
			id = volume.IDFor(name)
			check(b, id)
			b.must(b.unpublish(id))
			b.must(b.remove(id))
			b.must(b.Sweep(within(t)))
			b.WantEmpty()
		}
	})
}

func twoReplicas(b *bench, name string) (string, error) {
	return b.create(order(name, 8*mib, volume.ParamReplicas, "2"))
}

func made(b *bench, name string) string {
	b.t.Helper()
	id, err := twoReplicas(b, name)
	b.must(err)
	return id
}

func published(b *bench, name string) string {
	b.t.Helper()
	id := made(b, name)
	b.must(b.publish(id))
	return id
}

func TestEveryStepOfCreateMayFail(t *testing.T) {
	everyStep(t,
		func(*bench, string) string { return "" },
		func(b *bench, name, _ string) error { _, err := twoReplicas(b, name); return err },
		func(b *bench, id string) { b.wantCreated(id, 2) })
}

func TestEveryStepOfPublishMayFail(t *testing.T) {
	everyStep(t, made,
		func(b *bench, _, id string) error { return b.publish(id) },
		func(b *bench, id string) {
			if legs := b.wantPublished(id); len(legs) != 2 { // no node was down: one call that failed is no reason to do without a replica
				b.t.Errorf("legs are %v", legs)
			}
		})
}

func TestEveryStepOfUnpublishMayFail(t *testing.T) {
	everyStep(t, published,
		func(b *bench, _, id string) error { return b.unpublish(id) },
		func(b *bench, id string) {
			if v := b.Record(id); v.Assembly != nil || len(v.Publications) > 0 {
				b.t.Errorf("the record says %+v with publications %+v", v.Assembly, v.Publications)
			}
		})
}

// withKeys makes a volume whose replicas, raid hosts and hosts authenticate to each other.
func withKeys(b *bench, name string) (string, error) {
	return b.create(order(name, 8*mib, volume.ParamReplicas, "2", volume.ParamReplicaKey, cluster.Key, volume.ParamHostKey, cluster.Key))
}

func TestEveryStepWithKeysMayFail(t *testing.T) {
	t.Run("Publish", func(t *testing.T) {
		everyStep(t,
			func(b *bench, name string) string {
				id, err := withKeys(b, name)
				b.must(err)
				return id
			},
			func(b *bench, _, id string) error { return b.publish(id) },
			func(b *bench, id string) {
				if legs := b.wantPublished(id); len(legs) != 2 {
					b.t.Errorf("legs are %v", legs)
				}
			})
	})
	t.Run("Unpublish", func(t *testing.T) {
		everyStep(t,
			func(b *bench, name string) string {
				id, err := withKeys(b, name)
				b.must(err)
				b.must(b.publish(id))
				return id
			},
			func(b *bench, _, id string) error { return b.unpublish(id) },
			func(*bench, string) {})
	})
}

func TestEveryStepOfDeleteMayFail(t *testing.T) {
	everyStep(t, made,
		func(b *bench, _, id string) error { return b.remove(id) },
		func(*bench, string) {})
}
