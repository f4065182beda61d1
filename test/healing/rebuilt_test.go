package healing

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// A replica has just been rebuilt, and isn't good on record yet, when the only one that is gets cut off from the raid host. The raid goes on
// with the rebuilt one alone, which then has what no other has: the raid host is not to be left for one that sees the other.
func TestWritesToAReplicaThatWasJustRebuiltAreKept(t *testing.T) {
	longTest(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 4, cluster.Options{})
		id := b.staged("a", 2)
		alone := b.moveAway(id)
		v := b.Record(id)
		rebuilt, source := v.Replicas[0], v.Replicas[1]
		l := cluster.StartLoad(b.ctx, b.open(id), 64, 4, 20*time.Millisecond)
		b.Sim(rebuilt.Node).Kill()
		b.must(b.await("its loss is noticed", func() bool { return b.Record(id).Replica(rebuilt.ID).State == volume.ReplicaOutOfSync }))
		b.must(b.Sim(rebuilt.Node).Start())
		b.must(b.await("the rebuild is over", func() bool { return b.justRebuilt(id, rebuilt.ID) }))
		b.must(b.await("the standby is beside the good replica", func() bool { s := b.Record(id).Standby; return s != nil && s.RaidHost == source.Node }))
		end := b.isolate(source.Node, sim.Outside)
		time.Sleep(2 * stall)
		b.must(b.await("writes go on", func() bool { return l.Writes() > 0 }))
		before := l.Writes()
		b.must(b.await("writes go on", func() bool { return l.Writes() > before+10 || l.Err() != nil }))
		if at := b.Record(id).Assembly.RaidHost; at != alone {
			t.Errorf("it was left for %s", at)
		}
		end()
		b.wantWholeToTheEnd(id, l)
	})
}

// justRebuilt says whether a replica is a member of the raid, and not good on record yet.
func (b *bubble) justRebuilt(id, replica string) bool {
	v := b.Record(id)
	node, err := b.Node(v.Assembly.RaidHost)
	b.must(err)
	health, err := node.Health(b.ctx)
	b.must(err)
	r := v.Replica(replica)
	raid, leg := health.Raids[v.RaidName()], spdk.LegBdev(v.LegController(*r))
	return r.State == volume.ReplicaRebuilding && raid.Holds(leg) && raid.Rebuild == nil
}

// A rebuild that waits for a leg that can't be attached keeps nobody from leaving the raid host, and a standby that is lost is made anew before.
func TestRaidHostIsLeftWhileARebuildWaits(t *testing.T) {
	longTest(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 4, cluster.Options{})
		id := b.staged("a", 2)
		alone := b.moveAway(id)
		l := cluster.StartLoad(b.ctx, b.open(id), 64, 4, 20*time.Millisecond)
		standby := b.Record(id).Standby.RaidHost
		joinStandby := b.isolate(standby, sim.Outside)
		b.must(b.await("there is another standby", func() bool { s := b.Record(id).Standby; return s != nil && s.RaidHost != standby }))
		b.must(b.await("a rebuild waits for it", func() bool { return b.inState(id, volume.ReplicaRebuilding) == 1 }))
		if s := b.Record(id).Standby; s == nil || s.RaidHost == standby {
			t.Errorf("meanwhile the standby is %+v", s)
		}
		time.Sleep(time.Second)
		joinAlone := b.isolate(alone, sim.Outside)
		b.must(b.await("the raid host is left", func() bool { a := b.Record(id).Assembly; return a.RaidHost != alone && !a.Held }))
		joinAlone()
		joinStandby()
		b.wantWholeToTheEnd(id, l)
	})
}

// The standby's node is cut off, and before another is made the raid host is: it is left for a node that works, though the record names the
// standby that is lost.
func TestRaidHostIsLeftForAnotherNodeThanThatOfALostStandby(t *testing.T) {
	longTest(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 4, cluster.Options{})
		id := b.staged("a", 2)
		alone := b.moveAway(id)
		b.must(b.await("what was under way has been sent again", func() bool { return b.Record(id).InFlight == volume.InFlightNone })) // nothing is tended any more
		l := cluster.StartLoad(b.ctx, b.open(id), 64, 4, 20*time.Millisecond)
		standby := b.Record(id).Standby.RaidHost
		time.Sleep(400 * time.Millisecond) // the standby is lost just after a tending, and given up with the next, which is seconds later
		joinStandby := b.isolate(standby, sim.Outside)
		b.must(b.await("its replica is out-of-sync", func() bool { return b.inState(id, volume.ReplicaOutOfSync, volume.ReplicaRebuilding) == 1 }))
		time.Sleep(time.Second) // in which the raid host is seen to be well with the other alone
		joinAlone := b.isolate(alone, sim.Outside)
		if s := b.Record(id).Standby; s == nil || s.RaidHost != standby {
			t.Fatalf("the standby is %+v already", s)
		}
		b.must(b.await("the raid host is left", func() bool {
			a := b.Record(id).Assembly
			return a.RaidHost != alone && a.RaidHost != standby && !a.Held
		}))
		before := l.Writes()
		b.must(b.await("writes go on", func() bool { return l.Writes() > before+10 || l.Err() != nil }))
		joinAlone()
		joinStandby()
		b.wantWholeToTheEnd(id, l)
	})
}

