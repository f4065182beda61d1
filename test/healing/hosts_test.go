package healing

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// sharedBlock is what a volume is published as that several nodes write to.
var sharedBlock = &csi.VolumeCapability{
	AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
	AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER},
}

// machine is one more CSI node of a bubble, on a machine of its own.
type machine struct {
	*userspace.Machine
	b    *bubble
	name string
	node *node.Server
	stop func()
	as   *csi.VolumeCapability
}

// machines adds CSI nodes to a bubble, whose operations are steps, too.
func (b *bubble) machines(steps *cluster.Steps, names ...string) []*machine {
	b.t.Helper()
	var all []*machine
	for _, name := range names {
		all = append(all, b.machineThat(name, steps.Machine))
	}
	return all
}

// machineThat adds a CSI node whose machine asks fault about each of its operations.
func (b *bubble) machineThat(name string, fault func(userspace.Op, userspace.Moment) error) *machine {
	b.t.Helper()
	b.RegisterHosts(name)
	m := &machine{b: b, name: name, as: sharedBlock, stop: func() {}}
	var err error
	m.Machine, err = userspace.New(userspace.Options{Dir: filepath.Join(b.Dir, name, "dev"), Dial: b.DialFrom(name), Fault: fault})
	b.must(err)
	b.t.Cleanup(m.Close)
	b.t.Cleanup(func() { m.stop() })
	m.start()
	return m
}

// start begins a life of the machine's node service.
func (m *machine) start() {
	m.b.t.Helper()
	var err error
	m.node, err = node.New(node.Options{
		Name: m.name, Store: m.b.Store, Cluster: m.b.Cluster.Cluster, Fabrics: m, FileSystems: m, Encryption: m, Mounts: m,
		StateDir: filepath.Join(m.b.Dir, m.name, "state"), Clock: clock.RealClock{},
	})
	m.b.must(err)
	ctx, cancel := context.WithCancel(m.b.ctx)
	var running sync.WaitGroup
	running.Go(func() {
		if err := m.node.Watch(ctx); err != nil {
			m.b.t.Error(err)
		}
	})
	m.stop = func() {
		cancel()
		running.Wait()
	}
}

func (m *machine) publish(id string) error {
	_, err := m.b.controller.ControllerPublishVolume(m.b.ctx, &csi.ControllerPublishVolumeRequest{VolumeId: id, NodeId: m.name, VolumeCapability: m.as})
	return err
}

func (m *machine) stage(id string) error {
	_, err := m.node.NodeStageVolume(m.b.ctx, &csi.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: m.staging(id), VolumeCapability: m.as})
	return err
}

func (m *machine) unstage(id string) error {
	_, err := m.node.NodeUnstageVolume(m.b.ctx, &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: m.staging(id)})
	return err
}

func (m *machine) unpublish(id string) error {
	_, err := m.b.controller.ControllerUnpublishVolume(m.b.ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: m.name})
	return err
}

func (m *machine) staging(id string) string { return filepath.Join(m.b.Dir, m.name, "staging", id) }

// use publishes and stages a volume and returns its device.
func (m *machine) use(id string) *userspace.File {
	m.b.t.Helper()
	m.b.must(m.b.again(func() error { return m.publish(id) }))
	m.b.must(m.b.again(func() error { return m.stage(id) }))
	v := m.b.Record(id)
	device, err := m.Device(m.b.ctx, v.NQN(), v.UUID)
	m.b.must(err)
	file, err := m.Open(device.Path)
	m.b.must(err)
	return file
}

// unuse unstages and unpublishes it.
func (m *machine) unuse(id string) {
	m.b.t.Helper()
	m.b.must(m.b.again(func() error { return m.unstage(id) }))
	m.b.must(m.b.again(func() error { return m.unpublish(id) }))
}

