package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// defaultSizeBytes is a volume's size where the request names none.
const defaultSizeBytes = 1 << 30

// order is a validated CreateVolume request.
type order struct {
	name            string
	required, limit int64
	// least is what its file system needs.
	least      int64
	parameters volume.Parameters
	near       volume.Near
	// content is what it is made of; nil is nothing.
	content *volume.Content
}

// leastXFSBytes is the smallest device that mkfs.xfs takes (xfsprogs, mkfs/xfs_mkfs.c, validate_supported).
const leastXFSBytes = 300 << 20

// leastBytes returns the size below which a volume could not be formatted as asked for.
func leastBytes(capabilities []*csi.VolumeCapability, p volume.Parameters) int64 {
	for _, c := range capabilities {
		if c.GetMount() != nil && cmp.Or(c.GetMount().GetFsType(), p.FSType) == "xfs" {
			return leastXFSBytes
		}
	}
	return 0
}

// CreateVolume implements csi.ControllerServer.
func (s *Server) CreateVolume(ctx context.Context, req *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	o, err := readOrder(req)
	if err != nil {
		return nil, err
	}
	id := volume.IDFor(o.name)
	unlock, err := s.locks.Try(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.cluster.CheckKey(o.parameters); err != nil {
		return nil, fmt.Errorf("create volume %q: %w", o.name, err)
	}
	v, err := s.create(ctx, id, o)
	if err != nil {
		return nil, fmt.Errorf("create volume %q: %w", o.name, err)
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId: v.ID, CapacityBytes: v.CapacityBytes(), ContentSource: contentSource(v.Content), AccessibleTopology: s.accessible(v),
	}}, nil
}

func readOrder(req *csi.CreateVolumeRequest) (order, error) {
	if err := checkName(req.GetName()); err != nil {
		return order{}, err
	}
	if err := checkCapabilities(req.GetVolumeCapabilities()); err != nil {
		return order{}, invalid("%v", err)
	}
	content, err := readContent(req.GetVolumeContentSource())
	if err != nil {
		return order{}, err
	}
	parameters, err := volume.ParseClasses(req.GetParameters(), req.GetMutableParameters())
	if err != nil {
		return order{}, invalid("%v", err)
	}
	for _, c := range req.GetVolumeCapabilities() {
		if fs := c.GetMount().GetFsType(); fs != "" {
			if err := parameters.CheckMkfs(fs); err != nil {
				return order{}, invalid("%v", err)
			}
		}
	}
	required, limit, err := sizes(req.GetCapacityRange())
	if err != nil {
		return order{}, err
	}
	return order{
		name: req.GetName(), required: required, limit: limit, parameters: parameters, least: leastBytes(req.GetVolumeCapabilities(), parameters),
		near:    readNear(req.GetAccessibilityRequirements()),
		content: content,
	}, nil
}

// create finds the record of an earlier call or makes one, and sees to its replicas.
func (s *Server) create(ctx context.Context, id string, o order) (*volume.Volume, error) {
	v, err := s.store.Get(ctx, id)
	switch {
	case errors.Is(err, volume.ErrNotFound):
		record := s.record
		if o.content != nil {
			record = s.recordContent
		}
		if v, err = record(ctx, id, o); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case v.Phase == volume.PhaseDeleting:
		return nil, fmt.Errorf("%w: a volume of that name is still being deleted", volume.ErrBusy)
	default:
		if err := o.fits(v); err != nil {
			return nil, err
		}
		if !s.reaches(v, o.near) {
			return nil, fmt.Errorf("%w: it can be used from zones %v only, wanted is one of %v", volume.ErrIncompatible, s.zonesOf(v), o.near.Zones)
		}
	}
	switch {
	case v.Phase == volume.PhaseReady:
		return v, nil
	case v.Content != nil:
		return s.makeFromContent(ctx, v)
	}
	return s.makeReplicas(ctx, v)
}

// fits says whether a volume that exists is what is asked for.
func (o order) fits(v *volume.Volume) error {
	switch {
	case v.Name != o.name:
		return fmt.Errorf("%w: its name is %q", volume.ErrIncompatible, v.Name)
	case !v.Parameters.EqualButMutable(o.parameters) || !v.Modified && !v.Parameters.Equal(o.parameters):
		return fmt.Errorf("%w: its parameters are %+v, asked for are %+v", volume.ErrIncompatible, v.Parameters, o.parameters)
	case !sameContent(v.Content, o.content):
		return fmt.Errorf("%w: it was made of %+v, asked for is %+v", volume.ErrIncompatible, v.Content, o.content)
	case v.CapacityBytes() < o.required || o.limit > 0 && v.CapacityBytes() > o.limit:
		return fmt.Errorf("%w: it has %d bytes, asked for are %d to %d", volume.ErrIncompatible, v.CapacityBytes(), o.required, o.limit)
	}
	return nil
}

// record places a new volume and puts it on record, before anything of it exists.
func (s *Server) record(ctx context.Context, id string, o order) (*volume.Volume, error) {
	size, err := s.size(ctx, o)
	if err != nil {
		return nil, err
	}
	v := &volume.Volume{
		ID: id, Name: o.name, UUID: uuid.New(), SizeBytes: size, Parameters: o.parameters, Near: o.near, Phase: volume.PhaseCreating,
		CreatedAt: s.clock.Now().UTC(),
	}
	if err := s.place(ctx, v, nil); err != nil {
		return nil, err
	}
	if err := s.store.Create(ctx, v); err != nil {
		// After any other error the record may be there all the same, so that its promise is kept; the retry sets it right.
		if errors.Is(err, volume.ErrExists) {
			s.ledger.drop(id)
			return nil, fmt.Errorf("%w: another controller has just begun it", volume.ErrBusy)
		}
		return nil, err
	}
	return v, nil
}

