package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Claims finds volumes by their claims. It implements operator.Claims.
type Claims struct {
	Client client.Client
	// Namespace is that of a claim that is named without one; "" is none.
	Namespace string
}

// VolumeID returns the ID of the volume that a PersistentVolume is, or that is bound to a claim as "namespace/name", or to the claim of that name in
// Namespace. None is volume.ErrNotFound, and so is one of another driver.
func (c Claims) VolumeID(ctx context.Context, name string) (string, error) {
	namespace, claim, both := strings.Cut(name, "/")
	if !both {
		id, err := c.handle(ctx, name)
		if c.Namespace == "" || !errors.Is(err, volume.ErrNotFound) {
			return id, err
		}
		namespace, claim = c.Namespace, name
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var pvc corev1.PersistentVolumeClaim
	err := c.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: claim}, &pvc)
	switch {
	case apierrors.IsNotFound(err) && both:
		return "", fmt.Errorf("%w: there is no claim %s in namespace %s", volume.ErrNotFound, claim, namespace)
	case apierrors.IsNotFound(err):
		return "", fmt.Errorf("%w: %q is neither the ID of a volume, nor a PersistentVolume, nor a claim in namespace %s", volume.ErrNotFound, name, namespace)
	case err != nil:
		return "", fmt.Errorf("read claim %s/%s: %w", namespace, claim, err)
	case pvc.Spec.VolumeName == "":
		return "", fmt.Errorf("%w: claim %s/%s is %s; \"kubectl describe pvc --namespace %s %s\" says what it waits for", volume.ErrNotFound, namespace, claim, pvc.Status.Phase, namespace, claim)
	}
	return c.handle(ctx, pvc.Spec.VolumeName)
}

// handle returns the volume ID of a PersistentVolume.
func (c Claims) handle(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var pv corev1.PersistentVolume
	err := c.Client.Get(ctx, client.ObjectKey{Name: name}, &pv)
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsInvalid(err):
		return "", fmt.Errorf("%w: %q is neither the ID nor the name of a volume on record, nor a PersistentVolume", volume.ErrNotFound, name)
	case err != nil:
		return "", fmt.Errorf("read PersistentVolume %s: %w", name, err)
	case pv.Spec.CSI == nil || pv.Spec.CSI.Driver != DriverName:
		return "", fmt.Errorf("%w: PersistentVolume %s is of another driver", volume.ErrNotFound, name)
	}
	return pv.Spec.CSI.VolumeHandle, nil
}

// OfVolumes returns the claims of all volumes that have one as "namespace/name", by volume ID.
func (c Claims) OfVolumes(ctx context.Context) (map[string]string, error) {
	claims := map[string]string{}
	for next := ""; ; {
		var page corev1.PersistentVolumeList
		if err := listPage(ctx, c.Client, &page, []client.ListOption{client.Limit(pageSize), client.Continue(next)}); err != nil {
			return nil, fmt.Errorf("list PersistentVolumes: %w", err)
		}
		for _, pv := range page.Items {
			if csi, claim := pv.Spec.CSI, pv.Spec.ClaimRef; csi != nil && csi.Driver == DriverName && claim != nil {
				claims[csi.VolumeHandle] = claim.Namespace + "/" + claim.Name
			}
		}
		if next = page.Continue; next == "" {
			return claims, nil
		}
	}
}
