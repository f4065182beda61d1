package driver

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// leases is an API server that has room for one lease. It compares resourceVersions.
type leases struct {
	mu      sync.Mutex
	lease   *coordinationv1.Lease
	version int
	away    bool
}

func (l *leases) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var in coordinationv1.Lease
	switch {
	case l.away:
		refuseWith(w, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable)
		return
	case r.Method != http.MethodGet:
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			refuseWith(w, http.StatusBadRequest, metav1.StatusReasonBadRequest)
			return
		}
	case l.lease == nil:
		refuseWith(w, http.StatusNotFound, metav1.StatusReasonNotFound)
		return
	}
	if r.Method == http.MethodPut && in.ResourceVersion != strconv.Itoa(l.version) || r.Method == http.MethodPost && l.lease != nil {
		refuseWith(w, http.StatusConflict, metav1.StatusReasonConflict)
		return
	}
	if r.Method != http.MethodGet {
		l.version++
		in.ResourceVersion = strconv.Itoa(l.version)
		l.lease = &in
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(l.lease)
}

func refuseWith(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Reason: reason, Code: int32(code)})
}

func serveLeases(t *testing.T) (*leases, *rest.Config) {
	t.Helper()
	l := &leases{}
	server := httptest.NewServer(l)
	t.Cleanup(server.Close)
	return l, &rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{AcceptContentTypes: "application/json", ContentType: "application/json"}}
}

func TestOneControllerActsAtATime(t *testing.T) {
	_, config := serveLeases(t)
	var acting sync.Mutex
	began := make(chan int, 2)
	lead := func(ctx context.Context, number int) error {
		return Lead(ctx, config, "ns", func(ctx context.Context) error {
			if !acting.TryLock() {
				return errors.New("two act at once")
			}
			defer acting.Unlock()
			began <- number
			<-ctx.Done()
			return nil
		})
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 2)
	stops := map[int]context.CancelFunc{}
	for number := range 2 {
		own, cancel := context.WithCancel(ctx)
		stops[number] = cancel
		go func() { ended <- lead(own, number) }()
	}
	first := <-began
	stops[first]()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if second := <-began; second == first {
		t.Errorf("%d leads again", second)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestControllerThatCanNotRenewItsLeaseEnds(t *testing.T) {
	if testing.Short() {
		t.Skip("a lease that can't be renewed is given up after 10 s: make healing")
	}
	l, config := serveLeases(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := Lead(ctx, config, "ns", func(ctx context.Context) error {
		l.mu.Lock()
		l.away = true
		l.mu.Unlock()
		<-ctx.Done()
		return nil
	})
	if !errors.Is(err, ErrLeadershipLost) || ctx.Err() != nil {
		t.Errorf("got %v", err)
	}
}

func TestControllerThatWaitsForItsTurnEndsWhenItIsStopped(t *testing.T) {
	l, config := serveLeases(t)
	l.away = true
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Lead(ctx, config, "ns", func(context.Context) error { return errors.New("it leads") }); err != nil {
		t.Error(err)
	}
}
