package healing

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// modify asks once for other mutable parameters, given as keys and values.
func (b *bubble) modify(id string, pairs ...string) error {
	mutable := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		mutable[pairs[i]] = pairs[i+1]
	}
	_, err := b.controller.ControllerModifyVolume(b.ctx, &csi.ControllerModifyVolumeRequest{VolumeId: id, MutableParameters: mutable})
	return err
}

// readSpeed reads for a while and returns how many MiB per second that was, in the bubble's time.
func (b *bubble) readSpeed(file *userspace.File) float64 {
	b.t.Helper()
	const count = 40
	buf := make([]byte, mib)
	begin := time.Now()
	for i := range int64(count) {
		b.must(file.ReadAt(b.ctx, buf, i%8*mib))
	}
	return count / time.Since(begin).Seconds()
}

// wantSpeed checks that reads are as fast as a limit in MiB per second lets them be.
func (b *bubble) wantSpeed(file *userspace.File, limit float64) {
	b.t.Helper()
	if got := b.readSpeed(file); got > 1.05*limit || got < 0.8*limit {
		b.t.Errorf("read %.1f MiB per second, the limit is %.0f", got, limit)
	}
}

// Limits and the number of replicas change while a volume is written to and its raid host is lost in between: no write fails or is lost, and
// what is on record is in force wherever the volume runs.
func TestLimitsAndReplicasChangeUnderLoadWithAFailoverInBetween(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, id, l := newBubbleInUse(t, 4)
		file := b.open(id)
		b.bytes = 8 * mib
		begin := time.Now()
		b.must(b.modify(id, volume.ParamReadBandwidthLimit, "20Mi", volume.ParamIOPSLimit, "5000"))
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("limits were in force after %v: the node service didn't read the record at once", took)
		}
		b.wantSpeed(file, 20)
		lost := b.kill(b.Record(id).Assembly.RaidHost)
		b.must(b.await("the volume runs elsewhere", func() bool { a := b.Record(id).Assembly; return a.RaidHost != lost && !a.Held }))
		b.wantSpeed(file, 20)
		b.must(b.again(func() error { return b.modify(id, volume.ParamReadBandwidthLimit, "40Mi", volume.ParamReplicas, "2") }))
		b.wantSpeed(file, 40)
		b.restart(lost)
		b.must(b.awaitWhole(id))
		b.must(b.modify(id, volume.ParamReplicas, "4"))
		b.must(b.awaitWhole(id))
		host := b.Record(id).Assembly.RaidHost
		b.restart(b.kill(host)) // without its raid: it is made again, or left, with its limits
		b.must(b.awaitWhole(id))
		b.wantSpeed(file, 40)
		b.must(b.modify(id, volume.ParamReadBandwidthLimit, "none"))
		if got := b.readSpeed(file); got < 80 {
			t.Errorf("without a limit %.1f MiB per second were read", got)
		}
		b.wantGrown(id, l)
	})
}

// A raid has slots for as many replicas as there were to be when it was made, and one more: for others it is left for one that has.
func TestVolumeOfOneReplicaGetsMoreUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 4, cluster.Options{})
		id := b.create("a", 1)
		b.bytes = 8 * mib
		b.must(b.publish(id))
		b.must(b.stage(id))
		l := cluster.StartLoad(b.ctx, b.open(id), 8, 2, 50*time.Millisecond)
		b.must(b.modify(id, volume.ParamReplicas, "4"))
		b.wantGrown(id, l)
	})
}

func TestVolumeThatNobodyUsesGetsMoreAndFewerReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, id, l := newBubbleInUse(t, 4)
		b.bytes = 8 * mib
		b.must(l.End())
		b.must(b.unuse(id))
		for _, replicas := range []string{"1", "4", "2"} {
			b.must(b.modify(id, volume.ParamReplicas, replicas, volume.ParamBandwidthLimit, "15Mi"))
			b.must(b.awaitWhole(id))
		}
		b.wantData(id, l)
		b.must(b.publish(id))
		b.must(b.stage(id))
		b.wantSpeed(b.open(id), 15)
		b.release(id)
	})
}

// A snapshot's pause and a planned move wait for I/O under way. What waits at a limit, four seconds of it here, is let go on for that.
func TestIOThatWaitsAtALimitHoldsUpNeitherASnapshotNorAMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 3, cluster.Options{})
		id := b.staged("a", 3)
		b.must(b.modify(id, volume.ParamWriteBandwidthLimit, "4Mi"))
		ctx, cancel := context.WithCancel(b.ctx)
		var wg sync.WaitGroup
		for writer := range int64(4) {
			file := b.open(id)
			wg.Go(func() {
				for buf := make([]byte, 4*mib); ctx.Err() == nil; {
					if err := file.WriteAt(ctx, buf, writer*mib); err != nil && ctx.Err() == nil {
						t.Error(err)
					}
				}
			})
		}
		time.Sleep(5 * time.Second)
		begin := time.Now()
		b.must(b.snapshot("s", id))
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("the snapshot took %s", took)
		}
		time.Sleep(5 * time.Second)
		if v := b.Record(id); !v.LimitsInForce(b.Observe(v)) {
			t.Error("after the snapshot the limit is not in force")
		}
		from := b.Record(id).Assembly.RaidHost
		b.moveTo(id, b.Record(id).Standby.RaidHost)
		b.must(b.await("the move begins", func() bool { return b.Record(id).Assembly.RaidHost != from }))
		begin = time.Now()
		b.must(b.await("it has ended", func() bool { return !b.Record(id).Assembly.Held }))
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("the move took %s", took)
		}
		cancel()
		wg.Wait()
		b.must(b.awaitWhole(id))
		b.removeSnapshot("s")
		b.release(id)
	})
}

// modifying is a flow that asks for other mutable parameters until that has succeeded.
func modifying(before, after []string) flow {
	done := false
	ask := func(b *bubble, id string) { done = done || b.modify(id, after...) == nil }
	return flow{
		nodes: 3,
		prepare: func(b *bubble, id string) string {
			b.must(b.modify(id, before...))
			b.must(b.awaitWhole(id))
			done = false
			return ""
		},
		begin:     func(b *bubble, id, _ string) { ask(b, id) },
		meanwhile: func(b *bubble, id, _ string) { ask(b, id) },
	}
}

func TestEveryStepOfLimitingAVolumeMayFail(t *testing.T) {
	everyStep(t, modifying([]string{volume.ParamIOPSLimit, "none"}, []string{volume.ParamIOPSLimit, "2000"}))
}

func TestEveryStepOfAddingAReplicaMayFail(t *testing.T) {
	everyStep(t, modifying([]string{volume.ParamReplicas, "2"}, []string{volume.ParamReplicas, "3"}))
}

func TestEveryStepOfTakingAReplicaAwayMayFail(t *testing.T) {
	everyStep(t, modifying([]string{volume.ParamReplicas, "3"}, []string{volume.ParamReplicas, "2"}))
}
