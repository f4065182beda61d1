//go:build e2e

package driver

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/stack"
	"github.com/holdfast-csi/holdfast/test/vm/agent"
	"github.com/holdfast-csi/holdfast/test/vm/load"
)

// partBlocks is how many blocks of a shared volume each host has for its load: 2 MiB. The first block after both is written in turn.
const partBlocks = 512

// user is a volume as one of its hosts uses it.
type user struct {
	*stack.Claim
	*stack.Worker
	t *testing.T
}

func (u *user) run(command string) string {
	u.t.Helper()
	out, err := u.Guest(u.t.Context(), command)
	must(u.t, err)
	return out
}

// pair is a volume that two machines use at once, each with a kernel and a node service of its own.
type pair struct {
	*claim
	users [2]*user
}

func newPair(t *testing.T, s *suite, second *stack.Worker, spec stack.ClaimSpec) *pair {
	t.Helper()
	spec.Name, spec.SizeBytes, spec.Retry = t.Name(), 320<<20, true
	c, err := s.Claim(t.Context(), spec)
	must(t, err)
	other, err := c.On(t.Context(), second)
	must(t, err)
	return &pair{&claim{c, s, t}, [2]*user{{c, s.Worker, t}, {other, second, t}}}
}

// publish has both use it; the first is its owner.
func (p *pair) publish() {
	p.t.Helper()
	for _, u := range p.users {
		must(p.t, u.Publish(p.t.Context()))
	}
	p.whole()
}

// whole waits until both are connected to the raid host and to the standby, and every replica is in-sync.
func (p *pair) whole() {
	p.t.Helper()
	p.until("it is whole for both", func(v *volume.Volume) bool {
		return v.Standby != nil && v.Standby.Running && len(v.InState(volume.ReplicaInSync)) == 3 && len(v.Replicas) == 3 && len(v.Retired) == 0 && len(v.Wanted()) == 0
	})
}

func (p *pair) unpublish() {
	p.t.Helper()
	for _, u := range []*user{p.users[1], p.users[0]} {
		must(p.t, u.Unpublish(p.t.Context()))
	}
	must(p.t, p.users[1].LeftInGuest(p.t.Context()))
}

// turns has both write the block after the loads' in turn, and read what the other wrote, past the page cache, until done.
func (p *pair) turns(done func(v *volume.Volume) bool) {
	p.t.Helper()
	at := fmt.Sprintf("bs=4k count=1 %%s=%d 2>/dev/null", 2*partBlocks)
	end := time.Now().Add(stack.Patience)
	for turn := 1; ; turn++ {
		writer, reader := p.users[turn%2], p.users[(turn+1)%2]
		writer.run(fmt.Sprintf("printf '%%-4096d' %d | dd of=%s oflag=direct conv=notrunc iflag=fullblock ", turn, writer.Pod) + fmt.Sprintf(at, "seek"))
		if got := strings.TrimSpace(reader.run("dd if=" + reader.Pod + " iflag=direct " + fmt.Sprintf(at, "skip"))); got != fmt.Sprint(turn) {
			p.t.Fatalf("%s has written %d, %s reads %q", writer.Name, turn, reader.Name, got)
		}
		v, err := p.Record(p.t.Context())
		must(p.t, err)
		if turn >= 4 && done(v) {
			p.t.Logf("%d turns", turn)
			return
		}
		if time.Now().After(end) {
			p.t.Fatalf("after %d turns it runs as %+v, its standby is %+v, its replicas are %+v", turn, v.Assembly, v.Standby, v.Replicas)
		}
	}
}

// compareParts checks that both machines read the same, past their page caches.
func (p *pair) compareParts() {
	p.t.Helper()
	for i := range p.users {
		part := fmt.Sprintf(" bs=4k skip=%d count=%d iflag=direct 2>/dev/null | sha256sum", i*partBlocks, partBlocks)
		if own, other := p.users[0].run("dd if="+p.users[0].Pod+part), p.users[1].run("dd if="+p.users[1].Pod+part); own != other {
			p.t.Errorf("part %d: %s reads %s, %s reads %s", i, p.users[0].Name, own, p.users[1].Name, other)
		}
	}
}

func (p *pair) remove() {
	p.t.Helper()
	v, err := p.Record(p.t.Context())
	must(p.t, err)
	if differing, err := p.s.CompareReplicas(p.t.Context(), v); err != nil || differing > 0 {
		p.t.Errorf("%d bytes differ among the replicas %+v, %v", differing, v.Replicas, err)
	}
	p.delete()
	p.t.Logf("calls on %s:\n%s", p.users[1].Name, p.users[1].Took())
	p.s.wantNothingLeft(p.t)
}

func TestVolumeOnTwoMachines(t *testing.T) {
	s := run(t)
	begin := time.Now()
	second, err := s.StartWorker(t.Context(), "worker-2")
	must(t, err)
	t.Cleanup(func() { must(t, second.PowerOff()) })
	t.Logf("a second machine after %s", time.Since(begin).Round(time.Millisecond))
	t.Run("raw block", func(t *testing.T) { bothWrite(t, s, second) })
	t.Run("file system", func(t *testing.T) { bothRead(t, s, second) })
}

// Two machines write to one volume, each a part of its own past its page cache, and one block in turn. The volume is moved, its raid host is
// killed and started again: neither sees an I/O error, each always reads what the other has written.
func bothWrite(t *testing.T, s *suite, second *stack.Worker) {
	p := newPair(t, s, second, stack.ClaimSpec{Mode: csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER})
	p.publish()
	var loads []*agent.Load
	for i, u := range p.users {
		l, err := u.Machine.OpenLoad(t.Context(), agent.LoadSpec{Path: u.Pod, First: i * partBlocks, Blocks: partBlocks})
		must(t, err)
		_, err = l.Fill(t.Context())
		must(t, err)
		must(t, l.Run(t.Context(), load.Mix{Writers: 2, Readers: 1, FlushEvery: 8, Pace: 5 * time.Millisecond}))
		loads = append(loads, l)
	}
	p.turns(runsElsewhere(p.beginMove()))
	p.whole()
	if s.Simulated() { // killing real targets is for the fault matrix
		lost := p.raidHost()
		must(t, lost.Set(t.Context(), stack.Killed, true))
		p.turns(runsElsewhere(lost.Name))
		must(t, lost.Set(t.Context(), stack.Killed, false))
		p.whole()
		p.turns(func(*volume.Volume) bool { return true })
	}
	for _, l := range loads {
		wantLoad(t, l)
	}
	p.compareParts()
	p.unpublish()
	p.remove()
}

// A file system that one machine has filled is read by two, neither of which can write, also while the volume moves.
func bothRead(t *testing.T, s *suite, second *stack.Worker) {
	p := newPair(t, s, second, stack.ClaimSpec{FSType: "xfs"})
	writer := p.users[0]
	must(t, writer.Publish(t.Context()))
	sum := s.randomFile(t, writer.Pod+"/data")
	must(t, writer.Unpublish(t.Context()))
	for _, u := range p.users {
		u.As(csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY)
	}
	p.publish()
	read := func() {
		t.Helper()
		for _, u := range p.users {
			if got := u.run("echo 3 > /proc/sys/vm/drop_caches; sha256sum < " + u.Pod + "/data | cut -d' ' -f1; ! touch " + u.Pod + "/new 2>/dev/null"); got != sum {
				t.Errorf("%s reads %s, written was %s", u.Name, got, sum)
			}
		}
	}
	read()
	p.move()
	read()
	p.unpublish()
	p.remove()
}
