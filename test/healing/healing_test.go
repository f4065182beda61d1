package healing

import (
	"testing"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

func TestReplicaIsRebuiltWhenItsNodeReturns(t *testing.T) {
	b := newBench(t, 3)
	id := b.create("a", 16*mib, nil)
	l := b.load(b.use(id))
	b.eventually("standby", func() bool { return b.whole(id) })
	lost := b.otherThan(id)
	b.Sim(lost).Kill()
	b.eventually("the loss is on record", func() bool { return len(b.Record(id).InState(volume.ReplicaOutOfSync)) == 1 })
	t.Logf("pause %s; %s", l.pause(), b.describe(id))
	b.must(b.Sim(lost).Restart())
	b.eventually("redundancy", func() bool { return b.whole(id) })
	t.Logf("pause %s; %s", l.pause(), b.describe(id))
	l.verify()
	b.release(id)
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
	b := newBench(t, 3)
	id := b.create("a", 16*mib, nil)
	l := b.load(b.use(id))
	b.eventually("standby", func() bool { return b.whole(id) })
	l.pause()
	from := b.Record(id).Assembly.RaidHost
	b.Sim(from).Kill()
	b.eventually("the volume runs elsewhere", func() bool { v := b.Record(id); return v.Assembly.RaidHost != from && !v.Assembly.Held })
	l.pauseUntilNextWrite()
	t.Logf("pause %s; %s", l.pause(), b.describe(id))
	b.must(b.Sim(from).Restart())
	b.eventually("redundancy", func() bool { return b.whole(id) })
	t.Logf("pause %s; %s", l.pause(), b.describe(id))
	l.verify()
	b.release(id)
}
