package driver_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/controller"
	"github.com/holdfast-csi/holdfast/driver"
	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// The CO's conformance suite, all of it that the announced capabilities ask for, against both services on sockets of their own
// and three simulated SPDK nodes. Legs and the host's attachment are NVMe/TCP.
func TestSanity(t *testing.T) {
	for _, access := range []string{"mount", "block"} {
		t.Run(access, func(t *testing.T) {
			c := cluster.New(t, 3, cluster.Options{PoolBytes: 8 << 30})
			c.RegisterHosts("host")
			machine := serve(t, c)
			config := sanity.NewTestConfig()
			config.Address = filepath.Join(c.Dir, "node.sock")
			config.ControllerAddress = filepath.Join(c.Dir, "controller.sock")
			config.TargetPath, config.StagingPath = filepath.Join(c.Dir, "targets"), filepath.Join(c.Dir, "staging")
			config.TestVolumeSize = 64 << 20
			config.TestVolumeAccessType = access
			config.TestVolumeParameters = map[string]string{volume.ParamReplicaStallBudget: cluster.StallBudget.String()}
			config.TestNodeVolumeAttachLimit = true
			sanity.Test(t, config)
			c.WantEmpty()
			if mounts, attached := machine.All(), machine.Attached(); len(mounts)+len(attached) > 0 {
				t.Errorf("left on the machine: %+v, %v", mounts, attached)
			}
			if state, err := os.ReadDir(filepath.Join(c.Dir, "state")); err != nil || len(state) > 0 {
				t.Errorf("left of the node's state: %v, %v", state, err)
			}
		})
	}
}

// serve runs both services until the test ends.
func serve(t *testing.T, c *cluster.Cluster) *userspace.Machine {
	t.Helper()
	machine, err := userspace.New(userspace.Options{Dir: filepath.Join(c.Dir, "dev")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(machine.Close)
	controllerService, err := controller.New(t.Context(), controller.Options{
		Store: c.Store, Cluster: c.Cluster, Clock: clock.RealClock{}, ThinOvercommit: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	nodeService, err := node.New(node.Options{
		Name: "host", Store: c.Store, Cluster: c.Cluster, Fabrics: machine, FileSystems: machine, Mounts: machine,
		StateDir: filepath.Join(c.Dir, "state"), MaxVolumes: 3,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(cancel)
	for socket, services := range map[string]driver.Services{
		"controller.sock": {Identity: driver.Identity{WithController: true}, Controller: controllerService},
		"node.sock":       {Identity: driver.Identity{WithController: true}, Node: nodeService},
	} {
		wg.Go(func() {
			if err := driver.Serve(ctx, filepath.Join(c.Dir, socket), services); err != nil {
				t.Error(err)
			}
		})
	}
	return machine
}
