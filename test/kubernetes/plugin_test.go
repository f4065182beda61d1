package kubernetes_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/show"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/storetest"
)

// driverNamespace is where the plugin looks for the driver if nothing else is said.
const driverNamespace = "holdfast"

// operatorName is a user who has the rights of OperatorPermissions and no others.
const operatorName = "jane"

// plugin is kubectl with the plugin, used by that user.
type plugin struct {
	t      *testing.T
	config *rest.Config
	core   kubernetes.Interface
	store  *kube.Store
	// folder is first in the PATH; the plugin is in it, and a kubectl that notes in the file exec what the plugin calls it with.
	folder, kubeconfig, exec string
}

func newPlugin(t *testing.T) *plugin {
	t.Helper()
	p := &plugin{t: t, config: server(t), folder: t.TempDir()}
	var err error
	p.core, err = kubernetes.NewForConfig(p.config)
	must(t, err)
	p.store = empty(t, p.config, "")
	p.kubeconfig, p.exec = filepath.Join(p.folder, "kubeconfig"), filepath.Join(p.folder, "exec")
	build := exec.Command("go", "build", "-o", p.folder, "../../cmd/kubectl-holdfast")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the plugin: %v\n%s", err, out)
	}
	must(t, os.WriteFile(filepath.Join(p.folder, "kubectl"), []byte("#!/bin/sh\nprintf '%s\\n' \"$@\" > "+p.exec+"\n"), 0o755))
	user := clientcmdapi.NewConfig()
	user.Clusters["c"] = &clientcmdapi.Cluster{Server: p.config.Host, CertificateAuthorityData: p.config.CAData}
	user.AuthInfos["u"] = &clientcmdapi.AuthInfo{ClientCertificateData: p.config.CertData, ClientKeyData: p.config.KeyData, Impersonate: operatorName}
	user.Contexts["test"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u", Namespace: "default"}
	user.CurrentContext = "test"
	must(t, clientcmd.WriteToFile(*user, p.kubeconfig))
	p.grant()
	return p
}

// grant gives the user the rights that the driver declares.
func (p *plugin) grant() {
	p.t.Helper()
	ctx, all := p.t.Context(), kube.OperatorPermissions()
	named := metav1.ObjectMeta{Name: "operator"}
	subjects := []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: operatorName}}
	_, err := p.core.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: driverNamespace}}, metav1.CreateOptions{})
	must(p.t, err)
	r := p.core.RbacV1()
	_, err = r.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: named, Rules: all.Cluster}, metav1.CreateOptions{})
	must(p.t, err)
	_, err = r.Roles(driverNamespace).Create(ctx, &rbacv1.Role{ObjectMeta: named, Rules: all.Namespace}, metav1.CreateOptions{})
	must(p.t, err)
	_, err = r.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: named, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "operator"}}, metav1.CreateOptions{})
	must(p.t, err)
	_, err = r.RoleBindings(driverNamespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: named, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "operator"}}, metav1.CreateOptions{})
	must(p.t, err)
}

// holdfast runs kubectl holdfast.
func (p *plugin) holdfast(args ...string) (string, error) {
	p.t.Helper()
	kubectl, err := filepath.Abs("../../.cache/kubernetes/kubectl")
	must(p.t, err)
	ctx, cancel := context.WithTimeout(p.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, kubectl, append([]string{"holdfast"}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+p.kubeconfig, "PATH="+p.folder+":"+os.Getenv("PATH"))
	cmd.Dir = p.folder
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	p.t.Logf("$ kubectl holdfast %s\n%s%v", strings.Join(args, " "), out.String(), err)
	return out.String(), err
}

func (p *plugin) want(args []string, texts ...string) {
	p.t.Helper()
	out, err := p.holdfast(args...)
	if err != nil {
		p.t.Errorf("kubectl holdfast %v: %v", args, err)
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			p.t.Errorf("no %q in what kubectl holdfast %v prints", text, args)
		}
	}
}

