package kubernetes_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfast-csi/holdfast/driver"
	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
	"github.com/holdfast-csi/holdfast/test/vm"
)

// sizeBytes is the size of the volumes.
const sizeBytes = 16 << 20

// tale is the steps of the story.
type tale struct {
	*installation
	admin client.Client
}

// nameNodes waits until the controller shows the SPDK nodes of its file, and says in the resources where they are.
func (s tale) nameNodes() {
	s.t.Helper()
	for _, n := range s.spdk.Config.Nodes {
		var o v1alpha1.SPDKNode
		eventually(s.t, n.Name+" is shown", func() (bool, error) {
			err := s.admin.Get(s.t.Context(), client.ObjectKey{Name: n.Name}, &o)
			return len(o.Status.Conditions) > 0, err
		})
		before := o.DeepCopy()
		o.Spec.RPC, o.Spec.NVMf = n.RPC, n.NVMf
		must(s.t, s.admin.Patch(s.t.Context(), &o, client.MergeFrom(before)))
	}
}

// claim makes the PersistentVolume that the provisioner would, once it is called.
func (s tale) claim(name string) {
	s.t.Helper()
	must(s.t, s.admin.Create(s.t.Context(), &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Capacity: corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(sizeBytes, resource.BinarySI)},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driver.Name, VolumeHandle: volume.IDFor(name)}},
			ClaimRef:               &corev1.ObjectReference{Namespace: metav1.NamespaceDefault, Name: "claim"},
		},
	}))
}

var writer = &csi.VolumeCapability{
	AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
}

// create creates a volume, of a snapshot if there is one.
func (s tale) create(name string, content *csi.VolumeContentSource) (id string) {
	s.t.Helper()
	resp, err := s.controller.CreateVolume(s.t.Context(), &csi.CreateVolumeRequest{
		Name: name, VolumeCapabilities: []*csi.VolumeCapability{writer}, CapacityRange: &csi.CapacityRange{RequiredBytes: sizeBytes},
		Parameters: map[string]string{volume.ParamReplicas: "3"}, VolumeContentSource: content,
	})
	must(s.t, err)
	return resp.GetVolume().GetVolumeId()
}

func (s tale) delete(id string) {
	s.t.Helper()
	_, err := s.controller.DeleteVolume(s.t.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
	must(s.t, err)
}

func (s tale) staging() string { return s.dir + "/staging" }
func (s tale) pod() string     { return s.dir + "/pod" }

func (s tale) publish(id string) {
	s.t.Helper()
	ctx := s.t.Context()
	_, err := s.controller.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{VolumeId: id, NodeId: machine, VolumeCapability: writer})
	must(s.t, err)
	_, err = s.node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: s.staging(), VolumeCapability: writer})
	must(s.t, err)
	_, err = s.node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{VolumeId: id, StagingTargetPath: s.staging(), TargetPath: s.pod(), VolumeCapability: writer})
	must(s.t, err)
	s.await(id, condition.StateHealthy)
}

func (s tale) unpublish(id string) {
	s.t.Helper()
	ctx := s.t.Context()
	_, err := s.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: s.pod()})
	must(s.t, err)
	_, err = s.node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: s.staging()})
	must(s.t, err)
	_, err = s.controller.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: machine})
	must(s.t, err)
}

// record reads a volume as its resource has it.
func (s tale) record(id string) (o v1alpha1.Volume, err error) {
	return o, s.admin.Get(s.t.Context(), client.ObjectKey{Name: id}, &o)
}

// await waits until a volume is shown in one of the states.
func (s tale) await(id string, states ...condition.State) {
	s.t.Helper()
	eventually(s.t, id+" is shown as "+string(states[0]), func() (bool, error) {
		o, err := s.record(id)
		return slices.Contains(states, condition.State(o.Status.State)), err
	})
}

// elsewhere returns an SPDK node that is not the volume's raid host.
func (s tale) elsewhere(id string) int {
	s.t.Helper()
	o, err := s.record(id)
	must(s.t, err)
	return slices.IndexFunc(s.spdk.Config.Nodes, func(n driver.NodeConfig) bool { return n.Name != o.Spec.Assembly.RaidHost })
}

// loseReplica ends the process of an SPDK node, and has it come back.
func (s tale) loseReplica(id string) {
	s.t.Helper()
	lost := s.spdk.Sims[s.elsewhere(id)]
	lost.Kill()
	s.await(id, condition.StateDegraded, condition.StateRebuilding)
	must(s.t, lost.Start())
	s.await(id, condition.StateHealthy)
}

