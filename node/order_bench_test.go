package node_test

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
	"github.com/go-logr/logr"
	"github.com/go-logr/logr/testr"
	"github.com/google/uuid"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// switchBench is a volume in use, in a bubble of testing/synctest, that is about to leave its raid host n1.
type switchBench struct {
	*cluster.Bubble
	t       *testing.T
	ctx     context.Context
	id      string
	machine *userspace.Machine
	load    *cluster.Load
	end     func()
}

func newSwitchBench(t *testing.T) *switchBench {
	t.Helper()
	logger := logr.Discard()
	if testing.Verbose() {
		logger = testr.NewWithOptions(t, testr.Options{LogTimestamp: true})
	}
	s := &switchBench{Bubble: cluster.NewBubble(t, 3, cluster.Options{Stall: 10 * time.Second}), t: t, ctx: klog.NewContext(context.WithoutCancel(t.Context()), logger)}
	var err error
	s.machine, err = userspace.New(userspace.Options{Dir: filepath.Join(s.Dir, "dev"), Dial: s.Dial})
	s.must(err)
	t.Cleanup(s.machine.Close)
	service, err := node.New(node.Options{
		Name: host, Store: s.Store, Cluster: s.Cluster.Cluster, Fabrics: s.machine, FileSystems: s.machine, Encryption: s.machine, Mounts: s.machine,
		StateDir: filepath.Join(s.Dir, "state"), Clock: clock.RealClock{},
	})
	s.must(err)
	s.publish()
	_, err = service.NodeStageVolume(s.ctx, &csi.NodeStageVolumeRequest{VolumeId: s.id, StagingTargetPath: filepath.Join(s.Dir, "staging"), VolumeCapability: raw()})
	s.must(err)
	ctx, cancel := context.WithCancel(s.ctx)
	var watching sync.WaitGroup
	watching.Go(func() { s.must(service.Watch(ctx)) })
	s.use()
	s.end = func() {
		s.machine.Close()
		_ = s.load.End() // its errors were looked at; those of the closed device don't count
		cancel()
		watching.Wait()
	}
	s.until(func() bool {
		v := s.Record(s.id)
		return v.Standby != nil && v.Standby.Running && s.connected(v, v.Standby.RaidHost)
	})
	return s
}

func (s *switchBench) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *switchBench) until(ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("it doesn't come to be: %+v", s.Record(s.id))
		}
	}
}

// publish makes a volume with three replicas that runs on n1.
func (s *switchBench) publish() {
	s.t.Helper()
	p, err := volume.ParseParameters(map[string]string{volume.ParamReplicaStallBudget: "10s"})
	s.must(err)
	v := &volume.Volume{ID: volume.IDFor("v"), Name: "v", UUID: uuid.New(), SizeBytes: 8 * mib, Parameters: p, Phase: volume.PhaseReady}
	var legs []string
	for i, n := range []string{"n1", "n2", "n3"} {
		legs = append(legs, fmt.Sprintf("%08x", i+1))
		v.Replicas = append(v.Replicas, volume.Replica{ID: legs[i], Node: n, LvStore: cluster.Pool, State: volume.ReplicaPlanned})
	}
	s.must(s.Store.Create(s.ctx, v))
	run := func() { s.must(converge.New(s.Cluster.Cluster).Run(s.ctx, v)) }
	run()
	for i := range v.Replicas {
		v.Replicas[i].State = volume.ReplicaInSync
	}
	v.Assembly, v.Assemblies = &volume.Assembly{Number: 1, RaidHost: "n1", Legs: legs, Running: true}, 1
	v.Publications = []volume.Publication{{Node: host, Mode: volume.AccessSingleNodeWriter}}
	run()
	s.must(s.Store.Update(s.ctx, v))
	s.id = v.ID
}

// use writes to the volume from now on.
func (s *switchBench) use() {
	s.t.Helper()
	v := s.Record(s.id)
	device, err := s.machine.Device(s.ctx, v.NQN(), v.UUID)
	s.must(err)
	file, err := s.machine.Open(device.Path)
	s.must(err)
	s.load = cluster.StartLoad(s.ctx, file, 8, 4, 50*time.Millisecond)
}

func (s *switchBench) modify(change func(*volume.Volume)) {
	s.t.Helper()
	_, err := volume.Modify(s.ctx, s.Store, s.id, func(v *volume.Volume) (bool, error) { change(v); return true, nil })
	s.must(err)
}

