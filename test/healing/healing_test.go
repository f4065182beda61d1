package healing

import (
	"slices"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

func TestReplicaIsRebuiltWhenItsNodeReturns(t *testing.T) {
	t.Parallel()
	b := newBench(t, 3)
	id := b.create("a", 16*mib, nil)
	l := b.load(b.use(id))
	b.eventually("standby", func() bool { return b.whole(id) })
	lost := b.otherThan(id)
	b.kill(lost)
	b.eventually("the loss is on record", func() bool { return len(b.Record(id).InState(volume.ReplicaOutOfSync)) == 1 })
	t.Logf("pause %s; %s", l.pause(), b.describe(id))
	b.start(lost)
	b.eventually("redundancy", func() bool { return b.whole(id) })
	t.Logf("pause %s; %s", l.pause(), b.describe(id))
	l.verify()
	b.release(id, l)
}

// otherThan returns a node with a replica that is neither the raid host nor the standby's.
func (b *bench) otherThan(id string) string {
	v := b.Record(id)
	for _, r := range v.Replicas {
		if r.Node != v.Assembly.RaidHost && r.Node != v.Standby.RaidHost {
			return r.Node
		}
	}
	b.t.Fatal("no such node")
	return ""
}

func TestRaidHostIsKilledUnderLoad(t *testing.T) {
	t.Parallel()
	b := newBench(t, 3)
	id := b.create("a", 16*mib, nil)
	l := b.load(b.use(id))
	b.eventually("standby", func() bool { return b.whole(id) })
	l.pause()
	from := b.Record(id).Assembly.RaidHost
	b.kill(from)
	b.eventually("the volume runs elsewhere", func() bool { v := b.Record(id); return v.Assembly.RaidHost != from && !v.Assembly.Held })
	l.pauseUntilNextWrite()
	t.Logf("pause %s; %s", l.pause(), b.describe(id))
	b.start(from)
	b.eventually("redundancy", func() bool { return b.whole(id) })
	t.Logf("pause %s; %s", l.pause(), b.describe(id))
	l.verify()
	b.release(id, l)
}

// The raid host fails in each way that it can, under load: the volume goes on elsewhere, and is whole again when the fault has ended.
func TestRaidHostFails(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(b *bench, host string) (end func()){
		"hangs": func(b *bench, host string) func() {
			b.hang(host, true)
			return func() { b.hang(host, false) }
		},
		"is cut off from everyone, its RPC answers": func(b *bench, host string) func() {
			b.isolate(host, true, "n1", "n2", "n3", sim.Outside)
			return func() { b.isolate(host, false, "n1", "n2", "n3", sim.Outside) }
		},
		"is cut off from its user": func(b *bench, host string) func() {
			b.isolate(host, true, sim.Outside)
			return func() { b.isolate(host, false, sim.Outside) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, 3)
			id := b.create("a", 16*mib, nil)
			l := b.load(b.use(id))
			b.eventually("standby", func() bool { return b.whole(id) })
			l.pause()
			from := b.Record(id).Assembly.RaidHost
			end := fault(b, from)
			b.eventually("the volume runs elsewhere", func() bool { v := b.Record(id); return v.Assembly.RaidHost != from && !v.Assembly.Held })
			l.pauseUntilNextWrite()
			t.Logf("pause %s; %s", l.pause(), b.describe(id))
			end()
			b.eventually("redundancy", func() bool { return b.whole(id) })
			t.Logf("pause %s; %s", l.pause(), b.describe(id))
			l.verify()
			b.release(id, l)
		})
	}
}

// The raid host loses sight of the other nodes while its user reaches it: it goes on with the leg beside it, and the others are rebuilt
// when they can be reached again.
func TestRaidHostThatIsCutOffFromItsLegsGoesOnAlone(t *testing.T) {
	t.Parallel()
	b := newBench(t, 3)
	id := b.create("a", 16*mib, nil)
	l := b.load(b.use(id))
	b.eventually("standby", func() bool { return b.whole(id) })
	from := b.Record(id).Assembly.RaidHost
	b.isolate(from, true, "n1", "n2", "n3")
	b.eventually("the loss is on record", func() bool { return len(b.Record(id).InState(volume.ReplicaInSync)) == 1 })
	l.pauseUntilNextWrite()
	t.Logf("pause %s; %s", l.pause(), b.describe(id))
	b.isolate(from, false, "n1", "n2", "n3")
	b.eventually("redundancy", func() bool { return b.whole(id) })
	l.verify()
	b.release(id, l)
}

