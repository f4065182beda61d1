package healing

import (
	"maps"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// Two machines write to one volume, each blocks of its own and one in turn, while its raid host fails: neither sees an I/O error, and no
// write of either is lost.
func TestTwoHostsSurviveTheirRaidHost(t *testing.T) {
	longTest(t)
	faults := maps.Clone(nodeFaults)
	faults["cut off, its RPC answers"] = func(b *bubble, node string) func() { return b.isolate(node, "left", "right") }
	for name, fail := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, 3)
				lost := p.Record(p.id).Assembly.RaidHost
				p.turns.pause()
				end := fail(p.bubble, lost)
				time.Sleep(2 * stall)
				p.progress()
				t.Logf("a pause of %s, on %s", p.turns.pause(), p.Record(p.id).Assembly.RaidHost)
				end()
				p.awaitShared(p.id, p.owner, p.guest)
				p.end()
				p.releaseBy(p.guest, p.owner)
			})
		})
	}
}

// isolate cuts a node off all other nodes and off these machines.
func (b *bubble) isolate(node string, machines ...string) (end func()) {
	cut := func(cut bool) {
		for _, other := range append(b.Names(), machines...) {
			if other != node {
				b.Network.Cut(node, other, cut)
			}
		}
	}
	cut(true)
	return func() { cut(false) }
}

// The raid host and the guest are cut off together from the owner and the other replicas, and nobody reaches the raid host's RPC. It
// acknowledges the guest's writes alone, so that the owner must not go on without it; when they are back the others are rebuilt from it.
func TestRaidHostIsCutOffTogetherWithAGuest(t *testing.T) {
	longTest(t)
	for name, rpc := range map[string]bool{"its RPC answers": true, "its RPC doesn't": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, 3)
				from := p.Record(p.id).Assembly.RaidHost
				end := p.isolate(from, "left")
				for _, other := range p.Names() {
					p.Network.Cut("right", other, other != from)
				}
				if !rpc {
					p.Sim(from).AddRPCFault(sim.RPCFault{Kind: sim.FailBefore})
				}
				time.Sleep(2 * stall)
				writes := p.loads[1].Writes()
				p.must(p.await("the guest writes", func() bool { return p.loads[1].Writes() > writes+10 }))
				if a := p.Record(p.id).Assembly; a.RaidHost != from || a.Held {
					t.Errorf("it runs as %+v", a)
				}
				end()
				for _, other := range p.Names() {
					p.Network.Cut("right", other, false)
				}
				p.Sim(from).ClearRPCFaults()
				p.progress()
				p.awaitShared(p.id, p.owner, p.guest)
				p.end()
				p.releaseBy(p.guest, p.owner)
			})
		})
	}
}

// A guest that reaches nothing waits and disturbs nobody, also while the volume moves.
func TestGuestIsCutOff(t *testing.T) {
	longTest(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, 3)
		p.must(p.turns.end())
		cut := func(cut bool) {
			for _, node := range p.Names() {
				p.Network.Cut("right", node, cut)
			}
		}
		cut(true)
		time.Sleep(stall)
		to := p.Record(p.id).Standby.RaidHost
		p.moveTo(p.id, to)
		writes := p.loads[0].Writes()
		p.must(p.await("it has moved", func() bool { a := p.Record(p.id).Assembly; return a.RaidHost == to && !a.Held }))
		p.must(p.await("the owner writes", func() bool { return p.loads[0].Writes() > writes+10 }))
		cut(false)
		writes = p.loads[1].Writes()
		p.must(p.await("the guest writes", func() bool { return p.loads[1].Writes() > writes+10 }))
		p.awaitShared(p.id, p.owner, p.guest)
		p.end()
		p.releaseBy(p.guest, p.owner)
	})
}

// An operator moves it, with the guest's node service down and up: what is held at its raid host needs nobody's leave.
func TestTwoHostsAreMoved(t *testing.T) {
	longTest(t)
	for name, down := range map[string]bool{"both node services run": false, "the guest's is down": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, 3)
				for range 3 {
					if down {
						p.guest.stop()
					}
					from := p.Record(p.id).Assembly.RaidHost
					to := p.Record(p.id).Standby.RaidHost
					p.moveTo(p.id, to)
					p.turns.pause()
					p.must(p.await("it has moved", func() bool {
						a := p.Record(p.id).Assembly
						return a.RaidHost == to && !a.Held
					}))
					p.progress()
					t.Logf("moved from %s to %s, a pause of %s", from, to, p.turns.pause())
					if down {
						p.guest.start()
					}
					p.awaitShared(p.id, p.owner, p.guest)
				}
				p.end()
				p.releaseBy(p.owner, p.guest)
			})
		})
	}
}

// While the guest's node service is down the raid host is lost: nobody can tell what it acknowledged to the guest, and all wait for one of them.
func TestRaidHostIsLostWhileAGuestsNodeServiceIsDown(t *testing.T) {
	longTest(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, 3)
		p.guest.stop()
		lost := p.kill(p.Record(p.id).Assembly.RaidHost)
		time.Sleep(30 * time.Second)
		if a := p.Record(p.id).Assembly; a.RaidHost != lost {
			t.Fatalf("it runs as %+v", a)
		}
		p.restart(lost)
		p.progress()
		p.guest.start()
		p.awaitShared(p.id, p.owner, p.guest)
		p.end()
		p.releaseBy(p.guest, p.owner)
	})
}

