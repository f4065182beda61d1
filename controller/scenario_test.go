package controller_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// kill ends a node's SPDK process; it starts again, with its disks, when the test ends at the latest.
func (b *bench) kill(node string) { b.Sim(node).Kill() }

// start starts a node's process again, and has the driver find out that its connection was the old process's.
func (b *bench) start(node string) {
	b.t.Helper()
	b.must(b.Sim(node).Restart())
	n, err := b.Node(node)
	b.must(err)
	for {
		_, err := n.Version(within(b.t))
		if err == nil {
			return
		}
		if !errors.Is(err, spdk.ErrUnreachable) && !errors.Is(err, spdk.ErrUnknownOutcome) { // the old connection ends before a call or in it
			b.t.Fatal(err)
		}
	}
}

// on returns the replica that a volume has on a node.
func on(v *volume.Volume, node string) volume.Replica {
	for _, r := range v.Replicas {
		if r.Node == node {
			return r
		}
	}
	return volume.Replica{}
}

func TestCreateCalledAgainIsTheSameVolume(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	first := b.mustCreate(order("once", 8*mib))
	b.restart()
	second := b.mustCreate(order("once", 8*mib))
	if first != second {
		t.Errorf("the first call made %s, the second %s", first, second)
	}
	b.wantCreated(first, 3)
	_, err := b.create(order("once", 8*mib, volume.ParamReplicas, "2"))
	wantError(t, err, volume.ErrIncompatible)
	_, err = b.create(order("once", 16*mib))
	wantError(t, err, volume.ErrIncompatible)
}

func TestCreateWhoseCallerGaveUpIsFinishedByItsRetry(t *testing.T) {
	steps := &cluster.Steps{}
	b := newBench(t, 3, cluster.Options{Steps: steps})
	ctx, cancel := context.WithCancel(t.Context())
	_, err := steps.Attempt(12, cluster.FailAfter, func() error {
		cancel() // the caller is gone before the first answer
		_, err := b.CreateVolume(ctx, order("late", 8*mib))
		return err
	})
	wantError(t, err, context.Canceled)
	b.wantCreated(b.mustCreate(order("late", 8*mib)), 3)
}

// A process that is started again is used at once: a call that a dead one refused costs no time, so that it may be made again.
func TestNodeThatDoesNotAnswerIsNotAFullOne(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	b.clock = clocktesting.NewFakePassiveClock(time.Now()) // nothing takes time
	b.restart()
	b.kill("n2")
	_, err := b.create(order("waits", 8*mib))
	wantError(t, err, volume.ErrNodeDown)
	b.start("n2")
	b.wantCreated(b.mustCreate(order("waits", 8*mib)), 3)
}

func TestReplicaGoesToAnotherNodeWhenItsOwnDiesMeanwhile(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	for _, node := range []string{"n1", "n2", "n3"} {
		b.mustCreate(order("warm", 8*mib, volume.ParamReplicas, "2")) // so that the inventory knows all nodes
		b.kill(node)
		id := b.mustCreate(order("moves off "+node, 8*mib, volume.ParamReplicas, "2"))
		b.start(node)
		b.wantCreated(id, 2)
		if r := on(b.Record(id), node); r.ID != "" {
			t.Errorf("replica %+v is on the dead node", r)
		}
		b.restart()
	}
}

func TestFullClusterIsResourceExhaustedAndNothingIsLeft(t *testing.T) {
	b := newBench(t, 3, cluster.Options{PoolBytes: 256 * mib})
	big := b.mustCreate(order("big", 160*mib))
	_, err := b.create(order("too big", 160*mib))
	wantError(t, err, volume.ErrNoSpace)
	b.must(b.remove(big))
	b.WantEmpty()
	b.must(b.remove(b.mustCreate(order("now it fits", 160*mib))))
	b.WantEmpty()
}

// Lvols that the driver knows nothing of take up the room that it counted on.
func TestReplicaWithoutRoomGoesToANodeThatHasSome(t *testing.T) {
	b := newBench(t, 4, cluster.Options{PoolBytes: 256 * mib})
	b.mustCreate(order("warm", 8*mib))
	b.Fill("n1")
	b.Fill("n2")
	_, err := b.create(order("thick", 64*mib, volume.ParamThin, "false"))
	wantError(t, err, volume.ErrNoSpace)
	two := b.mustCreate(order("thick on two", 64*mib, volume.ParamThin, "false", volume.ParamReplicas, "2"))
	b.wantCreated(two, 2)
	for _, r := range b.Record(two).Replicas {
		if r.Node != "n3" && r.Node != "n4" {
			t.Errorf("replica on %s, which is full", r.Node)
		}
	}
	volumes, err := b.Store.List(t.Context(), "", 0)
	b.must(err)
	if len(volumes) != 2 {
		t.Errorf("%d volumes are on record, want 2", len(volumes))
	}
}

