package kube_test

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube"
)

func claim(namespace, name, pv string) client.Object {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: pv},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
}

func persistentVolume(name, driver, handle string) client.Object {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: handle}},
		ClaimRef:               &corev1.ObjectReference{Namespace: "shop", Name: "of-" + name},
	}}
}

func TestVolumesAreFoundByTheirClaims(t *testing.T) {
	c := fake.NewClientBuilder().WithScheme(kube.Scheme()).WithObjects(
		claim("shop", "data", "by-hand"), claim("blog", "data", "foreign"), claim("shop", "waiting", ""),
		persistentVolume("by-hand", kube.DriverName, "hf-1"), persistentVolume("foreign", "another", "x"),
	).Build()
	claims := kube.Claims{Client: c, Namespace: "shop"}
	for _, name := range []string{"shop/data", "data", "by-hand"} {
		if id, err := claims.VolumeID(t.Context(), name); err != nil || id != "hf-1" {
			t.Errorf("%s is %q, %v", name, id, err)
		}
	}
	for name, text := range map[string]string{
		"blog/data": "of another driver", "shop/waiting": "is Pending", "shop/none": "no claim none in namespace shop", "none": "nor a claim in namespace shop",
	} {
		if _, err := claims.VolumeID(t.Context(), name); !errors.Is(err, volume.ErrNotFound) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if all, err := claims.OfVolumes(t.Context()); err != nil || len(all) != 1 || all["hf-1"] != "shop/of-by-hand" {
		t.Errorf("the claims are %v, %v", all, err)
	}
}