// The owner lets go of the volume and the guest goes on, through the loss of the raid host.
func TestGuestInheritsAVolume(t *testing.T) {
	longTest(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, 3)
		p.must(p.turns.end())
		p.must(p.loads[0].End())
		p.owner.unuse(p.id)
		p.awaitShared(p.id, p.guest)
		lost := p.kill(p.Record(p.id).Assembly.RaidHost)
		writes := p.loads[1].Writes()
		p.must(p.await("the heir writes", func() bool { return p.loads[1].Writes() > writes+10 }))
		p.restart(lost)
		p.awaitShared(p.id, p.guest)
		p.end()
		p.releaseBy(p.guest)
	})
}

// The owner's machine is lost, alone or with the raid host: the CO detaches it, and the guest goes on as the owner.
func TestOwnersMachineIsLost(t *testing.T) {
	longTest(t)
	for name, both := range map[string]bool{"alone": false, "with the raid host": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, 3)
				p.must(p.turns.end())
				p.must(p.loads[0].End())
				v := p.Record(p.id)
				p.owner.stop()
				p.owner.Close()
				if both {
					p.kill(v.Assembly.RaidHost)
				}
				p.must(p.again(func() error { return p.owner.unpublish(p.id) }))
				writes := p.loads[1].Writes()
				p.must(p.await("the heir writes", func() bool { return p.loads[1].Writes() > writes+10 }))
				p.restart(v.Assembly.RaidHost)
				p.awaitShared(p.id, p.guest)
				p.end()
				p.releaseBy(p.guest)
			})
		})
	}
}

// The owner's machine is lost while another node has the volume published and not staged. Who stages it first looks after it.
func TestHeirThatHasNotStagedAVolumeGivesWay(t *testing.T) {
	longTest(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 3, cluster.Options{})
		all := b.machines(nil, "left", "right", "next")
		owner, heir, next := all[0], all[1], all[2]
		id := b.create("shared", 3)
		owner.use(id)
		b.must(heir.publish(id))
		owner.stop()
		owner.Close()
		b.must(b.again(func() error { return owner.unpublish(id) }))
		if name := b.Record(id).Owner; name != heir.name {
			t.Fatalf("node %q owns it", name)
		}
		next.use(id)
		b.awaitShared(id, next)
		b.must(b.again(func() error { return heir.stage(id) }))
		b.awaitShared(id, next, heir)
		next.unuse(id)
		b.awaitShared(id, heir)
		heir.unuse(id)
		b.remove(id)
	})
}

// A guest that is detached by force is off the volume although its machine goes on.
func TestGuestIsDetachedByForce(t *testing.T) {
	longTest(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, 3)
		p.must(p.turns.end())
		p.must(p.loads[1].End())
		p.guest.stop()
		p.must(p.again(func() error { return p.guest.unpublish(p.id) }))
		v := p.Record(p.id)
		paths, err := p.guest.Paths(p.ctx, v.NQN())
		p.must(err)
		for _, path := range paths {
			if path.State == "live" {
				t.Errorf("it still has %+v", path)
			}
		}
		p.awaitShared(p.id, p.owner)
		p.end()
		p.guest.Close()
		p.releaseBy(p.owner)
	})
}

// A volume grows for both.
func TestTwoHostsSeeAVolumeGrow(t *testing.T) {
	longTest(t)
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, 3)
		_, err := p.controller.ControllerExpandVolume(p.ctx, &csi.ControllerExpandVolumeRequest{VolumeId: p.id, CapacityRange: &csi.CapacityRange{RequiredBytes: 16 * mib}})
		p.must(err)
		for i, m := range []*machine{p.owner, p.guest} {
			p.must(p.again(func() error { return m.expand(p.id) }))
			if size := p.files[i].SizeBytes(); size != 16*mib {
				t.Errorf("%s has %d bytes", m.name, size)
			}
		}
		p.progress()
		p.awaitShared(p.id, p.owner, p.guest)
		p.end()
		p.releaseBy(p.guest, p.owner)
	})
}

// The raid host is lost while its standby is replaced, and a guest that has seen the former standby go waits for the raid host. It hears that it is
// to leave that for the next standby all the same, and in time.
func TestRaidHostIsLostWhileAGuestWaitsForIt(t *testing.T) {
	longTest(t)
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 3, cluster.Options{})
		p := &pair{bubble: b, id: b.create("shared", 3), owner: b.machines(nil, "left")[0]}
		var armed atomic.Bool
		p.guest = b.machineThat("right", func(op userspace.Op, at userspace.Moment) error {
			if op == userspace.OpConnectPath && at == userspace.Before && armed.Load() {
				if v := b.Record(p.id); v.Standby == nil && armed.CompareAndSwap(true, false) {
					b.kill(v.Assembly.RaidHost)
				}
			}
			return nil
		})
		p.begin()
		v := b.Record(p.id)
		third := b.otherThan(p.id)
		b.kill(third)
		b.must(b.await("a replica is lost", func() bool { return b.inState(p.id, volume.ReplicaOutOfSync) == 1 }))
		armed.Store(true)
		b.restart(third)
		b.must(b.await("its raid host is left", func() bool { a := b.Record(p.id).Assembly; return a.RaidHost != v.Assembly.RaidHost && !a.Held }))
		p.progress()
		b.restart(v.Assembly.RaidHost)
		b.awaitShared(p.id, p.owner, p.guest)
		p.end()
		p.releaseBy(p.guest, p.owner)
	})
}
