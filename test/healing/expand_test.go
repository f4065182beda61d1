package healing

import (
	"bytes"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// expand asks for a larger volume, once: of the controller and, while it is staged, of the node.
func (b *bubble) expand(id string, to int64) error {
	b.bytes = to
	_, err := b.controller.ControllerExpandVolume(b.ctx, &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: to}})
	if err != nil || b.Record(id).Owner == "" {
		return err
	}
	_, err = b.node.NodeExpandVolume(b.ctx, &csi.NodeExpandVolumeRequest{VolumeId: id, VolumePath: b.staging(id), CapacityRange: &csi.CapacityRange{RequiredBytes: to}})
	return err
}

// inUse is a bubble with a volume of 8 MiB that is whole and under load.
func newBubbleInUse(t *testing.T, nodes int) (*bubble, string, *cluster.Load) {
	b := newBubble(t, nodes, cluster.Options{})
	id, l := b.used("a", 8, 2, 50*time.Millisecond)
	return b, id, l
}

// wantGrown ends the load and checks that the volume is whole, and that what is written to its end is on each replica.
func (b *bubble) wantGrown(id string, l *cluster.Load) {
	b.t.Helper()
	b.must(b.awaitWhole(id))
	b.must(l.End())
	b.wantData(id, l)
	v := b.Record(id)
	file, end := b.open(id), bytes.Repeat([]byte{0x5a}, 1<<20)
	if file.SizeBytes() != b.bytes {
		b.t.Fatalf("the device has %d bytes", file.SizeBytes())
	}
	b.must(file.WriteAt(b.ctx, end, b.bytes-int64(len(end))))
	for _, r := range v.Replicas {
		got := make([]byte, len(end))
		if err := b.ReplicaBytes(v, r, got, b.bytes-int64(len(end))); err != nil || !bytes.Equal(got, end) {
			b.t.Errorf("replica on %s has something else at its end: %v", r.Node, err)
		}
	}
	b.release(id)
}

func TestVolumeGrowsUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, id, l := newBubbleInUse(t, 3)
		b.must(b.expand(id, 16*mib))
		v := b.Record(id)
		if v.GrowingFrom != 0 || v.Standby == nil || !v.Standby.Running {
			t.Errorf("when it is said to have grown it is growing from %d, with the standby %+v", v.GrowingFrom, v.Standby)
		}
		b.must(b.expand(id, 64*mib))
		b.wantGrown(id, l)
	})
}

// Nobody calls the node: its service finds the new size on record.
func TestVolumeGrowsWithoutACallToItsNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, id, l := newBubbleInUse(t, 3)
		b.bytes = 16 * mib
		_, err := b.controller.ControllerExpandVolume(b.ctx, &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: b.bytes}})
		b.must(err)
		b.wantGrown(id, l)
	})
}

func TestReplicaThatIsAwayGrowsBeforeItIsRebuilt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, id, l := newBubbleInUse(t, 3)
		lost := loseReplica(b, id)
		b.must(b.again(func() error { return b.expand(id, 16*mib) }))
		b.restart(lost)
		b.wantGrown(id, l)
	})
}

func TestReplacementOfAReplicaHasTheNewSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, id, l := newBubbleInUse(t, 4)
		lost := loseReplica(b, id)
		b.must(b.again(func() error { return b.expand(id, 16*mib) }))
		b.must(b.await("another replica is whole", func() bool { return b.inState(id, volume.ReplicaInSync) == 3 }))
		b.restart(lost)
		b.wantGrown(id, l)
	})
}

// The raid grows with the replica that it rebuilds.
func TestVolumeGrowsWhileAReplicaIsRebuilt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, id, l := newBubbleInUse(t, 3)
		b.restart(loseReplica(b, id))
		b.must(b.await("a rebuild runs", func() bool { return b.inState(id, volume.ReplicaRebuilding) == 1 }))
		b.must(b.again(func() error { return b.expand(id, 16*mib) }))
		b.wantGrown(id, l)
	})
}

