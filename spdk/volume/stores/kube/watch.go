package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
)

// wishFields select what a node may have something to do for: the volumes that it owns, and those whose guests are wanted, which are few.
func wishFields(node string) []fields.Selector {
	return []fields.Selector{
		fields.OneTermEqualSelector(v1alpha1.OwnerField, node),
		fields.OneTermEqualSelector(v1alpha1.GuestsWantedField, "true"),
	}
}

// watch keeps up to date what is wanted of one node. While the API server is away it knows the volumes as they were.
type watch struct {
	node   string
	caches []cache.Cache
	stop   context.CancelFunc
	ended  sync.WaitGroup
}

// watchNode begins to watch. It doesn't wait for the first answer.
func watchNode(ctx context.Context, c *rest.Config, node string) (*watch, error) {
	w := &watch{node: node}
	for _, selector := range wishFields(node) {
		volumes, err := cache.New(rest.CopyConfig(c), cache.Options{
			Scheme: Scheme(), Mapper: mapper(), ReaderFailOnMissingInformer: true,
			ByObject: map[client.Object]cache.ByObject{&v1alpha1.Volume{}: {Field: selector}},
		})
		if err == nil {
			_, err = volumes.GetInformer(ctx, &v1alpha1.Volume{}, cache.BlockUntilSynced(false))
		}
		if err != nil {
			return nil, fmt.Errorf("watch what is wanted of %s: %w", node, err)
		}
		w.caches = append(w.caches, volumes)
	}
	ctx, w.stop = context.WithCancel(context.WithoutCancel(ctx))
	for _, volumes := range w.caches {
		w.ended.Go(func() { _ = volumes.Start(ctx) }) // it ends without an error when its context does
	}
	return w, nil
}

func (w *watch) close() {
	w.stop()
	w.ended.Wait()
}

// ids returns the volumes of which something is wanted of the node (volume.Volume.Wanted). It waits for the first answer of the API server.
func (w *watch) ids(ctx context.Context) ([]string, error) {
	var ids []string
	for _, volumes := range w.caches {
		some, err := w.idsOf(ctx, volumes)
		if err != nil {
			return nil, fmt.Errorf("find what is wanted of %s: %w", w.node, err)
		}
		ids = append(ids, some...)
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

func (w *watch) idsOf(ctx context.Context, volumes cache.Cache) ([]string, error) {
	if !volumes.WaitForCacheSync(ctx) {
		return nil, errors.Join(errors.New("the API server has not answered yet"), ctx.Err())
	}
	var list v1alpha1.VolumeList
	if err := volumes.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	var ids []string
	for i := range list.Items {
		v, err := volumeOf(&list.Items[i])
		if err != nil {
			return nil, fmt.Errorf("record of %s: %w", list.Items[i].Name, err)
		}
		if slices.Contains(v.Wanted(), w.node) {
			ids = append(ids, v.ID)
		}
	}
	return ids, nil
}
