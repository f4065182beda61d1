package volume

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// growing is a volume of three replicas that runs on a, for a host, with a standby on b, and is to be larger than it is.
func growing(t *testing.T) (*world, *Volume, *rand.Rand) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 7))
	w, v := newWorld("a", "b", "c"), record("a", "b", "c")
	w.settle(t, v, rnd)
	made(v)
	v.Owner, v.Publications = "n", []Publication{{Node: "n"}}
	v.Assembly, v.Assemblies = &Assembly{Number: 1, RaidHost: "a", Legs: ids(v), Running: true}, 2
	v.Standby = &Assembly{Number: 2, RaidHost: "b", Legs: ids(v), Held: true, Running: true}
	w.settle(t, v, rnd)
	grow(t, v, 2<<30)
	return w, v, rnd
}

func grow(t *testing.T, v *Volume, size int64) {
	t.Helper()
	if err := v.Grow(size); err != nil {
		t.Fatal(err)
	}
}

func kinds(steps Steps) (all []Kind) {
	for _, a := range steps.Now {
		all = append(all, a.Kind)
	}
	return all
}

func TestPlanGrowsNothingThatAStandbyHasAttached(t *testing.T) {
	w, v, rnd := growing(t)
	if steps := Plan(v, w.observe()); len(steps.Now) > 0 || CheckGrown(v, w.observe()) == nil {
		t.Fatalf("with a standby: %v", steps.Now)
	}
	v.RetireStandby()
	if steps := Plan(v, w.observe()); slices.Contains(kinds(steps), GrowReplica) {
		t.Fatalf("while the standby is being taken apart: %v", steps.Now)
	}
	w.settle(t, v, rnd)
	if err := CheckGrown(v, w.observe()); err != nil || w.nodes["a"].Raid.SizeBytes != 2<<30 {
		t.Errorf("the raid is %+v: %v", w.nodes["a"].Raid, err)
	}
}

// Nothing waits for a former raid host that doesn't answer: whether its raid grows is nothing to the host, which has left it.
func TestPlanGrowsAVolumeAlthoughAFormerRaidHostIsDown(t *testing.T) {
	w, v, rnd := growing(t)
	v.RetireStandby()
	w.settle(t, v, rnd)
	v.GrowingFrom = 0
	grow(t, v, 3<<30)
	v.Retired = []Assembly{{Number: 2, RaidHost: "d", Legs: ids(v), Held: true}}
	w.nodes["d"] = &NodeView{Replicas: map[string]ReplicaView{}, Legs: map[string]LegView{v.Replicas[0].ID: {Bdev: "b"}}}
	w.down["d"] = true
	w.settle(t, v, rnd)
	if err := CheckGrown(v, w.observe()); err != nil {
		t.Error(err)
	}
}

func TestPlanGrowsAReplicaThatComesBackBeforeItIsRebuilt(t *testing.T) {
	w, v, rnd := growing(t)
	v.RetireStandby()
	lost := v.Replicas[2].ID
	v.SetReplicaState(lost, ReplicaOutOfSync, v.CreatedAt)
	w.down["c"] = true
	a := w.nodes["a"]
	a.Raid.Legs = slices.DeleteFunc(slices.Clone(a.Raid.Legs), func(id string) bool { return id == lost }) // SPDK has ejected it
	w.settle(t, v, rnd)
	if err := CheckGrown(v, w.observe()); err != nil {
		t.Fatalf("without the lost replica: %v", err)
	}
	v.GrowingFrom = 0
	w.down["c"] = false
	if id, ok := NextRebuild(v, w.observe(), v.CreatedAt); ok {
		t.Fatalf("replica %s is rebuilt before it is grown", id)
	}
	w.settle(t, v, rnd)
	if id, ok := NextRebuild(v, w.observe(), v.CreatedAt); !ok || id != lost {
		t.Errorf("the next to be rebuilt is %q", id)
	}
}

// A source of another size than the record says is nothing that growing explains: it is not touched.
func TestPlanLeavesASourceAloneThatIsSmallForNoReason(t *testing.T) {
	w, v, _ := growing(t)
	v.RetireStandby()
	v.GrowingFrom = 0
	if steps := Plan(v, w.observe()); slices.Contains(kinds(steps), GrowReplica) {
		t.Errorf("planned: %v", steps.Now)
	}
}

func TestGrowingTwiceKeepsWhatTheVolumeSurelyHas(t *testing.T) {
	_, v, _ := growing(t)
	grow(t, v, 3<<30)
	if v.LeastBytes() != 1<<30 || !v.Fits(2<<30) || v.Fits(1<<30-1) || v.Fits(4<<30) {
		t.Errorf("from %d to %d", v.GrowingFrom, v.SizeBytes)
	}
	if v.Standby == nil {
		t.Error("the standby of a volume in use was taken from its owner")
	}
	v.Owner = ""
	grow(t, v, 4<<30)
	if v.Standby != nil || len(v.Retired) != 1 {
		t.Error("the standby of a volume that nobody uses is kept")
	}
}

func TestNodeThatDoesNotAnswerIsNotTakenForGrown(t *testing.T) {
	w, v, rnd := growing(t)
	v.RetireStandby()
	w.settle(t, v, rnd)
	w.down["c"] = true
	if err := CheckGrown(v, w.observe()); !errors.Is(err, ErrNodeDown) {
		t.Errorf("got %v", err)
	}
}

func TestVolumeDoesNotGrowInThePauseForASnapshot(t *testing.T) {
	for state, want := range map[WishState]struct {
		after WishState
		err   error
	}{
		WishWanted:  {after: WishFailed},
		WishPausing: {after: WishPausing, err: ErrBusy},
		WishTaken:   {after: WishTaken},
		WishFailed:  {after: WishFailed},
	} {
		v := record("a", "b")
		v.Snapshot = &SnapshotWish{State: state, SizeBytes: v.SizeBytes}
		before := v.SizeBytes
		err := v.Grow(2 * before)
		if !errors.Is(err, want.err) || v.Snapshot.State != want.after || (err == nil) != (v.SizeBytes > before) {
			t.Errorf("%s: %v, it is %s and the volume has %d bytes", state, err, v.Snapshot.State, v.SizeBytes)
		}
		sn := &Snapshot{Phase: SnapshotTaking, SizeBytes: before}
		if state == WishTaken {
			if sn.Collect(v.Snapshot); sn.SizeBytes != before {
				t.Errorf("a snapshot of %d bytes is recorded with %d", before, sn.SizeBytes)
			}
		}
	}
}