// toldAgain says whether an event of the claim was counted up, which is a patch: that takes the same to be told twice.
func (s tale) toldAgain() bool {
	s.t.Helper()
	var events corev1.EventList
	must(s.t, s.admin.List(s.t.Context(), &events, client.InNamespace(metav1.NamespaceDefault)))
	return slices.ContainsFunc(events.Items, func(e corev1.Event) bool { return e.InvolvedObject.Name == "claim" && e.Count > 1 })
}

func (s tale) snapshot(id string) (snapshot string) {
	s.t.Helper()
	resp, err := s.controller.CreateSnapshot(s.t.Context(), &csi.CreateSnapshotRequest{Name: "snapshot-1", SourceVolumeId: id})
	must(s.t, err)
	_, err = s.controller.ListSnapshots(s.t.Context(), &csi.ListSnapshotsRequest{})
	must(s.t, err)
	return resp.GetSnapshot().GetSnapshotId()
}

func (s tale) expand(id string) {
	s.t.Helper()
	size := &csi.CapacityRange{RequiredBytes: 2 * sizeBytes}
	_, err := s.controller.ControllerExpandVolume(s.t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: size, VolumeCapability: writer})
	must(s.t, err)
	_, err = s.node.NodeExpandVolume(s.t.Context(), &csi.NodeExpandVolumeRequest{VolumeId: id, VolumePath: s.pod(), StagingTargetPath: s.staging(), CapacityRange: size, VolumeCapability: writer})
	must(s.t, err)
}

// operate looks at everything as a person does, cordons a node, and moves the volume.
func (s tale) operate(id string) {
	s.t.Helper()
	to := s.spdk.Config.Nodes[s.elsewhere(id)].Name
	for _, words := range [][]string{
		{"node", "list"}, {"volume", "list"}, {"volume", "show", id}, {"snapshot", "list"},
		{"node", "cordon", to}, {"node", "uncordon", to}, {"volume", "move", id, "--to", to},
	} {
		must(s.t, s.command(driver.NodesFromKube, words...))
	}
	s.useKubectl()
}

// useKubectl has the operator use kubectl holdfast. The controller's pod is there in name only, so that what is run in it fails for want of a
// kubelet, after the API server has let it pass.
func (s tale) useKubectl() {
	s.t.Helper()
	name, err := os.Hostname() // with which the lease of the controller, a process of this machine, begins
	must(s.t, err)
	must(s.t, s.admin.Create(s.t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: namespace}}))
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{"app.kubernetes.io/name": "holdfast"}},
		Spec: corev1.PodSpec{
			AutomountServiceAccountToken: new(bool),
			Containers:                   []corev1.Container{{Name: "holdfast", Image: "holdfast", Args: []string{"controller", "--config=/c.yaml", "--store=kube"}}},
		},
	}
	must(s.t, s.admin.Create(s.t.Context(), pod))
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "holdfast"}}
	must(s.t, s.admin.Status().Update(s.t.Context(), pod))
	must(s.t, s.admin.Create(s.t.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "claim", Namespace: metav1.NamespaceDefault},
		Spec: corev1.PersistentVolumeClaimSpec{
			VolumeName: "pvc-1", AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(sizeBytes, resource.BinarySI)}},
		},
	}))
	for _, words := range [][]string{{"status"}, {"volume", "default/claim"}, {"support-bundle", "-o", filepath.Join(s.dir, "bundle.tar.gz")}} {
		if out, err := s.plugin(words...); err != nil {
			s.t.Errorf("kubectl holdfast %v: %v\n%s", words, err, out)
		}
	}
	if out, err := s.plugin("orphans"); err == nil || strings.Contains(out, "orbidden") {
		s.t.Errorf("kubectl holdfast orphans: %v\n%s", err, out)
	}
}

// plugin runs kubectl-holdfast as the operator.
func (s tale) plugin(words ...string) (string, error) {
	s.t.Helper()
	binary := filepath.Join(s.dir, "kubectl-holdfast")
	if _, err := os.Stat(binary); err != nil {
		must(s.t, vm.Build(s.t.Context(), binary, "github.com/holdfast-csi/holdfast/cmd/kubectl-holdfast"))
	}
	kubectl, err := filepath.Abs("../../.cache/kubernetes")
	must(s.t, err)
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, words...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.asOperator, "PATH="+kubectl+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// forgetNode ends an SPDK node for good. It takes a while until the node service has given up a standby that is there.
func (s tale) forgetNode(id string) {
	s.t.Helper()
	lost := s.elsewhere(id)
	s.spdk.Sims[lost].Kill()
	s.await(id, condition.StateDegraded)
	eventually(s.t, "the node is forgotten", func() (bool, error) {
		err := s.command(driver.NodesFromKube, "node", "forget", s.spdk.Config.Nodes[lost].Name, "--yes-never-returns")
		return err == nil, err
	})
}
