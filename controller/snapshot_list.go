package controller

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// ListSnapshots implements csi.ControllerServer. It lists the snapshots that were taken and are not being deleted, without those that only
// clones need. A token is the ID of the last snapshot of the page before it.
func (s *Server) ListSnapshots(ctx context.Context, req *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	token, limit := req.GetStartingToken(), int(req.GetMaxEntries())
	switch {
	case limit < 0:
		return nil, invalid("max_entries %d must not be negative", limit)
	case token != "" && !volume.ValidSnapshotID(token):
		return nil, status.Errorf(codes.Aborted, "starting_token %q is none that a list has given; start again without one", token)
	}
	if req.GetSnapshotId() != "" {
		return s.listSnapshot(ctx, req)
	}
	resp := &csi.ListSnapshotsResponse{}
	for {
		page, err := s.store.ListSnapshots(ctx, token, snapshotPage)
		if err != nil {
			return nil, err
		}
		for _, sn := range page {
			token = sn.ID
			if !listed(sn, req) {
				continue
			}
			if limit > 0 && len(resp.Entries) == limit {
				resp.NextToken = resp.Entries[limit-1].Snapshot.SnapshotId
				return resp, nil
			}
			resp.Entries = append(resp.Entries, &csi.ListSnapshotsResponse_Entry{Snapshot: describeSnapshot(sn)})
		}
		if len(page) < snapshotPage {
			return resp, nil
		}
	}
}

// snapshotPage is how many records are read at a time.
const snapshotPage = 100

// listSnapshot lists the one snapshot that is asked for, or none.
func (s *Server) listSnapshot(ctx context.Context, req *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	resp := &csi.ListSnapshotsResponse{}
	if !volume.ValidSnapshotID(req.GetSnapshotId()) {
		return resp, nil
	}
	sn, err := s.store.GetSnapshot(ctx, req.GetSnapshotId())
	switch {
	case errors.Is(err, volume.ErrNoSnapshot):
	case err != nil:
		return nil, err
	case listed(sn, req):
		resp.Entries = append(resp.Entries, &csi.ListSnapshotsResponse_Entry{Snapshot: describeSnapshot(sn)})
	}
	return resp, nil
}

// GetSnapshot implements csi.ControllerServer: what ListSnapshots says of one snapshot.
func (s *Server) GetSnapshot(ctx context.Context, req *csi.GetSnapshotRequest) (*csi.GetSnapshotResponse, error) {
	id := req.GetSnapshotId()
	if id == "" {
		return nil, invalid("snapshot_id is empty")
	}
	list, err := s.listSnapshot(ctx, &csi.ListSnapshotsRequest{SnapshotId: id})
	if err != nil {
		return nil, err
	}
	if len(list.Entries) == 0 {
		return nil, fmt.Errorf("%w: %q", volume.ErrNoSnapshot, id)
	}
	return &csi.GetSnapshotResponse{Snapshot: list.Entries[0].Snapshot}, nil
}

func listed(sn *volume.Snapshot, req *csi.ListSnapshotsRequest) bool {
	return sn.Phase == volume.SnapshotReady && sn.For == "" && (req.GetSourceVolumeId() == "" || sn.Source == req.GetSourceVolumeId())
}
