package healing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// volumeBytes is the size of a bubble's volumes.
const volumeBytes = 8 * mib

// snapshot takes a snapshot of a volume.
func (b *bubble) snapshot(name, id string) error {
	_, err := b.controller.CreateSnapshot(b.ctx, &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: id})
	return err
}

// removeSnapshot deletes a snapshot and wants its record to go.
func (b *bubble) removeSnapshot(name string) {
	b.t.Helper()
	id := volume.SnapshotIDFor(name)
	b.must(b.again(func() error {
		_, err := b.controller.DeleteSnapshot(b.ctx, &csi.DeleteSnapshotRequest{SnapshotId: id})
		return err
	}))
	b.must(b.await("the snapshot's record is gone", func() bool {
		_, err := b.Store.GetSnapshot(b.ctx, id)
		return errors.Is(err, volume.ErrNoSnapshot)
	}))
}

// images returns what each lvol of a snapshot holds.
func (b *bubble) images(name string) [][]byte {
	b.t.Helper()
	return b.imagesOf(volume.SnapshotIDFor(name))
}

func (b *bubble) imagesOf(id string) [][]byte {
	b.t.Helper()
	sn := b.SnapshotRecord(id)
	var images [][]byte
	for _, r := range sn.InState(volume.SnapshotTaken) {
		p := make([]byte, volumeBytes)
		b.must(b.Sim(r.Node).ReadBdev(context.Background(), r.LvStore+"/"+sn.LvolName(r), p, 0))
		images = append(images, p)
	}
	return images
}

// wantMoment checks that a snapshot has so many replicas, all with the same bytes, and every write that was acknowledged before.
func (b *bubble) wantMoment(name string, replicas int, l *cluster.Load, before []uint32) {
	b.t.Helper()
	images := b.images(name)
	if len(images) != replicas {
		b.t.Fatalf("the snapshot has %d replicas, want %d: %+v", len(images), replicas, b.SnapshotRecord(volume.SnapshotIDFor(name)))
	}
	for _, image := range images {
		if !bytes.Equal(image, images[0]) {
			b.t.Fatal("the snapshot's replicas differ")
		}
	}
	if err := l.CheckMoment(before, images[0]); err != nil {
		b.t.Fatal(err)
	}
}

// gap returns the longest time without an acknowledged write until stop is closed.
func gap(l *cluster.Load, stop <-chan struct{}) time.Duration {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	longest, since, writes := time.Duration(0), time.Now(), l.Writes()
	for {
		select {
		case <-stop:
			return longest
		case now := <-ticker.C:
			if w := l.Writes(); w != writes {
				writes, since = w, now
			}
			longest = max(longest, now.Sub(since))
		}
	}
}

// In simulated time, with 2 ms a call: under load, each snapshot has the same bytes on all replicas and every acknowledged write, and I/O is
// paused for a moment.
func TestSnapshotsUnderLoadAreAlikeOnAllReplicas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 3, cluster.Options{RPCLatency: 2 * time.Millisecond})
		id, l := b.used("a", 64, 16, 40*time.Millisecond)
		stop := make(chan struct{})
		var longest time.Duration
		var wg sync.WaitGroup
		wg.Go(func() { longest = gap(l, stop) })
		var names []string
		snapshots := 8
		if testing.Short() {
			snapshots = 3
		}
		for i := range snapshots {
			name := fmt.Sprint("s", i)
			before, begin := l.Acknowledged(), time.Now()
			b.must(b.snapshot(name, id))
			if i == 0 {
				t.Logf("CreateSnapshot took %s", time.Since(begin))
			}
			b.wantMoment(name, 3, l, before)
			names = append(names, name)
		}
		close(stop)
		wg.Wait()
		t.Logf("longest pause %s, %d writes", longest, l.Writes())
		if longest > 100*time.Millisecond {
			t.Errorf("I/O was paused for %s", longest)
		}
		b.must(l.End())
		b.wantData(id, l)
		for i := range names { // the last as well as the first of the chain
			b.removeSnapshot(names[(i*5)%len(names)])
		}
		b.must(b.unuse(id))
		b.wantData(id, l)
		b.remove(id)
	})
}

// A replica is lost, is being rebuilt, and is whole again: the snapshot has those that are in-sync.
func TestSnapshotOfAVolumeThatIsHealing(t *testing.T) {
	longTest(t)
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 3, cluster.Options{})
		id, l := b.used("a", 64, 16, 50*time.Millisecond)
		lost := loseReplica(b, id)
		before := l.Acknowledged()
		b.must(b.snapshot("degraded", id))
		b.wantMoment("degraded", 2, l, before)
		b.restart(lost)
		b.must(b.await("the rebuild has begun", func() bool { return b.inState(id, volume.ReplicaRebuilding) == 1 }))
		before = l.Acknowledged()
		b.must(b.snapshot("rebuilding", id))
		b.wantMoment("rebuilding", 2, l, before)
		b.must(b.awaitWhole(id))
		before = l.Acknowledged()
		b.must(b.snapshot("whole", id))
		b.wantMoment("whole", 3, l, before)
		b.must(l.End())
		b.wantData(id, l)
		for _, name := range []string{"degraded", "rebuilding", "whole"} {
			b.removeSnapshot(name)
		}
		b.must(b.unuse(id))
		b.remove(id)
	})
}

