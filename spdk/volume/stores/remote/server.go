package remote

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Handler serves a store.
func Handler(s volume.Store) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathVolumes+"/{id}", func(w http.ResponseWriter, r *http.Request) {
		v, err := s.Get(r.Context(), r.PathValue("id"))
		if err != nil {
			refuse(w, r, err)
			return
		}
		reply(w, r, pack(v))
	})
	mux.HandleFunc("GET "+pathVolumes, func(w http.ResponseWriter, r *http.Request) { list(w, r, s) })
	change := func(method func(r *http.Request, v *volume.Volume) error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			var in record
			err := read(r, &in)
			if err == nil && in.Volume == nil {
				err = errors.New("the request has no record")
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			v := in.unpack()
			if err := method(r, v); err != nil {
				refuse(w, r, err)
				return
			}
			reply(w, r, record{Revision: v.Revision})
		}
	}
	mux.HandleFunc("POST "+pathVolumes, change(func(r *http.Request, v *volume.Volume) error { return s.Create(r.Context(), v) }))
	mux.HandleFunc("PUT "+pathVolumes, change(func(r *http.Request, v *volume.Volume) error { return s.Update(r.Context(), v) }))
	mux.HandleFunc("DELETE "+pathVolumes, change(func(r *http.Request, v *volume.Volume) error { return s.Delete(r.Context(), v) }))
	mux.HandleFunc("GET "+pathHosts+"/{name}", func(w http.ResponseWriter, r *http.Request) {
		h, err := s.Host(r.Context(), r.PathValue("name"))
		if err != nil {
			refuse(w, r, err)
			return
		}
		reply(w, r, h)
	})
	mux.HandleFunc("PUT "+pathHosts, func(w http.ResponseWriter, r *http.Request) {
		var h volume.Host
		if err := read(r, &h); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if err := s.PutHost(r.Context(), h); err != nil {
			refuse(w, r, err)
			return
		}
		reply(w, r, h)
	})
	serveSnapshots(mux, s)
	serveCordons(mux, s)
	return mux
}

func list(w http.ResponseWriter, r *http.Request, s volume.Store) {
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil || limit < 0 {
		http.Error(w, "limit must be a number, 0 for none", http.StatusBadRequest)
		return
	}
	volumes, err := s.List(r.Context(), r.URL.Query().Get("after"), limit)
	if err != nil {
		refuse(w, r, err)
		return
	}
	records := make([]record, 0, len(volumes))
	for _, v := range volumes {
		records = append(records, pack(v))
	}
	reply(w, r, records)
}

// read decodes a request's body.
func read(r *http.Request, into any) error {
	decoder := json.NewDecoder(io.LimitReader(r.Body, maxBody))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("the request can't be decoded: %w", err)
	}
	return nil
}

func reply(w http.ResponseWriter, r *http.Request, body any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(body); err != nil {
		klog.FromContext(r.Context()).V(2).Info("Answer was not taken", "err", err)
	}
}

func refuse(w http.ResponseWriter, r *http.Request, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusConflict)
	reply(w, r, failureOf(err))
}
