package remote

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// serveSnapshots adds the methods of volume.SnapshotStore.
func serveSnapshots(mux *http.ServeMux, s volume.SnapshotStore) {
	mux.HandleFunc("GET "+pathSnapshots+"/{id}", func(w http.ResponseWriter, r *http.Request) {
		sn, err := s.GetSnapshot(r.Context(), r.PathValue("id"))
		if err != nil {
			refuse(w, r, err)
			return
		}
		reply(w, r, packSnapshot(sn))
	})
	mux.HandleFunc("GET "+pathSnapshots, func(w http.ResponseWriter, r *http.Request) { listSnapshots(w, r, s) })
	mux.HandleFunc("POST "+pathSnapshots, changeSnapshot(func(r *http.Request, sn *volume.Snapshot) error { return s.CreateSnapshot(r.Context(), sn) }))
	mux.HandleFunc("PUT "+pathSnapshots, changeSnapshot(func(r *http.Request, sn *volume.Snapshot) error { return s.UpdateSnapshot(r.Context(), sn) }))
	mux.HandleFunc("DELETE "+pathSnapshots, changeSnapshot(func(r *http.Request, sn *volume.Snapshot) error { return s.DeleteSnapshot(r.Context(), sn) }))
	mux.HandleFunc("GET "+pathWishes+"/{owner}", func(w http.ResponseWriter, r *http.Request) {
		ids, err := s.Wishes(r.Context(), r.PathValue("owner"))
		if err != nil {
			refuse(w, r, err)
			return
		}
		reply(w, r, ids)
	})
}

func changeSnapshot(method func(*http.Request, *volume.Snapshot) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in snapshotRecord
		err := read(r, &in)
		if err == nil && in.Snapshot == nil {
			err = errors.New("the request has no record")
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		sn := in.unpack()
		if err := method(r, sn); err != nil {
			refuse(w, r, err)
			return
		}
		reply(w, r, snapshotRecord{Revision: sn.Revision})
	}
}

func listSnapshots(w http.ResponseWriter, r *http.Request, s volume.SnapshotStore) {
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil || limit < 0 {
		http.Error(w, "limit must be a number, 0 for none", http.StatusBadRequest)
		return
	}
	found, err := s.ListSnapshots(r.Context(), r.URL.Query().Get("after"), limit)
	if err != nil {
		refuse(w, r, err)
		return
	}
	records := make([]snapshotRecord, 0, len(found))
	for _, sn := range found {
		records = append(records, packSnapshot(sn))
	}
	reply(w, r, records)
}
