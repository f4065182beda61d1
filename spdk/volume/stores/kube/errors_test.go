package kube

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/spdk/volume/stores/storetest"
)

// at returns a store at an API server that gives every request the same answer.
func at(t *testing.T, code int, body string) *Store {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(server.Close)
	s, err := Open(t.Context(), &rest.Config{Host: server.URL}, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestKindThatIsNotServedIsNotAnAbsentRecord(t *testing.T) {
	s := at(t, http.StatusNotFound, "404 page not found")
	v := storetest.Volume("one")
	_, getErr := s.Get(t.Context(), v.ID)
	_, hostErr := s.Host(t.Context(), "n")
	_, snapshotErr := s.GetSnapshot(t.Context(), volume.SnapshotIDFor("s"))
	for name, err := range map[string]error{
		"get": getErr, "update": s.Update(t.Context(), v), "delete": s.Delete(t.Context(), v), "host": hostErr, "snapshot": snapshotErr,
	} {
		if err == nil || errors.Is(err, volume.ErrNotFound) || errors.Is(err, volume.ErrHostUnknown) || errors.Is(err, volume.ErrNoSnapshot) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestAPIServerThatIsAwayIsNoAnswerAboutARecord(t *testing.T) {
	for name, s := range map[string]*Store{
		"unavailable":  at(t, http.StatusServiceUnavailable, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"ServiceUnavailable","code":503}`),
		"unauthorized": at(t, http.StatusUnauthorized, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Unauthorized","code":401}`),
	} {
		v := storetest.Volume("one")
		_, err := s.Get(t.Context(), v.ID)
		for what, err := range map[string]error{"get": err, "create": s.Create(t.Context(), v), "update": s.Update(t.Context(), v)} {
			for _, sentinel := range []error{volume.ErrNotFound, volume.ErrConflict, volume.ErrExists} {
				if err == nil || errors.Is(err, sentinel) {
					t.Errorf("%s of %s: got %v", what, name, err)
				}
			}
		}
	}
}

func TestCallEndsWithItsContext(t *testing.T) {
	s := at(t, http.StatusOK, "{}")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Get(ctx, volume.IDFor("one")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestNameThatNoObjectCanHaveIsRefused(t *testing.T) {
	s := at(t, http.StatusOK, "{}")
	for _, err := range []error{s.PutHost(t.Context(), volume.Host{Name: "Upper_Case"}), s.SetCordon(t.Context(), "a/b", true)} {
		if err == nil {
			t.Error("a name that is none was taken")
		}
	}
}