// fill makes a volume that is claimed, shown as a controller shows it, and the pod of that controller, which leads.
func (p *plugin) fill() *volume.Volume {
	p.t.Helper()
	ctx := p.t.Context()
	v := storetest.Volume("pvc-1")
	v.Retired, v.Parameters.Replicas = nil, 2
	must(p.t, p.store.Create(ctx, v))
	pvc := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pvc-1", AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}}}
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	pvc.Spec.Resources.Requests = size
	_, err := p.core.CoreV1().PersistentVolumeClaims("default").Create(ctx, pvc, metav1.CreateOptions{})
	must(p.t, err)
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pvc-1"}, Spec: corev1.PersistentVolumeSpec{
		Capacity: size, AccessModes: pvc.Spec.AccessModes, ClaimRef: &corev1.ObjectReference{Namespace: "default", Name: "data"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: kube.DriverName, VolumeHandle: v.ID}},
	}}
	_, err = p.core.CoreV1().PersistentVolumes().Create(ctx, pv, metav1.CreateOptions{})
	must(p.t, err)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "leader", Labels: map[string]string{"app.kubernetes.io/name": "holdfast"}}}
	pod.Spec.Containers = []corev1.Container{{Name: "holdfast", Image: "holdfast", Args: []string{"controller", "--config=/c.yaml", "--store=kube", "-v=2"}}}
	disabled := false
	pod.Spec.AutomountServiceAccountToken = &disabled
	_, err = p.core.CoreV1().ServiceAccounts(driverNamespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	must(p.t, err)
	_, err = p.core.CoreV1().Pods(driverNamespace).Create(ctx, pod, metav1.CreateOptions{})
	must(p.t, err)
	holder, seconds, renewed := "leader_1", int32(3600), metav1.NowMicro()
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: kube.LeaseName}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &renewed}}
	_, err = p.core.CoordinationV1().Leases(driverNamespace).Create(ctx, lease, metav1.CreateOptions{})
	must(p.t, err)
	display := show.NewDisplay(p.store.Client(), record.NewFakeRecorder(10), clock.RealClock{})
	nodes := []condition.NodePicture{{Node: &converge.Node{Name: "a"}}, {Node: &converge.Node{Name: "b"}}}
	must(p.t, display.Show(ctx, condition.Picture{Volumes: []*volume.Volume{v}, Sight: condition.Sight{"a": {}, "b": {}}, Nodes: nodes}))
	return v
}

func TestKubectlPluginOnARealAPIServerWithAnOperatorsRights(t *testing.T) {
	p := newPlugin(t)
	v := p.fill()
	p.want([]string{"status"}, "1 at risk", "default/data", "2 of 2 answer", "as leader, the leading controller, tells")
	p.want([]string{"status", "--context", "test", "-o", "json"}, `"claim": "default/data"`)
	for _, name := range []string{"default/data", "data", "pvc-1", v.ID} {
		p.want([]string{"volume", name}, "raid host a", "published to n", "00000002 on b/lvs  suspect")
	}
	p.want([]string{"volume", "list"}, "pvc-1", "at risk, 1 of 2")
	p.want([]string{"snapshot", "list"}, "NAME")
	p.want([]string{"node", "cordon", "b"}, "b is cordoned.")
	p.want([]string{"node", "list"}, "a", "b", "yes")
	p.want([]string{"node", "uncordon", "b"}, "b is open again.")
	if out, err := p.holdfast("volume", "other", "-n", "default"); err == nil || !strings.Contains(out, "nor a claim in namespace default") {
		t.Errorf("an unknown volume is answered %q", out)
	}
	p.want([]string{"support-bundle", "-o", "bundle.tar.gz"}, "bundle.tar.gz is made")
	if info, err := os.Stat(filepath.Join(p.folder, "bundle.tar.gz")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the bundle is %v, %v", info, err)
	}
	for args, want := range map[string]string{
		"volume salvage default/data --replica 00000002":                             "volume salvage " + v.ID + " --replica=00000002",
		"volume forget-replica data --replica 00000002 --yes-never-returns":          "volume forget-replica " + v.ID + " --replica=00000002 --yes-never-returns=true",
		"node forget b --data-loss-volume one --data-loss-volume two --context test": "node forget b --data-loss-volume=one --data-loss-volume=two",
		"orphans -o json": "orphans --output=json",
	} {
		p.want(strings.Fields(args))
		called, err := os.ReadFile(p.exec)
		must(t, err)
		call := "exec --namespace=holdfast leader --container=holdfast -- holdfast " + want + " --config=/c.yaml --store=kube"
		if strings.Contains(args, "--context") {
			call = "--context=test " + call
		}
		if got := strings.Join(strings.Fields(string(called)), " "); got != call {
			t.Errorf("kubectl is run with\n%s and not\n%s", got, call)
		}
	}
}