// One replica can't grow; while that is so the raid host is lost, and there is no standby.
func TestRaidHostIsLostWhileTheVolumeIsHalfGrown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, id, l := newBubbleInUse(t, 3)
		stuck := b.otherThan(id)
		mended := b.Sim(stuck).AddRPCFault(sim.RPCFault{Kind: sim.FailBefore, Method: "bdev_lvol_resize"})
		if err := b.expand(id, 16*mib); err == nil {
			t.Error("it is said to have grown")
		}
		from := b.kill(b.Record(id).Assembly.RaidHost)
		b.must(b.await("the volume runs elsewhere", func() bool { a := b.Record(id).Assembly; return a.RaidHost != from && !a.Held }))
		before := l.Writes()
		b.must(b.await("writes go on", func() bool { return l.Writes() > before+10 }))
		mended()
		b.restart(from)
		b.must(b.again(func() error { return b.expand(id, 16*mib) }))
		b.wantGrown(id, l)
	})
}

// What can't be done now costs nothing: the standby is given up when the volume can be grown.
func TestStandbyIsKeptWhileAReplicasNodeDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, id, l := newBubbleInUse(t, 3)
		standby := b.Record(id).Standby.Number
		mended := b.Sim(b.otherThan(id)).AddRPCFault(sim.RPCFault{Kind: sim.HangupBefore})
		if err := b.expand(id, 16*mib); err == nil {
			t.Error("it is said to have grown")
		}
		time.Sleep(30 * time.Second) // the node service has tried for itself
		if v := b.Record(id); v.Standby == nil || v.Standby.Number != standby || v.GrowingFrom != 8*mib {
			t.Errorf("growing from %d with the standby %+v", v.GrowingFrom, v.Standby)
		}
		mended()
		b.must(b.again(func() error { return b.expand(id, 16*mib) }))
		b.wantGrown(id, l)
	})
}

// A leg of the raid host was not connected when its replica grew, and keeps its size for good: the volume moves to another raid host,
// without a rebuild.
func TestVolumeWhoseRaidMissedTheNewSizeMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, id, l := newBubbleInUse(t, 3)
		from := b.Record(id).Assembly.RaidHost
		b.missResize(id, 16*mib)
		b.must(b.again(func() error { return b.expand(id, 16*mib) }))
		v := b.Record(id)
		if v.Assembly.RaidHost == from {
			t.Errorf("it still runs on %s", from)
		}
		if slices.ContainsFunc(v.Replicas, func(r volume.Replica) bool { return !r.SyncedAt.IsZero() }) {
			t.Errorf("a replica was rebuilt: %+v", v.Replicas)
		}
		b.wantGrown(id, l)
	})
}

// missResize grows one replica of a running volume while its raid host is cut off from it, and waits until all is well again.
func (b *bubble) missResize(id string, size int64) {
	b.t.Helper()
	v := b.Record(id)
	at := slices.IndexFunc(v.Replicas, func(r volume.Replica) bool { return r.Node == b.otherThan(id) })
	r := v.Replicas[at]
	n, err := b.Node(r.Node)
	b.must(err)
	hosts := v.LegHosts(r.ID)
	for _, host := range hosts {
		b.must(n.FenceHost(b.ctx, v.ReplicaNQN(r), host))
	}
	raidHost, err := b.Node(v.Assembly.RaidHost)
	b.must(err)
	b.must(b.await("the leg is cut off", func() bool {
		leg, err := raidHost.Leg(b.ctx, v.LegController(r))
		return err == nil && leg.State != spdk.LegEnabled
	}))
	b.must(n.ResizeLvol(b.ctx, r.LvStore, v.LvolName(r), size))
	for _, host := range hosts {
		b.must(n.AllowHost(b.ctx, v.ReplicaNQN(r), host))
	}
	b.must(b.await("the leg is back", func() bool {
		leg, err := raidHost.Leg(b.ctx, v.LegController(r))
		return err == nil && leg.State == spdk.LegEnabled && b.inState(id, volume.ReplicaInSync) == 3
	}))
	if leg, err := raidHost.Leg(b.ctx, v.LegController(r)); err != nil || leg.SizeBytes >= size {
		b.t.Fatalf("the leg has %d bytes: %v", leg.SizeBytes, err)
	}
}

