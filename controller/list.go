package controller

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// ControllerGetCapabilities implements csi.ControllerServer.
func (s *Server) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	resp := &csi.ControllerGetCapabilitiesResponse{}
	for _, c := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		csi.ControllerServiceCapability_RPC_PUBLISH_READONLY,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES_PUBLISHED_NODES,
		csi.ControllerServiceCapability_RPC_GET_VOLUME,
		csi.ControllerServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.ControllerServiceCapability_RPC_LIST_VOLUME_HEALTH,
		csi.ControllerServiceCapability_RPC_GET_CAPACITY,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csi.ControllerServiceCapability_RPC_MODIFY_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		resp.Capabilities = append(resp.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: c}},
		})
	}
	return resp, nil
}

// ListVolumes implements csi.ControllerServer. A token is the ID of the last volume of the page before it, so that a list goes on
// where it was although volumes come and go.
func (s *Server) ListVolumes(ctx context.Context, req *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	token, limit := req.GetStartingToken(), int(req.GetMaxEntries())
	switch {
	case limit < 0:
		return nil, invalid("max_entries %d must not be negative", limit)
	case token != "" && !volume.ValidID(token):
		return nil, status.Errorf(codes.Aborted, "starting_token %q is none that a list has given; start again without one", token)
	}
	ask := limit
	if limit > 0 {
		ask++ // one more tells whether there is a next page
	}
	volumes, err := s.store.List(ctx, token, ask)
	if err != nil {
		return nil, err
	}
	resp := &csi.ListVolumesResponse{}
	if limit > 0 && len(volumes) > limit {
		volumes = volumes[:limit]
		resp.NextToken = volumes[limit-1].ID
	}
	for _, v := range volumes {
		resp.Entries = append(resp.Entries, &csi.ListVolumesResponse_Entry{
			Volume: &csi.Volume{VolumeId: v.ID, CapacityBytes: v.CapacityBytes()},
			Status: &csi.ListVolumesResponse_VolumeStatus{PublishedNodeIds: publishedNodes(v)},
		})
	}
	return resp, nil
}

// ControllerGetVolume implements csi.ControllerServer.
func (s *Server) ControllerGetVolume(ctx context.Context, req *csi.ControllerGetVolumeRequest) (*csi.ControllerGetVolumeResponse, error) {
	if req.GetVolumeId() == "" {
		return nil, invalid("volume_id is empty")
	}
	v, err := s.get(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeResponse{
		Volume: &csi.Volume{VolumeId: v.ID, CapacityBytes: v.CapacityBytes()},
		Status: &csi.ControllerGetVolumeResponse_VolumeStatus{PublishedNodeIds: publishedNodes(v)},
	}, nil
}

func publishedNodes(v *volume.Volume) []string {
	nodes := make([]string, 0, len(v.Publications))
	for _, p := range v.Publications {
		nodes = append(nodes, p.Node)
	}
	return nodes
}

// ValidateVolumeCapabilities implements csi.ControllerServer.
func (s *Server) ValidateVolumeCapabilities(ctx context.Context, req *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	switch {
	case req.GetVolumeId() == "":
		return nil, invalid("volume_id is empty")
	case len(req.GetVolumeCapabilities()) == 0:
		return nil, invalid("volume_capabilities is empty")
	}
	v, err := s.get(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if err := checkCapabilities(req.GetVolumeCapabilities()); err != nil {
		//nolint:nilerr // that it can't be confirmed is the answer
		return &csi.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
	}
	if len(req.GetParameters()) > 0 {
		p, err := volume.ParseParameters(req.GetParameters())
		if err == nil && !p.Equal(v.Parameters) {
			err = fmt.Errorf("the volume was made with other parameters: %+v", v.Parameters)
		}
		if err != nil {
			//nolint:nilerr // that it can't be confirmed is the answer
			return &csi.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
		}
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext: req.GetVolumeContext(), VolumeCapabilities: req.GetVolumeCapabilities(), Parameters: req.GetParameters(),
	}}, nil
}

// GetCapacity implements csi.ControllerServer. The capacity is in bytes of volumes, each stored as often as the parameters ask.
func (s *Server) GetCapacity(ctx context.Context, req *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	p, err := volume.ParseParameters(req.GetParameters())
	if err != nil {
		return nil, invalid("%v", err)
	}
	if len(req.GetVolumeCapabilities()) > 0 && checkCapabilities(req.GetVolumeCapabilities()) != nil {
		//nolint:nilerr // there is no room for what can't be served
		return &csi.GetCapacityResponse{}, nil
	}
	zone := req.GetAccessibleTopology().GetSegments()[volume.TopologyZone]
	if p.Access == volume.AccessZone && req.GetAccessibleTopology() != nil && zone == "" {
		return &csi.GetCapacityResponse{}, nil // no volume can be used from outside all zones
	}
	largest, total, err := s.capacity(ctx, p, zone)
	if err != nil {
		return nil, fmt.Errorf("read the capacity of the SPDK nodes: %w", err)
	}
	return &csi.GetCapacityResponse{
		AvailableCapacity: total, MaximumVolumeSize: wrapperspb.Int64(largest), MinimumVolumeSize: wrapperspb.Int64(sizeUnit),
	}, nil
}
