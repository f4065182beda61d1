package driver_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/controller"
	"github.com/holdfast-csi/holdfast/driver"
	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/node/userspace"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// accessVariable tells a child process which access type to run the suite with: Ginkgo runs one suite a process.
const accessVariable = "HOLDFAST_SANITY_ACCESS"

// The CO's conformance suite, all of it that the announced capabilities ask for, against both services on sockets of their own
// and three simulated SPDK nodes. Legs and the host's attachment are NVMe/TCP.
func TestSanity(t *testing.T) {
	if access := os.Getenv(accessVariable); access != "" {
		runSuite(t, access)
		return
	}
	for _, access := range []string{"mount", "block"} {
		t.Run(access, func(t *testing.T) {
			suite := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSanity$", "-test.timeout=5m")
			suite.Env = append(os.Environ(), accessVariable+"="+access)
			if out, err := suite.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func runSuite(t *testing.T, access string) {
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
	config.TestVolumeMutableParameters = map[string]string{volume.ParamIOPSLimit: "5000", volume.ParamBandwidthLimit: "1Gi", volume.ParamReplicas: "2"}

	suite := sanity.GinkgoTest(&config)
	ginkgo.ReportAfterSuite("skipped", func(r ginkgo.Report) {
		for _, spec := range r.SpecReports {
			if reason := spec.Failure.Message; spec.State == types.SpecStateSkipped && !slices.Contains(notAnnounced, reason) {
				t.Errorf("%s was skipped: %s", spec.FullText(), reason)
			}
		}
	})
	gomega.RegisterFailHandler(ginkgo.Fail)
	ginkgo.RunSpecs(t, "CSI sanity with access type "+access)
	suite.Finalize()

	c.WantEmpty()
	if mounts, attached := machine.All(), machine.Attached(); len(mounts)+len(attached) > 0 {
		t.Errorf("left on the machine: %+v, %v", mounts, attached)
	}
	if state, err := os.ReadDir(filepath.Join(c.Dir, "state")); err != nil || len(state) > 0 {
		t.Errorf("left of the node's state: %v, %v", state, err)
	}
}

// notAnnounced are the suite's reasons to leave a test out that are capabilities which the driver does not announce.
var notAnnounced = []string{
	"GetSnapshot not supported", "SNAPSHOT_ACCESSIBILITY_CONSTRAINTS not supported",
	"GroupControllerService not supported", "VolumeGroupSnapshots not supported",
	// The limit is the CO's to keep: the driver only tells it.
	"testnodevolumeattachlimit not enabled",
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
		Name: "host", Store: c.Store, Cluster: c.Cluster, Fabrics: machine, FileSystems: machine, Encryption: machine, Mounts: machine,
		StateDir: filepath.Join(c.Dir, "state"), Clock: clock.RealClock{},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(cancel)
	wg.Go(func() {
		if err := nodeService.Watch(ctx); err != nil {
			t.Error(err)
		}
	})
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