// A replica's node, or the raid host, fails in some way about when the snapshot is taken. The volume goes on without an error; and whatever the
// snapshot has is alike.
func TestNodeFailsWhileASnapshotIsTaken(t *testing.T) {
	longTest(t)
	for fault, begin := range nodeFaults {
		for place, victim := range map[string]func(b *bubble, id string) string{
			"raid host": func(b *bubble, id string) string { return b.Record(id).Assembly.RaidHost },
			"replica":   func(b *bubble, id string) string { return b.otherThan(id) },
		} {
			for _, after := range []time.Duration{0, 100 * time.Millisecond, 504 * time.Millisecond, 510 * time.Millisecond} {
				t.Run(fmt.Sprintf("%s, %s, after %s", fault, place, after), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						b := newBubble(t, 3, cluster.Options{RPCLatency: 2 * time.Millisecond})
						id, l := b.used("a", 64, 16, 50*time.Millisecond)
						before := l.Acknowledged()
						var wg sync.WaitGroup
						wg.Go(func() { b.must(b.again(func() error { return b.snapshot("s", id) })) })
						time.Sleep(after)
						end := begin(b, victim(b, id))
						time.Sleep(2 * stall)
						writes := l.Writes()
						b.must(b.await("writes go on during the fault", func() bool { return l.Writes() > writes+10 || l.Err() != nil }))
						b.must(l.Err())
						end()
						wg.Wait()
						images := b.images("s")
						if len(images) < 1 {
							t.Fatal("the snapshot has no replica")
						}
						b.wantMoment("s", len(images), l, before)
						b.must(b.awaitWhole(id))
						b.must(l.End())
						b.must(b.unuse(id))
						b.wantData(id, l)
						b.removeSnapshot("s")
						b.remove(id)
					})
				})
			}
		}
	}
}

// Each step of taking a snapshot of a volume under load fails, in each mode, of the controller's and of the node service's.
func TestEveryStepOfASnapshotOfAVolumeInUseMayFail(t *testing.T) {
	longTest(t)
	t.Parallel()
	cluster.EveryInBubbles(t, func(t *testing.T, steps *cluster.Steps) func(*testing.T, func(func() error) bool) {
		b := newBubble(t, 3, cluster.Options{Steps: steps})
		id, l := b.used("a", 64, 16, 20*time.Millisecond)
		t.Cleanup(func() {
			if !t.Failed() {
				b.must(l.End())
				b.must(b.unuse(id))
				b.remove(id)
			}
		})
		count := 0
		return func(t *testing.T, faulty func(func() error) bool) {
			count++
			name := fmt.Sprint("s", count)
			before := l.Acknowledged()
			if faulty(func() error {
				err := b.snapshot(name, id)
				if steps.Crashed() {
					b.stop()
					return errCrashed
				}
				return err
			}) {
				b.start()
			}
			b.must(b.again(func() error { return b.snapshot(name, id) }))
			writes := l.Writes()
			b.must(b.await("writes go on", func() bool { return l.Writes() > writes+10 }))
			b.must(l.Err())
			b.must(b.awaitWhole(id))
			b.wantMoment(name, 3, l, before)
			b.must(b.await("the wish is off the record", func() bool { return b.Record(id).Snapshot == nil }))
			b.removeSnapshot(name)
		}
	})
}

// What a sweep has seen of the nodes before a snapshot was taken says nothing of it.
func TestSnapshotIsNotTakenForLostBySweepThatLookedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 4, cluster.Options{})
		id := b.create("a", 3)
		b.Sim(b.without(b.Record(id))).AddRPCFault(sim.RPCFault{Kind: sim.Delayed, Call: 1, Delay: time.Second})
		swept := make(chan error, 1)
		go func() { swept <- b.controller.Sweep(b.ctx) }()
		time.Sleep(500 * time.Millisecond) // the others have answered
		b.must(b.snapshot("s", id))
		b.must(<-swept)
		if sn := b.SnapshotRecord(volume.SnapshotIDFor("s")); len(sn.InState(volume.SnapshotTaken)) != 3 {
			t.Errorf("the snapshot is %+v", sn)
		}
		b.removeSnapshot("s")
		b.remove(id)
	})
}
