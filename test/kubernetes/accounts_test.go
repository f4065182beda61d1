package kubernetes_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// Who acts in the tests of rights: the driver's two processes, and a person with the chart's role for people.
const (
	controllerAccount = "system:serviceaccount:" + namespace + ":holdfast-controller"
	nodeAccount       = "system:serviceaccount:" + namespace + ":holdfast-node"
	operatorAccount   = "jane"
)

// ownRoles are the chart's roles for the driver itself, by who has them. The ServiceAccount of the controller has those of its sidecars, too;
// they are left out here, so that the driver has to do with its own.
var ownRoles = map[string]string{"holdfast-controller": controllerAccount, "holdfast-node": nodeAccount, "holdfast-operator": operatorAccount}

// installRoles makes the namespace, the ServiceAccounts and the driver's roles as the manifests have them, and returns what they grant.
func installRoles(t *testing.T, admin client.Client) (granted map[string][]string) {
	t.Helper()
	must(t, admin.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}))
	granted = map[string][]string{}
	for _, o := range objects(t, "../../deploy/manifests/holdfast.yaml") {
		account, own := ownRoles[o.GetName()]
		if !own || !slices.Contains([]string{"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}, o.GetKind()) {
			continue
		}
		must(t, admin.Create(t.Context(), o.DeepCopy()))
		if o.GetKind() == "ClusterRole" || o.GetKind() == "Role" {
			var role rbacv1.ClusterRole // a Role has its rules at the same place
			must(t, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &role))
			granted[account] = append(granted[account], rights(role.Rules)...)
		}
	}
	must(t, admin.Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: operatorAccount}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "holdfast-operator"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: operatorAccount}},
	}))
	must(t, admin.Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: operatorAccount, Namespace: namespace}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "holdfast-operator"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: operatorAccount}},
	}))
	return granted
}

// rights writes rules as an audit is written.
func rights(rules []rbacv1.PolicyRule) (all []string) {
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					all = append(all, resource+"."+group+" "+verb)
				}
			}
		}
	}
	return all
}

// kubeconfig writes a file with which a process is the ServiceAccount of that name, by a token as kubelet gives it to a pod.
func kubeconfig(t *testing.T, e *envtest.Environment, dir, account string) string {
	t.Helper()
	core, err := typedcorev1.NewForConfig(e.Config)
	must(t, err)
	hour := int64(3600)
	token, err := core.ServiceAccounts(namespace).CreateToken(t.Context(), account,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour}}, metav1.CreateOptions{})
	must(t, err)
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: e.Config.Host, CertificateAuthorityData: e.Config.CAData}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	config.CurrentContext = "x"
	path := filepath.Join(dir, account+".kubeconfig")
	must(t, clientcmd.WriteToFile(*config, path))
	return path
}

// personalKubeconfig writes a file with which a process is the person with the chart's role for people, by a certificate.
func personalKubeconfig(t *testing.T, e *envtest.Environment, dir string) string {
	t.Helper()
	user, err := e.AddUser(envtest.User{Name: operatorAccount}, &rest.Config{})
	must(t, err)
	body, err := user.KubeConfig()
	must(t, err)
	path := filepath.Join(dir, operatorAccount+".kubeconfig")
	must(t, os.WriteFile(path, body, 0o600))
	return path
}
