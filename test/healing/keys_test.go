package healing

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// withKeys are parameters of volumes all of whose connections authenticate.
var withKeys = map[string]string{volume.ParamReplicaKey: cluster.Key, volume.ParamHostKey: cluster.Key}

// claim connects to a volume at a node as another machine that calls itself by a CSI node's name, with the keys of whom it likes.
func (b *bubble) claim(v *volume.Volume, at, as, keysOf string) error {
	b.t.Helper()
	m, err := userspace.New(userspace.Options{Dir: filepath.Join(b.Dir, "stranger"), Dial: b.Dial})
	b.must(err)
	defer m.Close()
	n, err := b.Node(at)
	b.must(err)
	target := nvmeof.Target{
		NQN: v.NQN(), NSUUID: v.UUID, Paths: []nvmeof.Path{{Address: n.NVMf.String()}}, HostNQN: volume.HostNQN(as), HostID: volume.HostID(volume.HostNQN(as)),
		KeepAliveSec: 2, ReconnectDelaySec: 1, CtrlLossSec: 60,
	}
	if keysOf != "" {
		keys, err := b.HostKeys(v, volume.HostNQN(keysOf))
		b.must(err)
		target.HostKey, target.ControllerKey = nvmeof.NewSecret(keys.Host.Text()), nvmeof.NewSecret(keys.Controller.Text())
	}
	_, err = m.ConnectPath(b.ctx, target, n.NVMf.String())
	return err
}

// wantProofs wants each target of a volume to let a host in by its own keys alone.
func (b *bubble) wantProofs(id, host string) {
	b.t.Helper()
	v := b.Record(id)
	for _, a := range v.Running() {
		for what, keysOf := range map[string]string{"no key": "", "another host's": "nobody"} {
			if err := b.claim(v, a.RaidHost, host, keysOf); !errors.Is(err, nvmeof.ErrRejected) {
				b.t.Errorf("with %s at %s: %v", what, a.RaidHost, err)
			}
		}
		if err := b.claim(v, a.RaidHost, host, host); err != nil {
			b.t.Errorf("with its own at %s: %v", a.RaidHost, err)
		}
	}
}

// keys are those that nodes have with a prefix.
func (b *bubble) keys(prefix string) []string {
	b.t.Helper()
	var found []string
	for _, node := range b.Names() {
		keys, err := spdk.KeyringGetKeys(b.ctx, b.Inspector(node))
		b.must(err)
		for _, k := range keys {
			if strings.HasPrefix(k.Name, prefix) {
				found = append(found, fmt.Sprintf("%s: %+v", node, k))
			}
		}
	}
	return found
}

// A volume with keys is moved, loses its raid host, which comes back, and is moved again. Wherever it runs, and at its standby, nobody is
// let in without the host's keys; when it is unpublished no node has any.
func TestHostProvesItselfWhereverTheVolumeRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 3, cluster.Options{})
		b.parameters = withKeys
		id := b.staged("a", 3)
		l := cluster.StartLoad(b.ctx, b.open(id), 64, 4, 20*time.Millisecond)
		b.wantProofs(id, host)
		move := func() {
			to := b.Record(id).Standby.RaidHost
			b.moveTo(id, to)
			b.must(b.await("it has moved", func() bool { a := b.Record(id).Assembly; return a.RaidHost == to && !a.Held }))
			b.must(b.awaitWhole(id))
			b.wantProofs(id, host)
		}
		move()
		lost := b.kill(b.Record(id).Assembly.RaidHost)
		b.must(b.await("it runs elsewhere", func() bool { a := b.Record(id).Assembly; return a.RaidHost != lost && !a.Held }))
		b.wantProofs(id, host)
		b.restart(lost)
		b.must(b.awaitWhole(id))
		move()
		b.must(l.End())
		v := b.Record(id)
		if len(b.keys(v.HostKeyPrefix(volume.HostNQN(host)))) != 4 {
			t.Errorf("the nodes have %v", b.keys(v.TargetKeyPrefix()))
		}
		b.must(b.unuse(id))
		if left := b.keys(v.TargetKeyPrefix()); len(left) > 0 {
			t.Errorf("unpublished, the nodes have %v", left)
		}
		b.wantData(id, l)
		b.remove(id)
	})
}

// Without a standby the target is made again where it was, when the process is back: the host's connection comes back with it.
func TestHostProvesItselfToARaidHostThatWasStartedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 1, cluster.Options{})
		b.parameters = withKeys
		id := b.create("a", 1)
		b.must(b.publish(id))
		b.must(b.stage(id))
		l := cluster.StartLoad(b.ctx, b.open(id), 64, 4, 20*time.Millisecond)
		b.must(b.await("it is written to", func() bool { return l.Writes() > 10 }))
		b.restart(b.kill("n1"))
		writes := l.Writes()
		b.must(b.await("it is written to again", func() bool { return l.Writes() > writes+10 || l.Err() != nil }))
		b.wantProofs(id, host)
		b.must(l.End())
		b.must(b.unuse(id))
		b.wantData(id, l)
		b.remove(id)
	})
}

// In each way that a raid host can fail.
func TestHostWithKeysSurvivesItsRaidHost(t *testing.T) {
	longTest(t)
	for fault, begin := range nodeFaults {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newBubble(t, 3, cluster.Options{})
				b.parameters = withKeys
				id := b.staged("a", 3)
				l := cluster.StartLoad(b.ctx, b.open(id), 64, 4, 20*time.Millisecond)
				end := begin(b, b.Record(id).Assembly.RaidHost)
				time.Sleep(2 * stall)
				writes := l.Writes()
				b.must(b.await("writes go on during the fault", func() bool { return l.Writes() > writes+10 || l.Err() != nil }))
				end()
				b.must(b.awaitWhole(id))
				b.wantProofs(id, host)
				b.wantWholeToTheEnd(id, l)
			})
		})
	}
}

// Two machines that use a volume have keys of their own: neither can take the other's place, and one that is unpublished leaves no key.
func TestEachHostOfAVolumeHasKeysOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, 3, cluster.Options{})
		b.parameters = withKeys
		p := b.pair(nil, "shared")
		for _, m := range []*machine{p.owner, p.guest} {
			p.wantProofs(p.id, m.name)
		}
		v := p.Record(p.id)
		if err := p.claim(v, v.Assembly.RaidHost, p.guest.name, p.owner.name); !errors.Is(err, nvmeof.ErrRejected) {
			t.Errorf("one machine as the other: %v", err)
		}
		p.end()
		p.guest.unuse(p.id)
		p.awaitShared(p.id, p.owner)
		if left := p.keys(v.HostKeyPrefix(volume.HostNQN(p.guest.name))); len(left) > 0 {
			t.Errorf("the nodes have %v", left)
		}
		if err := p.claim(v, v.Assembly.RaidHost, p.guest.name, p.guest.name); !errors.Is(err, nvmeof.ErrRejected) {
			t.Errorf("unpublished: %v", err)
		}
		p.wantProofs(p.id, p.owner.name)
		p.releaseBy(p.owner)
	})
}
