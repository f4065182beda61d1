package bench

import (
	"context"
	"flag"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/controller"
	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

const (
	mib = int64(1) << 20
	// user is the machine that uses the volumes. It has the name of an SPDK node, which is so the raid host of them all.
	user = "n1"
	// fleetBytes is how large each volume is.
	fleetBytes = 8 * mib
	// callers is how many volumes are made or staged side by side.
	callers = 8
)

// fleetSize is how many volumes there are.
var fleetSize = flag.Int("volumes", 200, "how many volumes the benchmarks of a node service with many have")

// fleet is many small volumes of three replicas that one machine uses, all on one raid host, with a standby each.
type fleet struct {
	*cluster.Cluster
	b       *testing.B
	ctx     context.Context
	machine *userspace.Machine
	server  *node.Server
	// stopWatch ends the node service's watching. It may be called again.
	stopWatch func()
}

func newFleet(b *testing.B) *fleet {
	b.Helper()
	f := &fleet{b: b, Cluster: cluster.New(b, 3, cluster.Options{PoolBytes: 4 * int64(*fleetSize) * fleetBytes, Stall: timeouts.DefaultBudgets().ReplicaStall})}
	f.ctx = klog.NewContext(b.Context(), logr.Discard())
	f.RegisterHosts(user)
	var err error
	f.machine, err = userspace.New(userspace.Options{Dir: filepath.Join(f.Dir, "dev"), Dial: f.Network.Dialer(sim.Outside, (&net.Dialer{}).DialContext)})
	must(b, err)
	b.Cleanup(f.machine.Close)
	f.server, err = node.New(node.Options{
		Name: user, Store: f.Store, Cluster: f.Cluster.Cluster, Fabrics: f.machine, FileSystems: f.machine, Encryption: f.machine, Mounts: f.machine,
		StateDir: filepath.Join(f.Dir, "state"), Clock: clock.RealClock{},
	})
	must(b, err)
	ctx, cancel := context.WithCancel(f.ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := f.server.Watch(ctx); err != nil {
			b.Error(err)
		}
	})
	f.stopWatch = func() { cancel(); wg.Wait() }
	b.Cleanup(f.stopWatch)
	f.stage()
	f.await("standbys", f.whole)
	return f
}

// stage makes the volumes, publishes and stages them.
func (f *fleet) stage() {
	f.b.Helper()
	server, err := controller.New(f.ctx, controller.Options{Store: f.Store, Cluster: f.Cluster.Cluster, Clock: clock.RealClock{}, ThinOvercommit: 1})
	must(f.b, err)
	var group errgroup.Group
	group.SetLimit(callers)
	for i := range *fleetSize {
		group.Go(func() error {
			err := f.stageOne(server, i)
			for again := 0; err != nil && again < 5; again++ { // as a CO does where a call meets its deadline on a busy machine
				err = f.stageOne(server, i)
			}
			return err
		})
	}
	must(f.b, group.Wait())
}

func (f *fleet) stageOne(server *controller.Server, i int) error {
	req := request(fmt.Sprint("volume-", i), 3)
	req.CapacityRange.RequiredBytes = fleetBytes
	resp, err := server.CreateVolume(f.ctx, req)
	if err != nil {
		return err
	}
	id := resp.GetVolume().GetVolumeId()
	if _, err := server.ControllerPublishVolume(f.ctx, &csi.ControllerPublishVolumeRequest{VolumeId: id, NodeId: user, VolumeCapability: mount}); err != nil {
		return err
	}
	_, err = f.server.NodeStageVolume(f.ctx, &csi.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: f.staging(i), VolumeCapability: mount})
	return err
}

func (f *fleet) staging(i int) string { return filepath.Join(f.Dir, "staging", fmt.Sprint(i)) }

// records reads all records.
func (f *fleet) records() []*volume.Volume {
	f.b.Helper()
	all, err := f.Store.List(f.ctx, "", 0)
	must(f.b, err)
	return all
}

// whole says whether every volume runs and has a standby with all of its good legs that this machine is connected to.
func (f *fleet) whole() bool {
	for _, v := range f.records() {
		good := len(v.InState(volume.ReplicaInSync))
		if v.Assembly == nil || v.Assembly.Held || v.Standby == nil || !v.Standby.Running || len(v.Standby.Legs) != good {
			return false
		}
		if paths, err := f.machine.Paths(f.ctx, v.NQN()); err != nil || len(paths) != 2 {
			return false
		}
	}
	return true
}

// await waits for long at most.
func (f *fleet) await(what string, ok func() bool) {
	f.b.Helper()
	const long = 5 * time.Minute
	for end := time.Now().Add(long); !ok(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			f.b.Fatalf("no %s within %s", what, long)
		}
	}
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