// lacks says what a volume that machines use lacks of its good state: each is connected to the raid host and to the standby, and to nothing
// else, and one of them owns it.
func (b *bubble) lacks(id string, users []*machine) error {
	v := b.Record(id)
	good := v.InState(volume.ReplicaInSync)
	serving := b.Optimized(v)
	switch {
	case len(good) != v.Parameters.Replicas || len(v.Replicas) != len(good) || len(v.Retired) > 0:
		return fmt.Errorf("it has %+v, retired are %+v", v.Replicas, v.Retired)
	case v.Assembly == nil || v.Assembly.Held || v.Assembly.Leaving || !slices.Equal(serving, []string{v.Assembly.RaidHost}):
		return fmt.Errorf("its assembly is %+v, served by %v", v.Assembly, serving)
	case v.Standby == nil || !v.Standby.Running || len(v.Standby.Legs) != len(good):
		return fmt.Errorf("its standby is %+v", v.Standby)
	case v.MoveTo != "":
		return fmt.Errorf("it is to move to %s", v.MoveTo)
	case v.Review || len(v.Wanted()) > 0:
		return fmt.Errorf("it wants something of %v", v.Wanted())
	case !slices.ContainsFunc(users, func(m *machine) bool { return m.name == v.Owner }):
		return fmt.Errorf("node %q owns it", v.Owner)
	}
	for _, m := range users {
		if err := b.pathsOf(v, m.Machine); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	for _, a := range v.Running() {
		if hosts := b.Observe(v).Nodes[a.RaidHost].Target.Hosts; !slices.Equal(hosts, v.HostNQNs()) {
			return fmt.Errorf("the target on %s allows %v, on record are %v", a.RaidHost, hosts, v.HostNQNs())
		}
	}
	return nil
}

func (b *bubble) awaitShared(id string, users ...*machine) {
	b.t.Helper()
	var lacks error
	if err := b.await("the volume is whole", func() bool { lacks = b.lacks(id, users); return lacks == nil }); err != nil {
		b.t.Fatalf("%v: %v", err, lacks)
	}
}

// turns are two machines that write one block in turn: each reads what the other wrote last, and adds one to it. A write that is lost, or a
// read of a former raid host, breaks the chain.
type turns struct {
	stop    context.CancelFunc
	running sync.WaitGroup
	mu      sync.Mutex
	rounds  int
	longest time.Duration
	err     error
}

func takeTurns(ctx context.Context, off int64, files ...cluster.File) *turns {
	ctx, stop := context.WithCancel(ctx)
	s := &turns{stop: stop}
	s.running.Go(func() {
		var last byte
		before := time.Now()
		for round := 0; ctx.Err() == nil; round++ {
			if err := s.turn(ctx, files[round%len(files)], off, round, &last); err != nil {
				s.mu.Lock()
				s.err = errors.Join(s.err, fmt.Errorf("round %d, machine %d: %w", round, round%len(files), err))
				s.mu.Unlock()
				return
			}
			s.mu.Lock()
			s.rounds, s.longest = s.rounds+1, max(s.longest, time.Since(before))
			s.mu.Unlock()
			before = time.Now()
			time.Sleep(10 * time.Millisecond)
		}
	})
	return s
}

func (s *turns) turn(ctx context.Context, f cluster.File, off int64, round int, last *byte) error {
	p := make([]byte, cluster.BlockBytes)
	if err := f.ReadAt(context.WithoutCancel(ctx), p, off); err != nil {
		return err
	}
	if round > 0 && p[0] != *last {
		return fmt.Errorf("reads %d, written last was %d", p[0], *last)
	}
	*last++
	for i := range p {
		p[i] = *last
	}
	return f.WriteAt(context.WithoutCancel(ctx), p, off)
}

// pause is the longest that a round took since it was asked last.
func (s *turns) pause() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	longest := s.longest
	s.longest = 0
	return longest.Round(time.Millisecond)
}

func (s *turns) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rounds
}

