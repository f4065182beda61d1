package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/kube/v1alpha1"
)

// kind is the records of one kind R, each an object of type O whose name is the record's ID.
type kind[R, O any, P object[O]] struct {
	// of returns a record's ID and its place for the revision.
	of func(*R) (id string, revision *uint64)
	// spec returns the place of an object's spec.
	spec func(*O) any
	// put makes an object's spec what a record says.
	put func(*O, *R) error
	// record returns the record that an object is.
	record func(*O) (*R, error)
	// page returns an empty list, items the objects of one.
	page  func() client.ObjectList
	items func(client.ObjectList) []O
	// absent is the error of a record that is not there.
	absent error
}

// object is a pointer to an object.
type object[O any] interface {
	*O
	client.Object
}

var (
	volumes = kind[volume.Volume, v1alpha1.Volume, *v1alpha1.Volume]{
		of:     func(v *volume.Volume) (string, *uint64) { return v.ID, &v.Revision },
		spec:   func(o *v1alpha1.Volume) any { return &o.Spec },
		put:    putVolume,
		record: volumeOf, absent: volume.ErrNotFound,
		page:  func() client.ObjectList { return &v1alpha1.VolumeList{} },
		items: func(l client.ObjectList) []v1alpha1.Volume { return l.(*v1alpha1.VolumeList).Items },
	}
	snapshots = kind[volume.Snapshot, v1alpha1.Snapshot, *v1alpha1.Snapshot]{
		of:     func(s *volume.Snapshot) (string, *uint64) { return s.ID, &s.Revision },
		spec:   func(o *v1alpha1.Snapshot) any { return &o.Spec },
		put:    func(o *v1alpha1.Snapshot, s *volume.Snapshot) error { return fill(&o.Spec, s) },
		record: snapshotOf, absent: volume.ErrNoSnapshot,
		page:  func() client.ObjectList { return &v1alpha1.SnapshotList{} },
		items: func(l client.ObjectList) []v1alpha1.Snapshot { return l.(*v1alpha1.SnapshotList).Items },
	}
)

// pageSize is how many objects one request of a list asks for.
const pageSize = 500

func (k kind[R, O, P]) get(ctx context.Context, c client.Client, id string) (*R, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var o O
	err := failure(c.Get(ctx, client.ObjectKey{Name: id}, P(&o)), id, k.absent)
	var record *R
	if err == nil {
		record, err = k.record(&o)
	}
	if err != nil {
		return nil, fmt.Errorf("read the record of %s: %w", id, err)
	}
	return record, nil
}

// create puts a new record.
func (k kind[R, O, P]) create(ctx context.Context, c client.Client, record *R) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	id, _ := k.of(record)
	var o O
	P(&o).SetName(id)
	controllerutil.AddFinalizer(P(&o), v1alpha1.RecordFinalizer)
	err := k.put(&o, record)
	if err == nil {
		err = failure(c.Create(ctx, P(&o)), id, k.absent)
	}
	return k.written(record, &o, err)
}

// patch is one operation of a JSON patch (RFC 6902).
type patch struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

// update puts a record in place of the one that it was read from, and leaves the labels, annotations and status as they are. With a
// resourceVersion in the patch the API server compares it and swaps.
func (k kind[R, O, P]) update(ctx context.Context, c client.Client, record *R) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	id, revision := k.of(record)
	var o O
	if err := k.put(&o, record); err != nil {
		return k.written(record, &o, err)
	}
	body, err := json.Marshal([]patch{
		{"replace", "/metadata/resourceVersion", resourceVersion(*revision)},
		{"replace", "/spec", k.spec(&o)},
	})
	if err != nil {
		return k.written(record, &o, err)
	}
	var stored O
	P(&stored).SetName(id)
	err = failure(c.Patch(ctx, P(&stored), client.RawPatch(types.JSONPatchType, body)), id, k.absent)
	return k.written(record, &stored, err)
}

// written sets the revision of a record that was written.
func (k kind[R, O, P]) written(record *R, o *O, err error) error {
	id, place := k.of(record)
	var revision uint64
	if err == nil {
		revision, err = revisionOf(P(o))
	}
	if err != nil {
		return fmt.Errorf("write the record of %s: %w", id, err)
	}
	*place = revision
	return nil
}

// delete takes the finalizer off and has the object deleted. An object that somebody had deleted by hand is gone with its finalizer.
func (k kind[R, O, P]) delete(ctx context.Context, c client.Client, record *R) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	id, revision := k.of(record)
	var o O
	err := failure(c.Get(ctx, client.ObjectKey{Name: id}, P(&o)), id, k.absent)
	switch {
	case err == nil && P(&o).GetResourceVersion() != resourceVersion(*revision):
		err = volume.ErrConflict
	case err == nil:
		err = k.remove(ctx, c, &o)
	}
	if err != nil {
		return fmt.Errorf("delete the record of %s: %w", id, err)
	}
	return nil
}

func (k kind[R, O, P]) remove(ctx context.Context, c client.Client, o *O) error {
	name := P(o).GetName()
	if controllerutil.RemoveFinalizer(P(o), v1alpha1.RecordFinalizer) {
		ending := P(o).GetDeletionTimestamp() != nil
		if err := c.Update(ctx, P(o)); err != nil || ending {
			return failure(err, name, k.absent)
		}
	}
	version, uid := P(o).GetResourceVersion(), P(o).GetUID()
	err := c.Delete(ctx, P(o), client.Preconditions{UID: &uid, ResourceVersion: &version})
	return failure(err, name, k.absent)
}

// list returns up to limit records in the order of their IDs, from the first above after; 0 is no limit.
func (k kind[R, O, P]) list(ctx context.Context, c client.Client, after string, limit int, options ...client.ListOption) ([]*R, error) {
	objects, err := k.objects(ctx, c, options...)
	var found []*R
	for i := range objects {
		if err != nil || limit > 0 && len(found) == limit {
			break
		}
		if name := P(&objects[i]).GetName(); name > after {
			var record *R
			if record, err = k.record(&objects[i]); err != nil {
				err = fmt.Errorf("record of %s: %w", name, err)
			}
			found = append(found, record)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list the records: %w", err)
	}
	return found, nil
}

// objects reads a list page by page, in the order of the objects' names.
func (k kind[R, O, P]) objects(ctx context.Context, c client.Client, options ...client.ListOption) ([]O, error) {
	var all []O
	for next, size := "", int64(pageSize); ; {
		page := k.page()
		err := listPage(ctx, c, page, append(slices.Clone(options), client.Limit(size), client.Continue(next)))
		switch {
		case apierrors.IsResourceExpired(err) && next != "":
			all, next, size = nil, "", 0 // the pages took longer than etcd keeps what they are of: all at once
			continue
		case err != nil:
			return nil, failure(err, "", errors.ErrUnsupported)
		}
		all = append(all, k.items(page)...)
		if next = page.GetContinue(); next == "" {
			slices.SortFunc(all, func(a, b O) int { return cmp.Compare(P(&a).GetName(), P(&b).GetName()) })
			return all, nil
		}
	}
}

func listPage(ctx context.Context, c client.Client, page client.ObjectList, options []client.ListOption) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return c.List(ctx, page, options...)
}

// checkName says whether a node's name can be that of an object.
func checkName(name string) error {
	if problems := validName(name); len(problems) > 0 {
		return fmt.Errorf("node name %q can't be that of an object of Kubernetes: %s", name, strings.Join(problems, "; "))
	}
	return nil
}
