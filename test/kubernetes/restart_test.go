package kubernetes_test

import (
	"context"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/storetest"
)

// TestAPIServerIsAwayUnderUse has a store in use while its API server goes away and comes back: meanwhile no answer says anything about a
// record, and afterwards every change that was reported as made is there.
func TestAPIServerIsAwayUnderUse(t *testing.T) {
	config := server(t)
	at, err := url.Parse(config.Host)
	must(t, err)
	api := newProxy(t, at.Host)
	config.Host = "https://" + api.address
	s := empty(t, config, "n")
	v := storetest.Volume("one")
	v.Assemblies = 0
	must(t, s.Create(t.Context(), v))
	wishesOnceThere(t, s, 0)
	increase := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := volume.Modify(ctx, s, v.ID, func(v *volume.Volume) (bool, error) {
			v.Assemblies++
			return true, nil
		})
		return err
	}
	must(t, increase())
	api.stop()
	for range 3 {
		if err := increase(); err == nil || errors.Is(err, volume.ErrNotFound) || errors.Is(err, volume.ErrConflict) {
			t.Fatalf("without an API server the answer is %v", err)
		}
	}
	if ids, err := s.Wishes(t.Context(), "n"); err != nil || len(ids) > 0 {
		t.Errorf("the watch, interrupted, says %v, %v", ids, err)
	}
	api.start()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for err := increase(); err != nil; err = increase() {
		if errors.Is(err, volume.ErrNotFound) || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Get(t.Context(), v.ID)
	must(t, err)
	if got.Assemblies < 2 {
		t.Errorf("%d of 2 changes are there", got.Assemblies)
	}
	_, err = volume.Modify(t.Context(), s, v.ID, func(v *volume.Volume) (bool, error) {
		v.Owner, v.Snapshot = "n", &volume.SnapshotWish{Snapshot: volume.SnapshotIDFor("s"), UUID: v.UUID, State: volume.WishWanted}
		return true, nil
	})
	must(t, err)
	wishesOnceThere(t, s, 1)
}
