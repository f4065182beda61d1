package remote

import (
	"context"
	"net/http"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Cordoned implements volume.CordonStore.
func (s *Store) Cordoned(ctx context.Context) ([]string, error) {
	var names []string
	err := s.call(ctx, http.MethodGet, pathCordons, nil, &names)
	return names, err
}

// SetCordon implements volume.CordonStore.
func (s *Store) SetCordon(ctx context.Context, node string, cordoned bool) error {
	var c cordon
	return s.call(ctx, http.MethodPut, pathCordons, cordon{Node: node, Cordoned: cordoned}, &c)
}

func serveCordons(mux *http.ServeMux, s volume.CordonStore) {
	mux.HandleFunc("GET "+pathCordons, func(w http.ResponseWriter, r *http.Request) {
		names, err := s.Cordoned(r.Context())
		if err != nil {
			refuse(w, r, err)
			return
		}
		reply(w, r, names)
	})
	mux.HandleFunc("PUT "+pathCordons, func(w http.ResponseWriter, r *http.Request) {
		var c cordon
		if err := read(r, &c); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if err := s.SetCordon(r.Context(), c.Node, c.Cordoned); err != nil {
			refuse(w, r, err)
			return
		}
		reply(w, r, c)
	})
}
