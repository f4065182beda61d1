package bolt_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/bolt"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/storetest"
)

func open(t *testing.T, path string) *bolt.Store {
	t.Helper()
	s, err := bolt.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) volume.Store {
		s := open(t, filepath.Join(t.TempDir(), "volumes.db"))
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		return s
	})
}

func TestRecordsSurviveClosing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "volumes.db")
	s := open(t, path)
	v := storetest.Volume("one")
	if err := s.Create(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	defer s.Close()
	got, err := s.Get(t.Context(), v.ID)
	if err != nil || got.Revision != v.Revision || got.UUID != v.UUID {
		t.Fatalf("got %+v, %v", got, err)
	}
}

func TestPathThatCannotBeOpenedIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "absent", "volumes.db")
	if _, err := bolt.Open(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Fatalf("got %v", err)
	}
}