// Each call would wait for the hung node in turn if they did not share one answer.
func TestHungNodeDoesNotSlowTheOthers(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	b.Sim("n3").Hang(true)
	t.Cleanup(func() { b.Sim("n3").Hang(false) })
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			if _, err := b.create(order(fmt.Sprintf("claim-%d", i), 8*mib, volume.ParamReplicas, "2")); err != nil {
				t.Errorf("claim %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

func TestDeleteWithANodeDownIsFinishedWhenItReturns(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("stays", 8*mib))
	b.kill("n3")
	wantError(t, b.remove(id), volume.ErrNodeDown)
	wantError(t, b.remove(id), volume.ErrNodeDown)
	b.restart()
	if err := b.Sweep(within(t)); err == nil {
		t.Error("Sweep does not say that something waits")
	}
	_, err := b.create(order("stays", 8*mib))
	wantError(t, err, volume.ErrBusy)
	b.start("n3")
	b.must(b.Sweep(within(t)))
	b.WantEmpty()
	b.must(b.remove(id))
}

func TestManyVolumesAtOnce(t *testing.T) {
	b := newBench(t, 3, cluster.Options{PoolBytes: 8 << 30})
	const many = 200
	claims := make([]string, many)
	var wg sync.WaitGroup
	for i := range many {
		claims[i] = fmt.Sprintf("claim-%d", i)
		for range 2 { // each is asked for twice at once, as a CO does whose call has timed out
			wg.Go(func() {
				if _, err := b.create(order(claims[i], 8*mib)); err != nil && !errors.Is(err, volume.ErrBusy) {
					t.Errorf("%s: %v", claims[i], err)
				}
			})
		}
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, claim := range claims {
		id := b.mustCreate(order(claim, 8*mib))
		seen[id] = true
		if v := b.Record(id); v.Phase != volume.PhaseReady || len(v.Replicas) != 3 || len(v.InState(volume.ReplicaInSync)) != 3 {
			t.Errorf("%s: %s with %+v", claim, v.Phase, v.Replicas)
		}
	}
	if len(seen) != many {
		t.Errorf("%d volumes for %d claims", len(seen), many)
	}
	for id := range seen {
		wg.Go(func() {
			if err := b.remove(id); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	b.WantEmpty()
}

func TestVolumeIsPublishedWithoutTheReplicaOfADeadNode(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("degraded", 8*mib))
	b.kill("n2")
	b.must(b.publish(id))
	if legs := b.wantPublished(id); len(legs) != 2 {
		t.Errorf("legs are %v", legs)
	}
	if r := on(b.Record(id), "n2"); r.State != volume.ReplicaOutOfSync {
		t.Errorf("the replica on the dead node is %s on record", r.State)
	}
	b.must(b.unpublish(id))
	b.start("n2")
	b.must(b.publish(id)) // a replica that is back is not in sync for that
	if legs := b.wantPublished(id); len(legs) != 2 || slices.Contains(legs, on(b.Record(id), "n2").ID) {
		t.Errorf("legs are %v", legs)
	}
	b.must(b.unpublish(id))
	b.must(b.remove(id))
	b.WantEmpty()
}

// The record says out-of-sync before the target exists: whatever fails on the way, no host can have written without it.
func TestMissingReplicaIsOnRecordBeforeTheTargetExists(t *testing.T) {
	steps := &cluster.Steps{}
	b := newBench(t, 3, cluster.Options{Steps: steps})
	id := b.mustCreate(order("degraded", 8*mib))
	b.kill("n2")
	for at, more := 0, true; more; at++ {
		fired, _ := steps.Attempt(at, cluster.Crash, func() error { return b.publish(id) })
		more = fired != ""
		b.restart()
		v := b.Record(id)
		for _, node := range []string{"n1", "n3"} {
			if target := b.Observe(v).Nodes[node].Target; target != nil && on(v, "n2").State != volume.ReplicaOutOfSync {
				t.Fatalf("after %s: node %s has a target, and the missing replica is %s", fired, node, on(v, "n2").State)
			}
		}
	}
	b.wantPublished(id)
}

func TestVolumeWithoutAnyGoodReplicaWaits(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("waits", 8*mib))
	for _, node := range []string{"n1", "n2", "n3"} {
		b.kill(node)
	}
	wantError(t, b.publish(id), volume.ErrNoGoodReplica)
	if v := b.Record(id); len(v.InState(volume.ReplicaInSync)) != 3 || v.Assembly != nil {
		t.Errorf("the record says %+v, assembly %+v", v.Replicas, v.Assembly)
	}
	for _, node := range []string{"n1", "n2", "n3"} {
		b.start(node)
	}
	b.must(b.publish(id))
	if legs := b.wantPublished(id); len(legs) != 3 {
		t.Errorf("legs are %v", legs)
	}
}

// A leg's node dies between the choice of the assembly and its first run.
func TestPublishIsNotHeldUpByALegThatDiedMeanwhile(t *testing.T) {
	steps := &cluster.Steps{}
	b := newBench(t, 3, cluster.Options{Steps: steps})
	id := b.mustCreate(order("held up", 8*mib))
	for at := 0; ; at++ {
		fired, _ := steps.Attempt(at, cluster.Crash, func() error { return b.publish(id) })
		b.restart()
		if fired == "store: update" {
			break
		}
	}
	v := b.Record(id)
	if v.Assembly == nil || v.Assembly.Running || len(v.Assembly.Legs) != 3 {
		t.Fatalf("the record says %+v", v.Assembly)
	}
	dead := "n2"
	if v.Assembly.RaidHost == dead {
		dead = "n3"
	}
	b.kill(dead)
	b.must(b.publish(id))
	if legs := b.wantPublished(id); len(legs) != 2 {
		t.Errorf("legs are %v", legs)
	}
	b.must(b.unpublish(id))
	b.start(dead)
	b.must(b.remove(id))
	b.WantEmpty()
}

func TestRaidHostThatDiedBeforeTheVolumeRanIsReplaced(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("moves", 8*mib))
	b.must(b.publish(id))
	b.must(b.unpublish(id))
	b.kill("n1")
	b.must(b.publish(id))
	b.wantPublished(id)
	if host := b.Record(id).Assembly.RaidHost; host == "n1" {
		t.Error("the raid host is dead")
	}
}

// Nothing was attached when the raid host died: the replicas are alike.
func TestUnpublishWithTheRaidHostDeadCutsItOff(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("cut off", 8*mib))
	b.must(b.publish(id))
	dead := b.Record(id).Assembly.RaidHost
	b.kill(dead)
	b.must(b.unpublish(id))
	v := b.Record(id)
	if v.Assembly != nil || len(v.Retired) != 1 || v.Retired[0].RaidHost != dead || len(v.InState(volume.ReplicaInSync)) != 3 {
		t.Fatalf("the record says assembly %+v, retired %+v, replicas %+v", v.Assembly, v.Retired, v.Replicas)
	}
	for _, r := range v.Replicas {
		if view := b.Observe(v).Nodes[r.Node]; view.Err == nil && view.Replicas[r.ID].ExportBegun {
			t.Errorf("replica %s is still exported by %s", r.ID, r.Node)
		}
	}
	b.must(b.publish(id))
	b.wantPublished(id)
	b.must(b.unpublish(id))
	wantError(t, b.remove(id), volume.ErrNodeDown)
	b.start(dead)
	b.must(b.Sweep(within(t)))
	b.WantEmpty()
}

// A host was attached: writes may have reached some replicas only. One is the source, the others are rebuilt from it.
func TestUnpublishOfAStagedVolumeWithTheRaidHostDeadKeepsOneSource(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("staged", 8*mib))
	b.must(b.publish(id))
	v := b.Record(id)
	v.Owner = host
	b.must(b.Store.Update(t.Context(), v))
	b.kill(v.Assembly.RaidHost)
	b.must(b.unpublish(id))
	v = b.Record(id)
	if good := v.InState(volume.ReplicaInSync); len(good) != 1 || v.Owner != "" {
		t.Errorf("owner %q, replicas %+v", v.Owner, v.Replicas)
	}
}

// The raid of a running volume is gone with its process. It is never made again of a replica that is not in sync.
func TestStaleReplicaIsNoLegOfARaidThatIsMadeAgain(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	id := b.mustCreate(order("stale", 8*mib))
	b.must(b.publish(id))
	v := b.Record(id)
	stale := v.Assembly.Legs[0]
	v.SetReplicaState(stale, volume.ReplicaOutOfSync, v.CreatedAt)
	b.must(b.Store.Update(t.Context(), v))
	b.start(v.Assembly.RaidHost)
	b.must(b.publish(id))
	if legs := b.wantPublished(id); slices.Contains(legs, stale) {
		t.Errorf("legs are %v, of which %s is stale", legs, stale)
	}
}

func TestOtherNodeAndOtherModeAreRefused(t *testing.T) {
	b := newBench(t, 3, cluster.Options{})
	b.RegisterHosts("elsewhere")
	id := b.mustCreate(order("mine", 8*mib))
	b.must(b.publish(id))
	b.must(b.publish(id))
	r := &csi.ControllerPublishVolumeRequest{VolumeId: id, NodeId: "elsewhere", VolumeCapability: capability()}
	_, err := b.ControllerPublishVolume(within(t), r)
	wantError(t, err, volume.ErrInUse)
	r.NodeId, r.Readonly = host, true
	_, err = b.ControllerPublishVolume(within(t), r)
	wantError(t, err, volume.ErrIncompatible)
	r.NodeId = "unknown"
	_, err = b.ControllerPublishVolume(within(t), r)
	wantError(t, err, volume.ErrHostUnknown)
}
