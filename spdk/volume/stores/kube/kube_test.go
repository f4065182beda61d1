package kube_test

import (
	"context"
	"strconv"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/storetest"
)

// fakeServer is an API server in memory, which compares resourceVersions as a real one does. Unlike a real one it counts those of each object
// from 1, so that one that is made again is written until its version is above all that there were.
func fakeServer() client.Client {
	highest := 0
	version := func(o client.Object) int {
		n, err := strconv.Atoi(o.GetResourceVersion())
		if err != nil {
			panic(err)
		}
		return n
	}
	return fake.NewClientBuilder().WithScheme(kube.Scheme()).
		WithIndex(&v1alpha1.Volume{}, v1alpha1.OwnerField, func(o client.Object) []string { return []string{o.(*v1alpha1.Volume).Spec.Owner} }).
		WithIndex(&v1alpha1.Volume{}, v1alpha1.GuestsWantedField, func(o client.Object) []string {
			return []string{strconv.FormatBool(o.(*v1alpha1.Volume).Spec.GuestsWanted)}
		}).
		WithInterceptorFuncs(interceptor.Funcs{
			Create: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.CreateOption) error {
				err := c.Create(ctx, o, options...)
				for err == nil && version(o) <= highest {
					err = c.Update(ctx, o)
				}
				return err
			},
			Delete: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.DeleteOption) error {
				highest = max(highest, version(o))
				return c.Delete(ctx, o, options...)
			},
		}).Build()
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) volume.Store { return kube.New(fakeServer()) })
}
