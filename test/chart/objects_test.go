package chart

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	"sigs.k8s.io/yaml"
)

// head is what all objects have.
type head struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string            `json:"name"`
		Namespace string            `json:"namespace"`
		Labels    map[string]string `json:"labels"`
	} `json:"metadata"`
}

// builtin returns an object of one of Kubernetes' own types; nil for those of others.
func builtin(h head) any {
	switch h.APIVersion + " " + h.Kind {
	case "v1 ConfigMap":
		return &corev1.ConfigMap{}
	case "v1 Namespace":
		return &corev1.Namespace{}
	case "v1 PersistentVolumeClaim":
		return &corev1.PersistentVolumeClaim{}
	case "v1 Pod":
		return &corev1.Pod{}
	case "v1 Secret":
		return &corev1.Secret{}
	case "v1 ServiceAccount":
		return &corev1.ServiceAccount{}
	case "apps/v1 Deployment":
		return &appsv1.Deployment{}
	case "apps/v1 DaemonSet":
		return &appsv1.DaemonSet{}
	case "policy/v1 PodDisruptionBudget":
		return &policyv1.PodDisruptionBudget{}
	case "networking.k8s.io/v1 NetworkPolicy":
		return &networkingv1.NetworkPolicy{}
	case "rbac.authorization.k8s.io/v1 ClusterRole":
		return &rbacv1.ClusterRole{}
	case "rbac.authorization.k8s.io/v1 ClusterRoleBinding":
		return &rbacv1.ClusterRoleBinding{}
	case "rbac.authorization.k8s.io/v1 Role":
		return &rbacv1.Role{}
	case "rbac.authorization.k8s.io/v1 RoleBinding":
		return &rbacv1.RoleBinding{}
	case "storage.k8s.io/v1 CSIDriver":
		return &storagev1.CSIDriver{}
	case "storage.k8s.io/v1 StorageClass":
		return &storagev1.StorageClass{}
	case "storage.k8s.io/v1 VolumeAttributesClass":
		return &storagev1.VolumeAttributesClass{}
	}
	return nil
}

// foreign are the types of others that the chart may make, and the driver's own; what is wrong within them is found by an API server alone.
var foreign = []string{
	"cert-manager.io/v1 Issuer", "cert-manager.io/v1 Certificate",
	"monitoring.coreos.com/v1 PodMonitor", "monitoring.coreos.com/v1 PrometheusRule",
	"csi.holdfast.dev/v1alpha1 SPDKNode",
	"snapshot.storage.k8s.io/v1 VolumeSnapshotClass", "snapshot.storage.k8s.io/v1 VolumeSnapshot",
}

// decode returns the objects of a stream. Fields that Kubernetes doesn't know, and doubled ones, are errors.
func decode(t *testing.T, stream string) (heads []head, objects []any) {
	t.Helper()
	for _, doc := range documents(stream) {
		var h head
		if err := yaml.Unmarshal([]byte(doc), &h); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		object := builtin(h)
		switch {
		case object != nil:
			if err := yaml.UnmarshalStrict([]byte(doc), object); err != nil {
				t.Errorf("%s %s: %v", h.Kind, h.Metadata.Name, err)
			}
		case !slices.Contains(foreign, h.APIVersion+" "+h.Kind):
			t.Errorf("%s %s %s is of no type that is expected", h.APIVersion, h.Kind, h.Metadata.Name)
		}
		heads, objects = append(heads, h), append(objects, object)
	}
	return heads, objects
}

func TestObjectsHaveOnlyFieldsThatKubernetesKnows(t *testing.T) {
	for _, name := range append(cases, "manifests") {
		t.Run(name, func(t *testing.T) { decode(t, mustRender(t, readValues(t, name))) })
	}
	examples, err := filepath.Glob(root + "/deploy/examples/*.yaml")
	if err != nil || len(examples) == 0 {
		t.Fatalf("no examples (%v)", err)
	}
	for _, example := range examples {
		if filepath.Base(example) == "values.yaml" {
			continue
		}
		t.Run(filepath.Base(example), func(t *testing.T) {
			body, err := os.ReadFile(example)
			if err != nil {
				t.Fatal(err)
			}
			decode(t, string(body))
		})
	}
}

func TestObjectsOfAReleaseAreItsOwn(t *testing.T) {
	clusterWide := []string{"ClusterRole", "ClusterRoleBinding", "CSIDriver", "StorageClass", "VolumeSnapshotClass", "VolumeAttributesClass"}
	heads, _ := decode(t, mustRender(t, readValues(t, "full")))
	seen := map[string]bool{}
	for _, h := range heads {
		key := h.Kind + " " + h.Metadata.Name
		if seen[key] {
			t.Errorf("%s is there twice", key)
		}
		seen[key] = true
		if h.Metadata.Labels["app.kubernetes.io/instance"] != "holdfast" || h.Metadata.Labels["app.kubernetes.io/name"] != "holdfast" {
			t.Errorf("%s has labels %v", key, h.Metadata.Labels)
		}
		want := namespace
		if slices.Contains(clusterWide, h.Kind) {
			want = ""
		}
		if h.Metadata.Namespace != want {
			t.Errorf("%s is in namespace %q, want %q", key, h.Metadata.Namespace, want)
		}
	}
}