// third is the node with a replica that is neither n1 nor the standby's.
func (s *switchBench) third() string {
	if s.Record(s.id).Standby.RaidHost == "n2" {
		return "n3"
	}
	return "n2"
}

// check lets time pass and says which rule is broken then:
//
//   - no I/O fails, and no read is stale;
//   - each replica that is in-sync on record holds every acknowledged write;
//   - where the raid on record serves the machine, no other raid host is connected to a leg of it, it has no leg that is not good on
//     record, and the machine has no path to any raid host but it and its standby.
func (s *switchBench) check(d time.Duration) error {
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err := errors.Join(s.load.Err(), s.data(), s.structure()); err != nil {
			return err
		}
	}
	return nil
}

func (s *switchBench) data() error {
	v := s.Record(s.id)
	for _, r := range v.InState(volume.ReplicaInSync) {
		if !s.Sim(r.Node).Running() {
			continue
		}
		if err := s.load.Check(func(p []byte, off int64) error { return s.ReplicaBytes(v, r, p, off) }); err != nil {
			return fmt.Errorf("replica %s on %s is in-sync on record: %w", r.ID, r.Node, err)
		}
	}
	return nil
}

// structure looks until nothing is put on record while it does.
func (s *switchBench) structure() error {
	for {
		v := s.Record(s.id)
		if err := s.structureOf(v); s.Record(s.id).Revision == v.Revision {
			return err
		}
	}
}

func (s *switchBench) structureOf(v *volume.Volume) error {
	if len(v.Retired) == 0 || !slices.Contains(s.Optimized(v), v.Assembly.RaidHost) {
		return nil
	}
	var errs []error
	for _, a := range v.Retired {
		if s.connected(v, a.RaidHost) {
			errs = append(errs, fmt.Errorf("%s serves the machine, which has a path to %s as well", v.Assembly.RaidHost, a.RaidHost))
		}
	}
	raid := s.Observe(v).Nodes[v.Assembly.RaidHost].Raid
	if raid == nil {
		return errors.Join(errs...)
	}
	for _, r := range v.Replicas {
		member := slices.Contains(raid.Legs, r.ID)
		for _, a := range v.Retired {
			if member && r.Node != a.RaidHost && s.writes(v, r, a.RaidHost) {
				errs = append(errs, fmt.Errorf("%s and %s both write to replica %s on %s", v.Assembly.RaidHost, a.RaidHost, r.ID, r.Node))
			}
			if member && r.Node != a.RaidHost && r.State != volume.ReplicaInSync && r.State != volume.ReplicaRebuilding {
				errs = append(errs, fmt.Errorf("%s reads from replica %s on %s, which is %s", v.Assembly.RaidHost, r.ID, r.Node, r.State))
			}
		}
		if !member && r.State == volume.ReplicaInSync {
			errs = append(errs, fmt.Errorf("%s doesn't write to replica %s on %s, which is %s", v.Assembly.RaidHost, r.ID, r.Node, r.State))
		}
	}
	return errors.Join(errs...)
}

// connected says whether the machine has a path to a raid host.
func (s *switchBench) connected(v *volume.Volume, raidHost string) bool {
	n, err := s.Node(raidHost)
	s.must(err)
	paths, err := s.machine.Paths(s.ctx, v.NQN())
	s.must(err)
	for _, p := range paths {
		if p.Address == n.NVMf.String() {
			return true
		}
	}
	return false
}

// writes says whether a raid host is connected to a replica.
func (s *switchBench) writes(v *volume.Volume, r volume.Replica, raidHost string) bool {
	connected, err := spdk.NVMfSubsystemGetControllers(s.ctx, s.Inspector(r.Node), spdk.NVMfSubsystemParams{NQN: v.ReplicaNQN(r)})
	return err == nil && slices.ContainsFunc(connected, func(c spdk.SubsystemControllerInfo) bool { return c.HostNQN == volume.SPDKHostNQN(raidHost) })
}

// served says that the machine has left n1 and the raid host on record serves it.
func (s *switchBench) served() error {
	v := s.Record(s.id)
	if v.Assembly.RaidHost == "n1" {
		return errors.New("the volume still runs on n1")
	}
	if !slices.Contains(s.Optimized(v), v.Assembly.RaidHost) || v.Assembly.Held {
		return fmt.Errorf("the switch has ended, and %s doesn't serve the machine", v.Assembly.RaidHost)
	}
	return nil
}
