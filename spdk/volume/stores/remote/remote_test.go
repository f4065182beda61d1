package remote_test

import (
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/bolt"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/remote"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/storetest"
)

func open(t *testing.T) *remote.Store {
	t.Helper()
	dir := t.TempDir()
	store, err := bolt.Open(filepath.Join(dir, "volumes.db"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: remote.Handler(store)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	client, err := remote.New("unix://"+path, spdk.TLSFiles{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		server.Close()
		<-served
		store.Close()
	})
	return client
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) volume.Store { return open(t) })
}

func TestStoreThatIsAwayIsNoMissingRecord(t *testing.T) {
	s, err := remote.New("unix://"+filepath.Join(t.TempDir(), "absent"), spdk.TLSFiles{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Get(t.Context(), volume.IDFor("one"))
	if err == nil || strings.Contains(err.Error(), volume.ErrNotFound.Error()) {
		t.Fatalf("got %v", err)
	}
}
