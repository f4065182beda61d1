package healing

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// ordered writes to two volumes in an order that spans both: n to the first, then n to the second, then n+1 to the first, and so on. So the
// first is never behind the second, and at most one ahead. Each of its writers does so with a block of its own.
type ordered struct {
	stop    context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	written []uint64
	err     error
	longest time.Duration
}

func order(ctx context.Context, writers int, first, second cluster.File) *ordered {
	ctx, stop := context.WithCancel(ctx)
	o := &ordered{stop: stop, written: make([]uint64, writers)}
	for writer := range writers {
		o.running.Go(func() {
			for n := uint64(1); ctx.Err() == nil; n++ {
				p := bytes.Repeat(binary.LittleEndian.AppendUint64(nil, n), cluster.BlockBytes/8)
				for _, f := range []cluster.File{first, second} {
					begin := time.Now()
					err := f.WriteAt(context.WithoutCancel(ctx), p, int64(writer)*cluster.BlockBytes)
					o.note(writer, n, time.Since(begin), err)
					time.Sleep(time.Duration(1+writer) * time.Millisecond)
				}
			}
		})
	}
	return o
}

func (o *ordered) note(writer int, n uint64, took time.Duration, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.written[writer], o.err, o.longest = n, errors.Join(o.err, err), max(o.longest, took)
}

// counts are what the writers have come to, the errors that there were, and the longest write since the last time.
func (o *ordered) counts() (written []uint64, longest time.Duration, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	longest, o.longest = o.longest, 0
	return append(written, o.written...), longest, o.err
}

func (o *ordered) end() error {
	o.stop()
	o.running.Wait()
	_, _, err := o.counts()
	return err
}

// check compares images of both volumes with the order of the writes, and with what was written before.
func (o *ordered) check(before []uint64, first, second []byte) error {
	var errs []error
	for writer := range o.written {
		at := writer * cluster.BlockBytes
		a, b := binary.LittleEndian.Uint64(first[at:]), binary.LittleEndian.Uint64(second[at:])
		if b > a || a > b+1 || a < before[writer] || b+1 < before[writer] {
			errs = append(errs, fmt.Errorf("writer %d: %d in the first and %d in the second, with %d written before", writer, a, b, before[writer]))
		}
	}
	return errors.Join(errs...)
}

func (b *bubble) groupSnapshot(name string, ids ...string) error {
	_, err := b.controller.CreateVolumeGroupSnapshot(b.ctx, &csi.CreateVolumeGroupSnapshotRequest{Name: name, SourceVolumeIds: ids})
	return err
}

func (b *bubble) removeGroup(name string) {
	b.t.Helper()
	id := volume.GroupIDFor(name)
	b.must(b.again(func() error {
		_, err := b.controller.DeleteVolumeGroupSnapshot(b.ctx, &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: id})
		return err
	}))
	b.must(b.await("the group's records are gone", func() bool {
		left, err := b.Store.ListSnapshots(b.ctx, "", 0)
		return err == nil && len(left) == 0
	}))
}

// wantOneMoment checks that a group has both volumes as they were at one moment, on each replica of which there are at least so many.
func (b *bubble) wantOneMoment(name string, replicas int, o *ordered, before []uint64, first, second string) {
	b.t.Helper()
	resp, err := b.controller.GetVolumeGroupSnapshot(b.ctx, &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: volume.GroupIDFor(name)})
	b.must(err)
	images := map[string][][]byte{}
	for _, sn := range resp.GetGroupSnapshot().GetSnapshots() {
		found := b.imagesOf(sn.GetSnapshotId())
		if !sn.GetReadyToUse() || len(found) < replicas {
			b.t.Fatalf("the snapshot of %s has %d replicas and is ready: %t", sn.GetSourceVolumeId(), len(found), sn.GetReadyToUse())
		}
		for _, image := range found {
			if !bytes.Equal(image, found[0]) {
				b.t.Fatalf("the replicas of the snapshot of %s differ", sn.GetSourceVolumeId())
			}
		}
		images[sn.GetSourceVolumeId()] = found
	}
	b.must(o.check(before, images[first][0], images[second][0]))
}

// another is a second node service, on a machine of its own. Its looks are not in step with those of the first.
func (b *bubble) another(name string) *bubble {
	b.t.Helper()
	o := *b
	o.host = name
	b.RegisterHosts(name)
	var err error
	o.machine, err = userspace.New(userspace.Options{Dir: filepath.Join(b.Dir, "dev-"+name), Dial: b.Dial})
	b.must(err)
	b.t.Cleanup(o.machine.Close)
	o.node, err = node.New(node.Options{
		Name: name, Store: b.Store, Cluster: b.Cluster.Cluster, Fabrics: o.machine, FileSystems: o.machine, Encryption: o.machine, Mounts: o.machine,
		StateDir: filepath.Join(b.Dir, "state-"+name), Clock: clock.RealClock{},
	})
	b.must(err)
	time.Sleep(230 * time.Millisecond)
	ctx, cancel := context.WithCancel(b.ctx)
	var running sync.WaitGroup
	running.Go(func() { b.must(o.node.Watch(ctx)) })
	b.t.Cleanup(func() { cancel(); running.Wait() })
	return &o
}