func (s *turns) end() error {
	s.stop()
	s.running.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// pair is a volume that two machines write to: each blocks of its own, and one block in turn.
type pair struct {
	*bubble
	id           string
	owner, guest *machine
	files        []*userspace.File
	loads        []*cluster.Load
	turns        *turns
}

func newPair(t *testing.T, nodes int) *pair {
	t.Helper()
	return newBubble(t, nodes, cluster.Options{}).pair(nil, "shared")
}

func (b *bubble) pair(steps *cluster.Steps, name string) *pair {
	b.t.Helper()
	all := b.machines(steps, "left", "right")
	p := &pair{bubble: b, id: b.create(name, 3), owner: all[0], guest: all[1]}
	p.begin()
	return p
}

// begin has both machines use the volume.
func (p *pair) begin() {
	p.t.Helper()
	b, all := p.bubble, []*machine{p.owner, p.guest}
	p.files, p.loads = nil, nil
	for i, m := range all {
		p.files = append(p.files, m.use(p.id))
		p.loads = append(p.loads, cluster.StartLoad(b.ctx, shifted{p.files[i], int64(i) * mib}, 8, 2, 20*time.Millisecond))
	}
	p.turns = takeTurns(b.ctx, 4*mib, p.files[0], p.files[1])
	b.awaitShared(p.id, all...)
	if owner := b.Record(p.id).Owner; owner != p.owner.name {
		p.t.Fatalf("node %s owns it", owner)
	}
}

// shifted is a file from a byte on.
type shifted struct {
	cluster.File
	from int64
}

func (s shifted) ReadAt(ctx context.Context, p []byte, off int64) error {
	return s.File.ReadAt(ctx, p, s.from+off)
}

func (s shifted) WriteAt(ctx context.Context, p []byte, off int64) error {
	return s.File.WriteAt(ctx, p, s.from+off)
}

// progress waits until all that write have written again.
func (p *pair) progress() {
	p.t.Helper()
	writes := []int{p.loads[0].Writes(), p.loads[1].Writes(), p.turns.count()}
	p.must(p.await("all write", func() bool {
		return p.loads[0].Writes() > writes[0] && p.loads[1].Writes() > writes[1] && p.turns.count() > writes[2]+2
	}))
}

// end ends all I/O and compares every replica with what was acknowledged to either.
func (p *pair) end() {
	p.t.Helper()
	p.must(errors.Join(p.loads[0].End(), p.loads[1].End(), p.turns.end()))
	v := p.Record(p.id)
	for _, r := range v.InState(volume.ReplicaInSync) {
		for i, l := range p.loads {
			err := l.Check(func(q []byte, off int64) error { return p.ReplicaBytes(v, r, q, int64(i)*mib+off) })
			if err != nil {
				p.t.Fatalf("replica %s on %s, machine %d: %v", r.ID, r.Node, i, err)
			}
		}
	}
}

// flaky goes through a flow with one fault, begins whatever crashed again, and waits for the volume to be whole for its users.
func (p *pair) flaky(steps *cluster.Steps, faulty func(func() error) bool, begin func(), meanwhile func(), users ...*machine) {
	p.t.Helper()
	var lacks error
	through := func() bool {
		meanwhile()
		lacks = p.lacks(p.id, users)
		return lacks == nil
	}
	crashed := faulty(func() error {
		begin()
		err := p.await("the flow is through", func() bool { return steps.Crashed() || through() })
		if steps.Crashed() {
			for _, stop := range []func(){p.stop, p.owner.stop, p.guest.stop} {
				stop()
			}
			return errCrashed
		}
		if err != nil {
			err = fmt.Errorf("%w: %w", err, lacks)
		}
		return err
	})
	if crashed {
		p.start()
		p.owner.start()
		p.guest.start()
	}
	if err := p.await("the volume is whole", through); err != nil {
		p.t.Fatalf("%v: %v", err, lacks)
	}
}

// releaseBy ends the use by the machines and deletes the volume.
func (p *pair) releaseBy(users ...*machine) {
	p.t.Helper()
	for _, m := range users {
		m.unuse(p.id)
	}
	p.remove(p.id)
	for _, m := range users {
		if left := m.Attached(); len(left) > 0 {
			p.t.Fatalf("left on %s: %v", m.name, left)
		}
	}
}

// expand has a machine follow the size that is on record.
func (m *machine) expand(id string) error {
	_, err := m.node.NodeExpandVolume(m.b.ctx, &csi.NodeExpandVolumeRequest{VolumeId: id, VolumePath: m.staging(id)})
	return err
}
