package kubernetes_test

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/holdfast-csi/holdfast/driver"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
	"github.com/holdfast-csi/holdfast/test/cluster"
	"github.com/holdfast-csi/holdfast/test/vm"
)

// TestRolesGrantWhatIsUsedAndNothingElse has the driver live through all that it does in a cluster, with the rights that the manifests give it:
// none of its requests is refused, and there is no right that it has not used.
func TestRolesGrantWhatIsUsedAndNothingElse(t *testing.T) {
	var log string
	e := environment(t, func(e *envtest.Environment) { log = audited(t, e) })
	granted := map[string][]string{}
	t.Run("Story", func(t *testing.T) { granted = story(t, e) })
	if t.Failed() {
		t.FailNow()
	}
	a := readAudit(t, log)
	for account, rights := range granted {
		if refused := a.forbidden[account]; len(refused) > 0 {
			t.Errorf("%s was refused:\n%s", account, strings.Join(slices.Sorted(maps.Keys(refused)), "\n"))
		}
		var unused []string
		for _, right := range rights {
			if !a.used[account][right] {
				unused = append(unused, right)
			}
		}
		if len(unused) > 0 {
			t.Errorf("%s has rights that it doesn't use:\n%s", account, strings.Join(unused, "\n"))
		}
		t.Logf("%s has used %d rights", account, len(rights)-len(unused))
	}
}

// story installs the driver, uses it, and takes everything away again.
func story(t *testing.T, e *envtest.Environment) (granted map[string][]string) {
	t.Helper()
	scheme := kube.Scheme()
	must(t, rbacv1.AddToScheme(scheme))
	admin, err := client.New(e.Config, client.Options{Scheme: scheme})
	must(t, err)
	granted = installRoles(t, admin)
	dir, err := os.MkdirTemp("", "hf") // sockets have short paths
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	i := &installation{t: t, dir: dir, spdk: cluster.New(t, 3, cluster.Options{Stall: timeouts.DefaultBudgets().ReplicaStall})}
	must(t, vm.Build(t.Context(), i.binary(), "github.com/holdfast-csi/holdfast/cmd/holdfast"))
	i.asController, i.asNode, i.asOperator = kubeconfig(t, e, dir, "holdfast-controller"), kubeconfig(t, e, dir, "holdfast-node"), personalKubeconfig(t, e, dir)

	must(t, i.command(driver.NodesFromFile, "node", "cordon", "n1")) // before there are resources
	must(t, i.command(driver.NodesFromFile, "node", "uncordon", "n1"))
	_, stop := i.startController("before", driver.NodesFromFile)
	s := tale{i, admin}
	s.nameNodes()
	stop()
	first, stop := i.startController("first", driver.NodesFromKube)
	i.controller = csi.NewControllerClient(i.connect(first))
	second, _ := i.startController("second", driver.NodesFromKube)
	i.startNode()

	s.claim("pvc-1")
	v := s.create("pvc-1", nil)
	s.publish(v)
	for !s.toldAgain() {
		s.loseReplica(v)
	}
	snapshot := s.snapshot(v)
	restored := s.create("pvc-2", &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snapshot}}})
	stop()
	i.controller = csi.NewControllerClient(i.connect(second))
	s.operate(v)
	s.expand(v)
	s.delete(restored)
	s.forgetNode(v)
	s.unpublish(v)
	_, err = i.controller.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: snapshot})
	must(t, err)
	s.delete(v)
	eventually(t, "no record is left", func() (bool, error) {
		var volumes v1alpha1.VolumeList
		var snapshots v1alpha1.SnapshotList
		if err := admin.List(t.Context(), &volumes); err != nil {
			return false, err
		}
		return len(volumes.Items)+len(snapshots.Items) == 0, admin.List(t.Context(), &snapshots)
	})
	return granted
}