// size returns the size of a volume that offers what is asked for, rounded up to what every lvstore that may be used can hold exactly. An
// encrypted volume's header comes on top.
func (s *Server) size(ctx context.Context, o order) (int64, error) {
	pools, down := s.inventory.pools(ctx, o.parameters)
	if len(pools) == 0 && down != nil {
		return 0, down
	}
	unit := int64(sizeUnit)
	for _, p := range pools {
		unit = max(unit, p.ClusterBytes)
	}
	want := o.required
	if want == 0 {
		want = defaultSizeBytes
		if o.limit > 0 {
			want = min(want, o.limit)
		}
	}
	want = max(want, o.least)
	const most = 1 << 60
	if want > most {
		return 0, status.Errorf(codes.OutOfRange, "capacity_range: %d bytes are more than any volume can have", want)
	}
	header := o.parameters.HeaderBytes()
	size := (want + header + unit - 1) / unit * unit
	if o.limit > 0 && size-header > o.limit {
		return 0, status.Errorf(codes.OutOfRange, "capacity_range: sizes are multiples of %d bytes, of which %d are not for the user, and none lies between %d and %d", unit, header, max(o.required, o.least), o.limit)
	}
	return size, nil
}

// makeReplicas makes the planned replicas. One whose node has no room after all, or doesn't answer, is given up and placed
// elsewhere; if there is no other place the volume is taken back and the reason returned.
func (s *Server) makeReplicas(ctx context.Context, v *volume.Volume) (*volume.Volume, error) {
	avoid := map[string]bool{}
	for {
		err := s.converger.Run(ctx, v)
		if err == nil {
			return s.ready(ctx, v.ID)
		}
		failed := s.lostForGood(ctx, failedReplicas(v, err), err)
		if len(failed) == 0 || ctx.Err() != nil {
			return nil, err
		}
		for _, r := range failed {
			klog.FromContext(ctx).V(2).Info("Replica can't be made here", "volumeID", v.ID, "replica", r.ID, "node", r.Node, "err", err)
			avoid[r.Node] = true
			s.inventory.forget(r.Node)
		}
		moved := v.Clone()
		for _, r := range failed {
			moved.SetReplicaState(r.ID, volume.ReplicaRemoving, s.clock.Now().UTC())
		}
		if placeErr := s.placeAgain(ctx, moved, avoid); errors.Is(placeErr, volume.ErrNodeDown) || errors.Is(placeErr, errCordonsUnknown) {
			return nil, errors.Join(err, placeErr) // a node that comes back may have the room: the retry goes on from here
		} else if placeErr != nil {
			return nil, s.takeBack(ctx, v, errors.Join(placeErr, err))
		}
		if err := s.store.Update(ctx, moved); err != nil {
			s.ledger.set(v)
			return nil, err
		}
		v = moved
	}
}

// placeAgain plans replicas in place of those that failed.
func (s *Server) placeAgain(ctx context.Context, v *volume.Volume, avoid map[string]bool) error {
	if v.Content == nil {
		return s.place(ctx, v, avoid)
	}
	sn, err := s.usableSnapshot(ctx, v.Content.Snapshot)
	if err != nil {
		return err
	}
	return s.placeContent(ctx, v, sn, avoid)
}

// failedReplicas returns the planned replicas that another place may serve better: their node doesn't answer, or has no room.
func failedReplicas(v *volume.Volume, err error) []volume.Replica {
	var failed []volume.Replica
	var blocked *converge.BlockedError
	var actions *converge.ActionsError
	errors.As(err, &blocked)
	errors.As(err, &actions)
	for _, r := range v.InState(volume.ReplicaPlanned) {
		cause := actions.Of(volume.CreateReplica, r.ID)
		if blocked.Waits(r.Node) || errors.Is(cause, spdk.ErrNoSpace) || errors.Is(cause, spdk.ErrUnreachable) {
			failed = append(failed, r)
		}
	}
	return failed
}

// ready puts on record that all replicas exist. They have never been written to, so they are alike; but of a volume that is made of something
// only the clones hold that.
func (s *Server) ready(ctx context.Context, id string) (*volume.Volume, error) {
	v, err := s.modify(ctx, id, func(v *volume.Volume) (bool, error) {
		for _, r := range v.InState(volume.ReplicaPlanned) {
			state := volume.ReplicaInSync
			if v.Content != nil && r.CloneOf == "" {
				state = volume.ReplicaOutOfSync
			}
			v.SetReplicaState(r.ID, state, s.clock.Now().UTC())
			v.Replica(r.ID).CloneOf = ""
		}
		v.Phase = volume.PhaseReady
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	klog.FromContext(ctx).V(2).Info("Volume created", "volumeID", v.ID, "bytes", v.SizeBytes, "replicas", len(v.InState(volume.ReplicaInSync)))
	return s.tidy(ctx, v)
}

// takeBack deletes what was made of a volume that can't be made whole. What can't be deleted now is left on record for Sweep.
func (s *Server) takeBack(ctx context.Context, v *volume.Volume, cause error) error {
	v, err := s.modify(ctx, v.ID, func(v *volume.Volume) (bool, error) {
		v.Phase = volume.PhaseDeleting
		return true, nil
	})
	if err == nil {
		err = s.finishDelete(ctx, v)
	}
	if err != nil {
		klog.FromContext(ctx).V(2).Info("What was made of a volume is deleted later", "err", err)
	}
	return cause
}
