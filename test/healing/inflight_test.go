package healing

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// losePower ends a machine and its node service: nothing is attached any more, and what it had under way nobody sends again.
func (m *machine) losePower() {
	m.stop()
	m.Close()
	m.stop = func() {}
}

// boot starts it again, without what it had in memory.
func (m *machine) boot() {
	m.b.t.Helper()
	m.Machine = m.b.bootIn(filepath.Join(m.b.Dir, m.name, "dev"), userspace.Options{Dial: m.b.DialFrom(m.name)})
	m.start()
}

// reboot has the bubble's machine begin again, without what it had in memory, and without its services.
func (b *bubble) reboot(fault func(userspace.Op, userspace.Moment) error) {
	b.t.Helper()
	b.machine.Close()
	b.machine = b.bootIn(filepath.Join(b.Dir, "dev"), userspace.Options{Dial: b.Dial, Fault: fault})
}

// bootIn begins a machine with a folder in which one was before.
func (b *bubble) bootIn(dir string, o userspace.Options) *userspace.Machine {
	b.t.Helper()
	b.must(os.RemoveAll(dir))
	o.Dir = dir
	m, err := userspace.New(o)
	b.must(err)
	b.t.Cleanup(m.Close)
	return m
}

// usedBy makes a volume that one machine uses, and that is whole, and returns its device.
func (b *bubble) usedBy(m *machine) (id string, file *userspace.File) {
	b.t.Helper()
	id = b.create("a", 3)
	file = m.use(id)
	b.awaitShared(id, m)
	return id, file
}

// blockOf is a block that holds one byte throughout.
func blockOf(b byte) []byte { return bytes.Repeat([]byte{b}, cluster.BlockBytes) }

// onReplicas reads the first block of every replica in a state.
func (b *bubble) onReplicas(id string, states ...volume.ReplicaState) map[string]byte {
	b.t.Helper()
	v, found := b.Record(id), map[string]byte{}
	for _, r := range v.InState(states...) {
		p := make([]byte, cluster.BlockBytes)
		if err := b.ReplicaBytes(v, r, p, 0); err == nil {
			found[r.Node] = p[0]
		}
	}
	return found
}

// wantAlike checks that what in-sync replicas hold is one and the same.
func (b *bubble) wantAlike(id string) {
	b.t.Helper()
	found := b.onReplicas(id, volume.ReplicaInSync)
	values := map[byte]bool{}
	for _, value := range found {
		values[value] = true
	}
	if len(values) > 1 {
		b.t.Errorf("in-sync replicas hold %v", found)
	}
}

// tear leaves a write of a machine under way that has reached every replica but one, and returns what mends the link that it got lost on.
func (b *bubble) tear(id string, file *userspace.File) (mend func()) {
	b.t.Helper()
	v := b.Record(id)
	raidHost, apart := v.Assembly.RaidHost, b.otherThan(id)
	b.must(file.WriteAt(b.ctx, blockOf(1), 0))
	b.Network.Cut(raidHost, apart, true)
	go func() { _ = file.WriteAt(context.WithoutCancel(b.ctx), blockOf(2), 0) }()
	b.must(b.await("the write is on some replicas", func() bool {
		found := b.onReplicas(id, volume.ReplicaInSync)
		on := slices.DeleteFunc(b.Names(), func(node string) bool { return found[node] != 2 })
		return len(on) == 2 && found[apart] == 1
	}))
	return func() { b.Network.Cut(raidHost, apart, false) }
}

// A machine and its raid host are lost at once, with a write under way that has reached some replicas and not others. Nobody sends it again: whoever uses
// the volume next reads the block as before the write or as after it, and the same ever after.
func TestWriteThatNobodySendsAgainIsOnAllReplicasOrNone(t *testing.T) {
	longTest(t)
	for name, again := range map[string]func(b *bubble, id string, m *machine, other *machine) *machine{
		"the machine is back and the raid host stays away": func(b *bubble, id string, m, _ *machine) *machine {
			m.boot()
			return m
		},
		"both are back": func(b *bubble, id string, m, _ *machine) *machine {
			b.must(b.Sim(b.Record(id).Assembly.RaidHost).Restart())
			m.boot()
			return m
		},
		"the raid host is back later than the machine": func(b *bubble, id string, m, _ *machine) *machine {
			from := b.Record(id).Assembly.RaidHost
			m.boot()
			time.Sleep(stall)
			b.must(b.Sim(from).Restart())
			return m
		},
		"the volume is detached by force": func(b *bubble, id string, m, other *machine) *machine {
			b.must(b.again(func() error { return m.unpublish(id) }))
			return other
		},
		"the raid host is back, and the volume is detached by force": func(b *bubble, id string, m, other *machine) *machine {
			b.must(b.Sim(b.Record(id).Assembly.RaidHost).Restart())
			b.must(b.again(func() error { return m.unpublish(id) }))
			return other
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBubble(t, 4, cluster.Options{})
				m, other := b.machineThat("m", nil), b.machineThat("other", nil)
				id, file := b.usedBy(m)
				mend := b.tear(id, file)
				b.Sim(b.Record(id).Assembly.RaidHost).Kill()
				m.losePower()
				mend()
				next := again(b, id, m, other)
				b.wantAlikeEverAfter(id, next)
			})
		})
	}
}