// isolate drops the packets between a node and others.
func (b *bench) isolate(node string, cut bool, others ...string) {
	for _, other := range others {
		if other != node {
			b.Network.Cut(node, other, cut)
		}
	}
}

func TestMoveOnPurpose(t *testing.T) {
	t.Parallel()
	b := newBench(t, 3)
	id := b.create("a", 16*mib, nil)
	l := b.load(b.use(id))
	for range 6 {
		b.eventually("standby", func() bool { return b.whole(id) })
		l.pause()
		to := b.otherThan(id)
		b.modify(id, func(v *volume.Volume) { v.MoveTo = to })
		b.eventually("the volume runs elsewhere", func() bool { v := b.Record(id); return v.Assembly.RaidHost == to && !v.Assembly.Held })
		l.pauseUntilNextWrite()
		t.Logf("pause %s; %s", l.pause(), b.describe(id))
	}
	b.eventually("standby", func() bool { return b.whole(id) })
	l.verify()
	b.release(id, l)
}

func (b *bench) modify(id string, change func(*volume.Volume)) {
	b.t.Helper()
	_, err := volume.Modify(b.ctx, b.Store, id, func(v *volume.Volume) (bool, error) { change(v); return true, nil })
	b.must(err)
}

// A replica's target is killed and its lvol is gone when it comes back: another takes its place on the same node.
func TestReplicaWhoseLvolIsGoneIsReplaced(t *testing.T) {
	t.Parallel()
	b := newBench(t, 3)
	id := b.create("a", 16*mib, nil)
	l := b.load(b.use(id))
	b.eventually("standby", func() bool { return b.whole(id) })
	b.loseReplica(id, b.otherThan(id))
	b.eventually("redundancy", func() bool { return b.whole(id) })
	t.Logf("pause %s; %s", l.pause(), b.describe(id))
	l.verify()
	b.release(id, l)
}

// loseReplica kills a node's target and starts it again without its replica of the volume.
func (b *bench) loseReplica(id, node string) {
	b.t.Helper()
	v := b.Record(id)
	for _, r := range v.Replicas {
		if r.Node == node {
			b.kill(node)
			b.eventually("the loss is on record", func() bool { s := b.Record(id).Replica(r.ID).State; return s == volume.ReplicaOutOfSync })
			b.start(node)
			n, err := b.Node(node)
			b.must(err)
			b.retry(func() error { return n.DeleteLvol(b.ctx, r.LvStore, v.LvolName(r)) })
		}
	}
}

// A replica whose node stays away is replaced on another node, and the old one is deleted when its node returns after all.
func TestReplicaWhoseNodeStaysAwayIsReplacedElsewhere(t *testing.T) {
	t.Parallel()
	b := newBench(t, 4)
	id := b.create("a", 16*mib, map[string]string{volume.ParamReplaceAfter: "3s"})
	l := b.load(b.use(id))
	b.eventually("standby", func() bool { return b.whole(id) })
	lost := b.otherThan(id)
	b.kill(lost)
	b.eventually("another replica", func() bool {
		inSync := b.Record(id).InState(volume.ReplicaInSync)
		return len(inSync) == 3 && !slices.ContainsFunc(inSync, func(r volume.Replica) bool { return r.Node == lost })
	})
	t.Logf("pause %s; %s", l.pause(), b.describe(id))
	b.start(lost)
	b.eventually("redundancy", func() bool { return b.whole(id) })
	l.verify()
	b.release(id, l)
}

// A volume that nobody uses has lost a replica: the controller rebuilds it.
func TestUnpublishedVolumeIsRepaired(t *testing.T) {
	t.Parallel()
	b := newBench(t, 3)
	id := b.create("a", 16*mib, nil)
	l := b.load(b.use(id))
	b.eventually("standby", func() bool { return b.whole(id) })
	lost := b.otherThan(id)
	b.kill(lost)
	b.eventually("the loss is on record", func() bool { return len(b.Record(id).InState(volume.ReplicaOutOfSync)) == 1 })
	l.verify()
	b.unuse(id)
	b.start(lost)
	b.eventually("redundancy", func() bool { return b.whole(id) && b.Record(id).Assembly == nil })
	t.Log(b.describe(id))
	l.file = b.use(id)
	l.check(func(buf []byte, off int64) error { return l.file.ReadAt(b.ctx, buf, off) })
	b.release(id, l)
}
