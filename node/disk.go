package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// awaitDisk returns when the disk of one of these legs is seen to answer; ErrNodeDown if all of them hang. A raid that
// loses its last leg takes the namespace away from under the host, whose I/O then fails instead of waiting.
func (w *watcher) awaitDisk(ctx context.Context, v *volume.Volume, legs []string) error {
	answers := make(chan error, len(legs))
	for _, id := range legs {
		r := *v.Replica(id)
		w.running.Go(func() { answers <- w.diskAnswers(ctx, r) })
	}
	var hang []error
	for range legs {
		err := <-answers
		if !errors.Is(err, spdk.ErrDiskHangs) {
			return nil
		}
		hang = append(hang, err)
	}
	return fmt.Errorf("%w: the disks of all good replicas that are left hang: %w", volume.ErrNodeDown, errors.Join(hang...))
}

// diskAnswers is spdk.Node.DiskAnswers for a replica's disk, asked once for all volumes that want to know at the same time.
func (w *watcher) diskAnswers(ctx context.Context, r volume.Replica) error {
	node, err := w.server.cluster.Node(r.Node)
	if err != nil {
		return err
	}
	return sharedOf(w, w.disks, r.Node+"/"+r.LvStore).Do(func() error { return node.DiskAnswers(context.WithoutCancel(ctx), r.LvStore) })
}