// wantAlikeEverAfter uses a volume from a machine, wants it to read the same from then on, and all of it to be whole in the end.
func (b *bubble) wantAlikeEverAfter(id string, m *machine) {
	b.t.Helper()
	file := m.use(id)
	p := make([]byte, cluster.BlockBytes)
	b.must(file.ReadAt(b.ctx, p, 0))
	first := p[0]
	b.wantAlike(id)
	for _, name := range b.Names() {
		if !b.Sim(name).Running() {
			b.must(b.Sim(name).Restart())
		}
	}
	for end := time.Now().Add(10 * stall); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		b.wantAlike(id)
		b.must(file.ReadAt(b.ctx, p, 0))
		if !bytes.Equal(p, blockOf(first)) {
			b.t.Fatalf("it read %d, and then %d", first, p[0])
		}
	}
	b.awaitShared(id, m)
	if found := b.onReplicas(id, volume.ReplicaInSync); len(found) != 3 {
		b.t.Errorf("in-sync replicas hold %v", found)
	}
	b.wantAlike(id)
	m.unuse(id)
	b.remove(id)
}

// Each step of the way back, of a machine that was lost together with its raid host, fails in each way.
func TestEveryStepOfComingBackWithoutWhatWasUnderWayMayFail(t *testing.T) {
	longTest(t)
	t.Parallel()
	cluster.EveryInBubbles(t, func(t *testing.T, steps *cluster.Steps) func(*testing.T, func(func() error) bool) {
		b := newBubble(t, 3, cluster.Options{Steps: steps})
		count := 0
		return func(_ *testing.T, faulty func(func() error) bool) {
			count++
			b.comeBack(fmt.Sprintf("volume-%d", count), steps, faulty)
		}
	})
}

func (b *bubble) comeBack(name string, steps *cluster.Steps, faulty func(func() error) bool) {
	b.t.Helper()
	id := b.staged(name, 3)
	mend := b.tear(id, b.open(id))
	raidHost := b.Sim(b.Record(id).Assembly.RaidHost)
	raidHost.Kill()
	b.stop()
	mend()
	b.must(raidHost.Restart())
	b.reboot(steps.Machine)
	crashed := faulty(func() error {
		b.start()
		err := b.await("it is staged", func() bool { return steps.Crashed() || b.stage(id) == nil })
		if steps.Crashed() {
			b.stop()
			return errCrashed
		}
		return err
	})
	if crashed {
		b.start()
		b.must(b.again(func() error { return b.stage(id) }))
	}
	file, p := b.open(id), make([]byte, cluster.BlockBytes)
	b.must(file.ReadAt(b.ctx, p, 0))
	first := p[0]
	b.must(b.await("the volume is whole", func() bool {
		b.wantAlike(id)
		b.must(file.ReadAt(b.ctx, p, 0))
		if p[0] != first {
			b.t.Fatalf("it read %d, and then %d", first, p[0])
		}
		return b.whole(id) == nil
	}))
	b.release(id)
}

// The volume has just moved off a lost raid host when the machine is lost, too, before what was under way has arrived at the next one.
func TestMachineIsLostBeforeItHasSentAgain(t *testing.T) {
	longTest(t)
	for name, detached := range map[string]bool{"and is back": false, "and the volume is detached by force": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBubble(t, 4, cluster.Options{})
				m, other := b.machineThat("m", nil), b.machineThat("other", nil)
				id, file := b.usedBy(m)
				mend := b.tear(id, file)
				v := b.Record(id)
				b.Network.Cut(m.name, v.Standby.RaidHost, true)
				b.Sim(v.Assembly.RaidHost).Kill()
				b.must(b.await("it runs elsewhere", func() bool { a := b.Record(id).Assembly; return a.Number != v.Assembly.Number && !a.Held }))
				m.losePower()
				b.Network.Cut(m.name, v.Standby.RaidHost, false)
				mend()
				next := m
				if detached {
					b.must(b.again(func() error { return m.unpublish(id) }))
					next = other
				} else {
					m.boot()
				}
				b.wantAlikeEverAfter(id, next)
			})
		})
	}
}

