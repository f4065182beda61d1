package kube

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
)

// watch keeps the volumes of one owner up to date. While the API server is away it knows them as they were.
type watch struct {
	owner string
	cache cache.Cache
	stop  context.CancelFunc
	ended sync.WaitGroup
}

// watchOwner begins to watch. It doesn't wait for the first answer.
func watchOwner(ctx context.Context, c *rest.Config, owner string) (*watch, error) {
	volumes, err := cache.New(rest.CopyConfig(c), cache.Options{
		Scheme: Scheme(), Mapper: mapper(), ReaderFailOnMissingInformer: true,
		ByObject: map[client.Object]cache.ByObject{&v1alpha1.Volume{}: {Field: fields.OneTermEqualSelector(v1alpha1.OwnerField, owner)}},
	})
	if err != nil {
		return nil, fmt.Errorf("watch the volumes of %s: %w", owner, err)
	}
	if _, err := volumes.GetInformer(ctx, &v1alpha1.Volume{}, cache.BlockUntilSynced(false)); err != nil {
		return nil, fmt.Errorf("watch the volumes of %s: %w", owner, err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	w := &watch{owner: owner, cache: volumes, stop: stop}
	w.ended.Go(func() { _ = volumes.Start(ctx) }) // it ends without an error when its context does
	return w, nil
}

func (w *watch) close() {
	w.stop()
	w.ended.Wait()
}

// ids returns the volumes for which OwnerWanted holds. It waits for the first answer of the API server.
func (w *watch) ids(ctx context.Context) ([]string, error) {
	if !w.cache.WaitForCacheSync(ctx) {
		return nil, fmt.Errorf("find what is wanted of %s: the API server has not answered yet: %w", w.owner, ctx.Err())
	}
	var owned v1alpha1.VolumeList
	if err := w.cache.List(ctx, &owned, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("find what is wanted of %s: %w", w.owner, err)
	}
	var ids []string
	for i := range owned.Items {
		v, err := volumeOf(&owned.Items[i])
		if err != nil {
			return nil, fmt.Errorf("record of %s: %w", owned.Items[i].Name, err)
		}
		if v.OwnerWanted() {
			ids = append(ids, v.ID)
		}
	}
	slices.Sort(ids)
	return ids, nil
}
