package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// awaitDisk returns when it is known whether the disk of one of these legs answers; ErrNodeDown if all of them hang. A raid that loses its last
// leg takes the namespace away from under the host, whose I/O then fails instead of waiting.
func (w *watcher) awaitDisk(ctx context.Context, v *volume.Volume, legs []string) error {
	errs := make([]error, len(legs))
	var wg sync.WaitGroup
	for i, id := range legs {
		wg.Go(func() { errs[i] = w.diskAnswers(ctx, *v.Replica(id)) })
	}
	wg.Wait()
	if slices.ContainsFunc(errs, func(err error) bool { return !errors.Is(err, spdk.ErrDiskHangs) }) {
		return nil // one that can't be asked isn't known to hang
	}
	return fmt.Errorf("%w: the disks of all good replicas that are left hang: %w", volume.ErrNodeDown, errors.Join(errs...))
}

// diskAnswers is spdk.Node.DiskAnswers for a replica's disk, asked once for all volumes that want to know at the same time.
func (w *watcher) diskAnswers(ctx context.Context, r volume.Replica) error {
	node, err := w.server.cluster.Node(r.Node)
	if err != nil {
		return err
	}
	return sharedOf(w, w.disks, r.Node+"/"+r.LvStore).Do(func() error { return node.DiskAnswers(context.WithoutCancel(ctx), r.LvStore) })
}
