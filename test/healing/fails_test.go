package healing

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// nodeFaults are ways in which an SPDK node fails, each with what ends it.
var nodeFaults = map[string]func(b *bubble, node string) (end func()){
	"killed": func(b *bubble, node string) func() {
		b.Sim(node).Kill()
		return func() { b.must(b.Sim(node).Restart()) }
	},
	"hung": func(b *bubble, node string) func() {
		b.Sim(node).Hang(true)
		return func() { b.Sim(node).Hang(false) }
	},
	"cut off, its RPC answers": func(b *bubble, node string) func() {
		cut := func(cut bool) {
			for _, other := range append(b.Names(), sim.Outside) {
				if other != node {
					b.Network.Cut(node, other, cut)
				}
			}
		}
		cut(true)
		return func() { cut(false) }
	},
	"its disk hung": func(b *bubble, node string) func() {
		b.must(b.Sim(node).SetDiskFault(cluster.Pool, sim.DiskFault{Hang: true}))
		return func() { b.must(b.Sim(node).SetDiskFault(cluster.Pool, sim.DiskFault{})) }
	},
}

// In simulated time: a node fails under load, the raid host or one that holds a replica alone, in each way that it can, for long enough
// that whatever follows from it has happened. There is no I/O error, the volume is whole again, and each replica has what was
// acknowledged.
func TestNodeFailsInEachWay(t *testing.T) {
	longTest(t)
	for fault, begin := range nodeFaults {
		for place, victim := range map[string]func(b *bubble, id string) string{
			"raid host": func(b *bubble, id string) string { return b.Record(id).Assembly.RaidHost },
			"replica":   func(b *bubble, id string) string { return b.otherThan(id) },
		} {
			t.Run(fault+", "+place, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					b := newBubble(t, 3, cluster.Options{})
					id, l := b.used("a", 64, 4, 20*time.Millisecond)
					end := begin(b, victim(b, id))
					time.Sleep(2 * stall)
					writes := l.Writes()
					b.must(b.await("writes go on during the fault", func() bool { return l.Writes() > writes+10 || l.Err() != nil }))
					b.must(l.Err())
					end()
					b.wantWholeToTheEnd(id, l)
				})
			})
		}
	}
}

// The raid host dies while the disks of all other replicas hang, the RPC of their nodes at work: the volume waits for a disk, whatever comes back
// first, rather than go on with a raid that is about to lose its last leg.
func TestVolumeWaitsForADiskThatAnswers(t *testing.T) {
	longTest(t)
	for name, restartFirst := range map[string]bool{"the raid host is started again, then a disk goes on": true, "a disk goes on, then the raid host is started again": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBubble(t, 3, cluster.Options{})
				id, l := b.used("a", 64, 4, 20*time.Millisecond)
				dead := b.Record(id).Assembly.RaidHost
				hung := slices.DeleteFunc(b.Names(), func(node string) bool { return node == dead })
				disk := func(node string, hangs bool) {
					b.must(b.Sim(node).SetDiskFault(cluster.Pool, sim.DiskFault{Hang: hangs}))
				}
				for _, node := range hung {
					disk(node, true)
				}
				time.Sleep(100 * time.Millisecond) // writes reach them
				b.Sim(dead).Kill()
				time.Sleep(2 * stall)
				if restartFirst {
					b.must(b.Sim(dead).Restart())
					time.Sleep(2 * stall)
				}
				b.must(l.Err())
				writes := l.Writes()
				disk(hung[0], false)
				b.must(b.await("writes go on", func() bool { return l.Writes() > writes+10 || l.Err() != nil }))
				disk(hung[1], false)
				if !restartFirst {
					b.must(b.Sim(dead).Restart())
				}
				b.wantWholeToTheEnd(id, l)
			})
		})
	}
}
