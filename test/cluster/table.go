package cluster

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// table keeps records of one kind in memory, with compare-and-swap by their revisions. It never waits.
type table[T any] struct {
	clone func(*T) *T
	// of returns a record's ID and its place for the revision.
	of func(*T) (id string, revision *uint64)
	// absent is the error of a record that is not there.
	absent error

	mu       sync.Mutex
	records  map[string]*T
	revision uint64
}

func (t *table[T]) get(ctx context.Context, id string) (*T, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	record, ok := t.records[id]
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case !ok:
		return nil, fmt.Errorf("record %s: %w", id, t.absent)
	}
	return t.clone(record), nil
}

func (t *table[T]) create(ctx context.Context, record *T) error {
	return t.change(ctx, record, t.put, func(old *T) error {
		if old != nil {
			return volume.ErrExists
		}
		return nil
	})
}

func (t *table[T]) update(ctx context.Context, record *T) error {
	return t.change(ctx, record, t.put, func(old *T) error { return t.unchanged(old, record) })
}

func (t *table[T]) remove(ctx context.Context, record *T) error {
	return t.change(ctx, record, t.drop, func(old *T) error { return t.unchanged(old, record) })
}

// change makes a change to the record of that ID if it is allowed.
func (t *table[T]) change(ctx context.Context, record *T, apply func(*T), allowed func(old *T) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	id, _ := t.of(record)
	if err := allowed(t.records[id]); err != nil {
		return fmt.Errorf("record %s: %w", id, err)
	}
	apply(record)
	return nil
}

// put gives a record its revision and keeps it. The caller holds t.mu.
func (t *table[T]) put(record *T) {
	if t.records == nil {
		t.records = map[string]*T{}
	}
	id, revision := t.of(record)
	t.revision++
	*revision = t.revision
	t.records[id] = t.clone(record)
}

// drop forgets a record. The caller holds t.mu.
func (t *table[T]) drop(record *T) {
	id, _ := t.of(record)
	delete(t.records, id)
}

func (t *table[T]) unchanged(old, record *T) error {
	if old == nil {
		return t.absent
	}
	_, had := t.of(old)
	if _, has := t.of(record); *had != *has {
		return volume.ErrConflict
	}
	return nil
}

// list returns the records whose IDs come after one, in their order, so many at the most; 0 is all.
func (t *table[T]) list(ctx context.Context, after string, limit int) ([]*T, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var found []*T
	for _, id := range slices.Sorted(maps.Keys(t.records)) {
		if id > after && (limit == 0 || len(found) < limit) {
			found = append(found, t.clone(t.records[id]))
		}
	}
	return found, ctx.Err()
}
