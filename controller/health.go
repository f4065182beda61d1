package controller

import (
	"context"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/driver/health"
	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// sightAge is how long a look at all SPDK nodes serves calls for volume health: a CO asks for one volume after the other.
const sightAge = 5 * time.Second

// sights keeps the last look at all SPDK nodes, and what lvols the last sweep saw.
type sights struct {
	// asking has room for the one that asks the nodes: whoever comes meanwhile waits for the same answer.
	asking chan struct{}

	mu     sync.Mutex
	at     time.Time
	sight  condition.Sight
	stocks map[string]*condition.Stock
}

// keep enters what lvols a sweep saw.
func (s *sights) keep(stocks map[string]lvolStock, at time.Time) {
	kept := map[string]*condition.Stock{}
	for name, st := range stocks {
		if st.err == nil {
			kept[name] = &condition.Stock{At: at, LvStores: st.lvstores, Lvols: st.lvols}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stocks = kept
}

// fresh returns the last look if it is not too old.
func (s *sights) fresh(now time.Time) (condition.Sight, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sight, s.sight != nil && now.Sub(s.at) < sightAge
}

// look returns how all SPDK nodes are, from a while ago at the most. A dead node costs one time-out for all calls of that while.
func (s *Server) look(ctx context.Context) (condition.Sight, error) {
	select {
	case s.sights.asking <- struct{}{}:
		defer func() { <-s.sights.asking }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if sight, ok := s.sights.fresh(s.clock.Now()); ok {
		return sight, nil
	}
	// The answer serves other callers too, so that it doesn't end with this one.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), inventoryTimeout)
	defer cancel()
	at := s.clock.Now()
	sight := condition.Look(ctx, s.cluster, s.cluster.Names()...)
	s.sights.mu.Lock()
	defer s.sights.mu.Unlock()
	for name, seen := range sight {
		seen.Stock = s.sights.stocks[name]
		sight[name] = seen
	}
	s.sights.at, s.sights.sight = at, sight
	return sight, nil
}

// ControllerGetVolumeHealth implements csi.ControllerServer. It tells how the volume's replicas are and what it runs on, by its record and a
// look at the SPDK nodes.
func (s *Server) ControllerGetVolumeHealth(ctx context.Context, req *csi.ControllerGetVolumeHealthRequest) (*csi.ControllerGetVolumeHealthResponse, error) {
	if req.GetVolumeId() == "" {
		return nil, invalid("volume_id is empty")
	}
	if _, err := s.get(ctx, req.GetVolumeId()); err != nil {
		return nil, err // before a look at all nodes for nothing
	}
	sight, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	v, err := s.get(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeHealthResponse{VolumeHealth: health.Of(v.ID, condition.Findings(v, sight))}, nil
}

// ControllerListVolumeHealth implements csi.ControllerServer. It lists the volumes with which something is wrong. A token is the ID of the
// last of them on the page before it, so that a list goes on where it was although volumes come, go, fail and heal.
func (s *Server) ControllerListVolumeHealth(ctx context.Context, req *csi.ControllerListVolumeHealthRequest) (*csi.ControllerListVolumeHealthResponse, error) {
	token, limit := req.GetStartingToken(), int(req.GetMaxEntries())
	switch {
	case limit < 0:
		return nil, invalid("max_entries %d must not be negative", limit)
	case token != "" && !volume.ValidID(token):
		return nil, status.Errorf(codes.Aborted, "starting_token %q is none that a list has given; start again without one", token)
	}
	sight, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	volumes, err := s.store.List(ctx, token, 0)
	if err != nil {
		return nil, err
	}
	resp := &csi.ControllerListVolumeHealthResponse{}
	for _, v := range volumes {
		findings := condition.Findings(v, sight)
		if len(findings) == 0 {
			continue
		}
		if limit > 0 && len(resp.Entries) == limit {
			resp.NextToken = resp.Entries[limit-1].VolumeId
			break
		}
		resp.Entries = append(resp.Entries, health.Of(v.ID, findings))
	}
	return resp, nil
}