// A published volume that no node has staged: what its raid missed is mended by the node that stages it.
func TestRaidOfAPublishedVolumeThatMissedTheNewSizeIsLeftWhenItIsStaged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, id, l := newBubbleInUse(t, 3)
		b.missResize(id, 16*mib)
		b.must(l.End())
		_, err := b.node.NodeUnstageVolume(b.ctx, &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: b.staging(id)})
		b.must(err)
		b.must(b.expand(id, 16*mib))
		if v := b.Record(id); v.GrowingFrom != 8*mib {
			t.Errorf("growing from %d", v.GrowingFrom)
		}
		b.must(b.stage(id))
		b.wantGrown(id, l)
	})
}

// A volume that nobody uses is being rebuilt, by a raid that misses the new size: it is taken apart, and the rebuild begins anew.
func TestVolumeThatNobodyUsesGrowsWhileItIsRebuilt(t *testing.T) {
	for name, miss := range map[string]bool{"the raid grows": false, "the raid missed it": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, id, l := newBubbleInUse(t, 3)
				lost := loseReplica(b, id)
				b.must(l.End())
				b.must(b.unuse(id))
				b.restart(lost)
				b.must(b.await("it is assembled", func() bool { a := b.Record(id).Assembly; return a != nil && a.Running }))
				if miss {
					b.missNow(id, 16*mib)
				}
				b.must(b.again(func() error { return b.expand(id, 16*mib) }))
				b.must(b.awaitWhole(id))
				b.must(b.publish(id))
				b.must(b.stage(id))
				b.wantGrown(id, l)
			})
		})
	}
}

// missNow grows a source while its raid host, which nobody uses, is cut off from it.
func (b *bubble) missNow(id string, size int64) {
	b.t.Helper()
	v := b.Record(id)
	r := *v.Replica(v.GoodLegs(*v.Assembly)[0])
	n, err := b.Node(r.Node)
	b.must(err)
	host := volume.SPDKHostNQN(v.Assembly.RaidHost)
	b.must(errors.Join(
		n.FenceHost(b.ctx, v.ReplicaNQN(r), host),
		n.ResizeLvol(b.ctx, r.LvStore, v.LvolName(r), size),
		n.AllowHost(b.ctx, v.ReplicaNQN(r), host),
	))
}

func growByACluster(b *bubble, id, _ string) { _ = b.expand(id, b.Record(id).SizeBytes+4*mib) }

// until it is done the CO calls again and again.
func growOn(b *bubble, id, _ string) { _ = b.expand(id, b.bytes) }

func TestEveryStepOfGrowingAVolumeInUseMayFail(t *testing.T) {
	everyStep(t, flow{nodes: 3, begin: growByACluster, meanwhile: growOn})
}

func TestEveryStepOfGrowingAVolumeThatNobodyUsesMayFail(t *testing.T) {
	everyStep(t, flow{nodes: 3, unused: true, begin: growByACluster, meanwhile: growOn})
}

// The CO doesn't come again: the services finish what is on record.
func TestEveryStepOfGrowingAVolumeThatComesBackMayFail(t *testing.T) {
	everyStep(t, flow{nodes: 3, begin: restart, prepare: func(b *bubble, id string) string {
		b.t.Helper()
		lost := loseReplica(b, id)
		b.must(b.again(func() error { return b.expand(id, b.Record(id).SizeBytes+4*mib) }))
		return lost
	}})
}