// In simulated time, with 2 ms a call: a writer's order over two volumes, of one node service or of two, is kept in each group snapshot, and I/O
// is paused for a moment.
func TestGroupSnapshotsUnderLoadKeepTheOrderOfWrites(t *testing.T) {
	t.Parallel()
	for name, two := range map[string]bool{"one node service": false, "two node services": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBubble(t, 3, cluster.Options{RPCLatency: 2 * time.Millisecond})
				other := b
				if two {
					other = b.another("host-2")
				}
				first, second := b.staged("a", 3), other.staged("b", 3)
				o := order(b.ctx, 8, b.open(first), other.open(second))
				groups := 8
				if testing.Short() {
					groups = 3
				}
				o.counts()
				begin := time.Now()
				for i := range groups {
					before, _, err := o.counts()
					b.must(err)
					b.must(b.groupSnapshot(fmt.Sprint("g", i), first, second))
					b.wantOneMoment(fmt.Sprint("g", i), 3, o, before, first, second)
					time.Sleep(time.Duration(i*70) * time.Millisecond) // not in step with the node services' looks
				}
				_, longest, err := o.counts()
				b.must(err)
				t.Logf("a group in %s, longest write %s", time.Since(begin)/time.Duration(groups), longest)
				if longest > 100*time.Millisecond {
					t.Errorf("I/O was paused for %s", longest)
				}
				b.must(o.end())
				for i := range groups {
					_, err := b.controller.DeleteVolumeGroupSnapshot(b.ctx, &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: volume.GroupIDFor(fmt.Sprint("g", i))})
					b.must(err)
				}
				b.must(errors.Join(b.unuse(first), other.unuse(second)))
				b.removeAll(first, second)
			})
		})
	}
}

// removeAll deletes volumes that nobody uses and wants nothing to be left of any.
func (b *bubble) removeAll(ids ...string) {
	b.t.Helper()
	for _, id := range ids[1:] {
		b.must(b.again(func() error {
			_, err := b.controller.DeleteVolume(b.ctx, &csi.DeleteVolumeRequest{VolumeId: id})
			return err
		}))
	}
	b.remove(ids[0])
}

// One of two volumes is staged by nobody: the controller takes it while the other is paused, or afterwards.
func TestGroupOfAVolumeInUseAndOneThatIsNot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 3, cluster.Options{RPCLatency: 2 * time.Millisecond})
		idle, used := b.create("idle", 3), b.staged("used", 3)
		l := cluster.StartLoad(b.ctx, b.open(used), 8, 2, 10*time.Millisecond)
		b.must(b.groupSnapshot("g", idle, used))
		resp, err := b.controller.GetVolumeGroupSnapshot(b.ctx, &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: volume.GroupIDFor("g")})
		b.must(err)
		for _, sn := range resp.GetGroupSnapshot().GetSnapshots() {
			if n := len(b.imagesOf(sn.GetSnapshotId())); n != 3 {
				t.Errorf("the snapshot of %s has %d replicas", sn.GetSourceVolumeId(), n)
			}
		}
		b.must(l.End())
		b.removeGroup("g")
		b.must(b.unuse(used))
		b.removeAll(idle, used)
	})
}

// The raid host of one of the volumes fails in some way about when the group is taken. I/O goes on, and the group that comes about in the end
// is of one moment.
func TestNodeFailsWhileAGroupIsTaken(t *testing.T) {
	longTest(t)
	for fault, begin := range nodeFaults {
		for _, after := range []time.Duration{0, 504 * time.Millisecond, 530 * time.Millisecond} {
			t.Run(fmt.Sprintf("%s after %s", fault, after), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					b := newBubble(t, 3, cluster.Options{RPCLatency: 2 * time.Millisecond})
					first, second := b.staged("a", 3), b.staged("b", 3)
					o := order(b.ctx, 4, b.open(first), b.open(second))
					before, _, _ := o.counts()
					var wg sync.WaitGroup
					wg.Go(func() { b.must(b.again(func() error { return b.groupSnapshot("g", first, second) })) })
					time.Sleep(after)
					end := begin(b, b.Record(first).Assembly.RaidHost)
					time.Sleep(2 * stall)
					now, _, _ := o.counts()
					b.must(b.await("writes go on during the fault", func() bool {
						later, _, err := o.counts()
						return later[0] > now[0]+10 || err != nil
					}))
					end()
					wg.Wait()
					b.wantOneMoment("g", 1, o, before, first, second)
					b.must(errors.Join(b.awaitWhole(first), b.awaitWhole(second), o.end()))
					b.removeGroup("g")
					b.must(errors.Join(b.unuse(first), b.unuse(second)))
					b.removeAll(first, second)
				})
			})
		}
	}
}

// Each step of taking a group of two volumes under load fails, in each mode, of the controller's and of the node service's.
func TestEveryStepOfAGroupOfVolumesInUseMayFail(t *testing.T) {
	longTest(t)
	t.Parallel()
	cluster.EveryInBubbles(t, func(t *testing.T, steps *cluster.Steps) func(*testing.T, func(func() error) bool) {
		b := newBubble(t, 3, cluster.Options{Steps: steps})
		first, second := b.staged("a", 3), b.staged("b", 3)
		o := order(b.ctx, 4, b.open(first), b.open(second))
		t.Cleanup(func() {
			if !t.Failed() {
				b.must(errors.Join(o.end(), b.unuse(first), b.unuse(second)))
				b.removeAll(first, second)
			}
		})
		count := 0
		return func(t *testing.T, faulty func(func() error) bool) {
			count++
			name := fmt.Sprint("g", count)
			before, _, _ := o.counts()
			if faulty(func() error {
				err := b.groupSnapshot(name, first, second)
				if steps.Crashed() {
					b.stop()
					return errCrashed
				}
				return err
			}) {
				b.start()
			}
			b.must(b.again(func() error { return b.groupSnapshot(name, first, second) }))
			b.wantOneMoment(name, 3, o, before, first, second)
			now, _, _ := o.counts()
			b.must(b.await("writes go on", func() bool {
				later, _, err := o.counts()
				return later[0] > now[0]+10 || err != nil
			}))
			_, _, err := o.counts()
			b.must(errors.Join(err, b.awaitWhole(first), b.awaitWhole(second)))
			b.removeGroup(name)
		}
	})
}