// Two machines write. One is lost together with the raid host, with a write under way; the other goes on when that is detached by force, or is back.
func TestOtherMachineGoesOnWithoutWhatNobodySendsAgain(t *testing.T) {
	longTest(t)
	for _, owner := range []bool{true, false} {
		for _, back := range []bool{true, false} {
			t.Run(fmt.Sprintf("the owner is lost: %t, it is back: %t", owner, back), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					b := newBubble(t, 4, cluster.Options{})
					first, second := b.machineThat("first", nil), b.machineThat("second", nil)
					id := b.create("a", 3)
					files := map[*machine]*userspace.File{first: first.use(id), second: second.use(id)}
					b.awaitShared(id, first, second)
					lost, stays := first, second
					if !owner {
						lost, stays = second, first
					}
					mend := b.tear(id, files[lost])
					raidHost := b.Record(id).Assembly.RaidHost
					b.Sim(raidHost).Kill()
					lost.losePower()
					mend()
					if owner && back { // it doesn't know what the raid host has acknowledged to the other machine, and waits for it
						b.must(b.Sim(raidHost).Restart())
					}
					if back {
						lost.boot()
						b.must(b.again(func() error { return lost.stage(id) }))
					} else {
						b.must(b.again(func() error { return lost.unpublish(id) }))
					}
					p := make([]byte, cluster.BlockBytes)
					b.must(files[stays].ReadAt(b.ctx, p, 0))
					if !b.Sim(raidHost).Running() {
						b.must(b.Sim(raidHost).Restart())
					}
					if back {
						b.awaitShared(id, first, second)
					} else {
						b.awaitShared(id, stays)
					}
					b.wantAlike(id)
					if back {
						lost.unuse(id)
					}
					stays.unuse(id)
					b.remove(id)
				})
			})
		}
	}
}

// A machine is lost alone and back after a while: its raid host has finished what it had been given, and nothing is to be rebuilt or moved.
func TestMachineThatIsLostAloneCostsNothing(t *testing.T) {
	longTest(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 4, cluster.Options{})
		m := b.machineThat("m", nil)
		id, file := b.usedBy(m)
		before := b.Record(id)
		go func() { _ = file.WriteAt(context.WithoutCancel(b.ctx), blockOf(2), 0) }()
		m.losePower()
		time.Sleep(3 * stall)
		m.boot()
		time.Sleep(3 * stall)
		file = m.use(id)
		b.must(file.WriteAt(b.ctx, blockOf(3), 0))
		b.awaitShared(id, m)
		after := b.Record(id)
		if after.Assembly.Number != before.Assembly.Number {
			t.Errorf("it runs as %+v, before as %+v", after.Assembly, before.Assembly)
		}
		for _, r := range before.Replicas {
			if now := after.Replica(r.ID); now == nil || now.Since != r.Since {
				t.Errorf("replica %+v is %+v now", r, now)
			}
		}
		m.unuse(id)
		b.remove(id)
	})
}

// A machine reaches no SPDK node for so long that its kernel gives the volume up, and its raid host dies meanwhile: what was under way has failed, and is
// on all replicas or on none when the volume is used next.
func TestWriteThatFailedIsOnAllReplicasOrNone(t *testing.T) {
	longTest(t)
	for name, back := range map[string]bool{"the raid host stays away": false, "the raid host is back": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBubble(t, 4, cluster.Options{})
				m := b.machineThat("m", nil)
				id, file := b.usedBy(m)
				mend := b.tear(id, file)
				v := b.Record(id)
				cut := func(cut bool) {
					for _, node := range b.Names() {
						b.Network.Cut(m.name, node, cut)
					}
				}
				cut(true)
				b.Sim(v.Assembly.RaidHost).Kill()
				mend()
				time.Sleep(v.Parameters.Budgets.TargetLoss + time.Minute)
				if back {
					b.must(b.Sim(v.Assembly.RaidHost).Restart())
				}
				m.unuse(id)
				cut(false)
				b.wantAlikeEverAfter(id, m)
			})
		})
	}
}