// SPDK was seen never to end the deletion of a raid whose rebuild its network cut short. What else the volume has is healed all the same.
func TestRaidThatCanNotBeDeletedHoldsUpNoRebuild(t *testing.T) {
	longTest(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 3, cluster.Options{})
		id := b.staged("a", 3)
		l := cluster.StartLoad(b.ctx, b.open(id), 64, 4, 20*time.Millisecond)
		lost := loseReplica(b, id)
		from := b.Record(id).Assembly.RaidHost
		b.Sim(from).AddRPCFault(sim.RPCFault{Kind: sim.FailBefore, Method: "bdev_raid_delete", Message: "Operation already in progress"})
		join := b.isolate(from, sim.Outside)
		b.must(b.await("the raid host is left", func() bool { a := b.Record(id).Assembly; return a.RaidHost != from && !a.Held }))
		b.restart(lost)
		join()
		b.must(b.await("all replicas are in-sync", func() bool { return b.inState(id, volume.ReplicaInSync) == 3 }))
		b.Sim(from).ClearRPCFaults()
		b.wantWholeToTheEnd(id, l)
	})
}

// Nor does it keep a volume from being taken from the node that used it.
func TestRaidThatCanNotBeDeletedHoldsUpNoUnpublication(t *testing.T) {
	longTest(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 3, cluster.Options{})
		id := b.staged("a", 3)
		from := b.Record(id).Assembly.RaidHost
		b.Sim(from).AddRPCFault(sim.RPCFault{Kind: sim.FailBefore, Method: "bdev_raid_delete", Message: "Operation already in progress"})
		join := b.isolate(from, sim.Outside)
		b.must(b.await("the raid host is left", func() bool { a := b.Record(id).Assembly; return a.RaidHost != from && !a.Held }))
		_, err := b.node.NodeUnstageVolume(b.ctx, &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: b.staging(id)})
		b.must(err)
		join()
		_, err = b.controller.ControllerUnpublishVolume(b.ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: host})
		b.must(err)
		if v := b.Record(id); v.Assembly != nil || !v.IsRetiredOn(from) {
			t.Errorf("the record says assembly %+v, retired %+v", v.Assembly, v.Retired)
		}
		b.Sim(from).ClearRPCFaults()
		b.must(b.awaitWhole(id))
		b.remove(id)
	})
}

// A replica has just been rebuilt when the source is lost, and its volume is given up before the rebuilt one is good on record: it is the only good one, and
// there when the volume is used next, before the source is back.
func TestReplicaThatWasJustRebuiltIsNotGivenUpWithTheVolume(t *testing.T) {
	longTest(t)
	for name, unstaged := range map[string]bool{"unstaged": true, "detached by force": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBubble(t, 4, cluster.Options{})
				id := b.staged("a", 2)
				b.moveAway(id)
				v := b.Record(id)
				rebuilt, source := v.Replicas[0], v.Replicas[1]
				l := cluster.StartLoad(b.ctx, b.open(id), 8, 2, 20*time.Millisecond)
				b.Sim(rebuilt.Node).Kill()
				b.must(b.await("its loss is noticed", func() bool { return b.Record(id).Replica(rebuilt.ID).State == volume.ReplicaOutOfSync }))
				b.must(b.Sim(rebuilt.Node).Start())
				b.must(b.await("the rebuild is over", func() bool { return b.justRebuilt(id, rebuilt.ID) }))
				b.must(b.await("the standby is beside the good replica", func() bool { s := b.Record(id).Standby; return s != nil && s.RaidHost == source.Node }))
				before := l.Writes()
				b.Sim(source.Node).Kill()
				b.must(b.await("writes go on", func() bool { return l.Writes() > before+10 || l.Err() != nil }))
				b.must(l.End())
				if unstaged {
					b.must(b.unuse(id))
				} else {
					b.stop()
					b.reboot(nil)
					b.start()
					b.must(b.again(func() error {
						_, err := b.controller.ControllerUnpublishVolume(b.ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: b.host})
						return err
					}))
				}
				b.must(b.publish(id))
				b.must(b.again(func() error { return b.stage(id) }))
				file := b.open(id)
				b.must(l.Check(func(p []byte, off int64) error { return file.ReadAt(b.ctx, p, off) }))
				b.must(b.Sim(source.Node).Start())
				b.must(b.awaitWhole(id))
				b.release(id)
			})
		})
	}
}
