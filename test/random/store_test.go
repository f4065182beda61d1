package random_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/storetest"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// errAway is why a store that is away fails.
var errAway = errors.New("the store is away")

// store keeps records in memory. It never waits: a database that does, for a batch or a disk, would let time pass in between.
type store struct {
	*cluster.Cordons
	taken    *cluster.Snapshots
	mu       sync.Mutex
	records  map[string]*volume.Volume
	hosts    map[string]volume.Host
	revision uint64
	away     bool
	// failAfter counts down with each write; the one that it reaches zero with takes effect and is reported as failed.
	failAfter int
	// written, if not nil, is told of each write.
	written func(v *volume.Volume)
}

func newStore() *store {
	return &store{records: map[string]*volume.Volume{}, hosts: map[string]volume.Host{}, taken: cluster.NewSnapshots(), Cordons: &cluster.Cordons{}}
}

func TestStoreOfTheRunsIsOne(t *testing.T) {
	storetest.Run(t, func(*testing.T) volume.Store { return newStore() })
}

// enter begins a use of the store.
func (s *store) enter(ctx context.Context) (leave func(), err error) {
	s.mu.Lock()
	err = ctx.Err()
	if err == nil && s.away {
		err = errAway
	}
	if err != nil {
		s.mu.Unlock()
		return nil, err
	}
	return s.mu.Unlock, nil
}

func (s *store) Get(ctx context.Context, id string) (*volume.Volume, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	v, ok := s.records[id]
	if !ok {
		return nil, fmt.Errorf("record %s: %w", id, volume.ErrNotFound)
	}
	return v.Clone(), nil
}

func (s *store) Create(ctx context.Context, v *volume.Volume) error {
	return s.write(ctx, v, func(old *volume.Volume) error {
		if old != nil {
			return volume.ErrExists
		}
		return nil
	})
}

func (s *store) Update(ctx context.Context, v *volume.Volume) error {
	return s.write(ctx, v, func(old *volume.Volume) error { return compare(old, v) })
}

func compare(old, v *volume.Volume) error {
	switch {
	case old == nil:
		return volume.ErrNotFound
	case old.Revision != v.Revision:
		return volume.ErrConflict
	}
	return nil
}

func (s *store) write(ctx context.Context, v *volume.Volume, allowed func(old *volume.Volume) error) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := allowed(s.records[v.ID]); err != nil {
		return fmt.Errorf("record %s: %w", v.ID, err)
	}
	s.revision++
	next := v.Clone()
	next.Revision = s.revision
	s.records[v.ID] = next
	if s.written != nil {
		s.written(next)
	}
	if err := s.failsAfter(); err != nil {
		return err
	}
	v.Revision = s.revision
	return nil
}

// failsAfter says whether this write is the one to be reported as failed.
func (s *store) failsAfter() error {
	if s.failAfter == 0 {
		return nil
	}
	if s.failAfter--; s.failAfter > 0 {
		return nil
	}
	return errors.New("the store has written and then lost the connection")
}

func (s *store) Delete(ctx context.Context, v *volume.Volume) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := compare(s.records[v.ID], v); err != nil {
		return fmt.Errorf("record %s: %w", v.ID, err)
	}
	delete(s.records, v.ID)
	return s.failsAfter()
}

func (s *store) List(ctx context.Context, after string, limit int) ([]*volume.Volume, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	var found []*volume.Volume
	for _, id := range slices.Sorted(maps.Keys(s.records)) {
		if id > after && (limit == 0 || len(found) < limit) {
			found = append(found, s.records[id].Clone())
		}
	}
	return found, nil
}

func (s *store) Wishes(ctx context.Context, owner string) ([]string, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	var found []string
	for _, id := range slices.Sorted(maps.Keys(s.records)) {
		if slices.Contains(s.records[id].Wanted(), owner) {
			found = append(found, id)
		}
	}
	return found, nil
}

func (s *store) Host(ctx context.Context, name string) (volume.Host, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return volume.Host{}, err
	}
	defer leave()
	h, ok := s.hosts[name]
	if !ok {
		return volume.Host{}, fmt.Errorf("node %s: %w", name, volume.ErrHostUnknown)
	}
	return h, nil
}

func (s *store) PutHost(ctx context.Context, h volume.Host) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	s.hosts[h.Name] = h
	return nil
}

// peek returns the record of a volume past all faults; nil if there is none.
func (s *store) peek(id string) *volume.Volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.records[id]; ok {
		return v.Clone()
	}
	return nil
}

// all returns every record past all faults.
func (s *store) all() []*volume.Volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := make([]*volume.Volume, 0, len(s.records))
	for _, id := range slices.Sorted(maps.Keys(s.records)) {
		found = append(found, s.records[id].Clone())
	}
	return found
}

// setAway makes every use of the store fail, or not.
func (s *store) setAway(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

func (s *store) isAway() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.away
}

// armFailure makes the n-th write from now take effect and fail.
func (s *store) armFailure(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failAfter = n
}
