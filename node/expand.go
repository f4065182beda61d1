package node

import (
	"context"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// NodeExpandVolume implements csi.NodeServer. It succeeds when every replica that is a source, the raid, this machine's device, what that is
// open as if it is encrypted, and the file system have been read back with the size on record, and answers what a pod can use of it in bytes. Without a capacity range that is the aim.
func (s *Server) NodeExpandVolume(ctx context.Context, req *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	id, path := req.GetVolumeId(), req.GetVolumePath()
	switch {
	case id == "":
		return nil, invalid("volume_id is empty")
	case path == "":
		return nil, invalid("volume_path is empty")
	}
	if req.GetVolumeCapability() != nil {
		if _, err := readAccess(req.GetVolumeCapability()); err != nil {
			return nil, err
		}
	}
	unlock, err := s.locks.Try(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	bytes, err := s.expand(ctx, id, path, req)
	if err != nil {
		return nil, fmt.Errorf("expand volume %s at %s: %w", id, path, err)
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: bytes}, nil
}

func (s *Server) expand(ctx context.Context, id, path string, req *csi.NodeExpandVolumeRequest) (int64, error) {
	v, err := s.get(ctx, id)
	if err != nil {
		return 0, err
	}
	st, err := s.state.load(id)
	switch required, limit := req.GetCapacityRange().GetRequiredBytes(), req.GetCapacityRange().GetLimitBytes(); {
	case err != nil:
		return 0, err
	case st == nil || v.Publication(s.name) == nil || v.Owner == "":
		return 0, fmt.Errorf("%w: it is not staged on node %s; when it is, its file system is grown by that", volume.ErrPrecondition, s.name)
	case path != st.Path && !slices.Contains(st.Targets, path):
		return 0, fmt.Errorf("%w: volume %s is not at %s on this node", volume.ErrNotFound, id, path)
	case required > v.CapacityBytes():
		return 0, status.Errorf(codes.OutOfRange, "capacity_range: volume %s is to have %d bytes, required are %d; call ControllerExpandVolume first", id, v.CapacityBytes(), required)
	case limit > 0 && v.CapacityBytes() > limit:
		return 0, status.Errorf(codes.OutOfRange, "capacity_range: volume %s has %d bytes and can't be made smaller; limit_bytes is %d", id, v.CapacityBytes(), limit)
	}
	secret, err := s.expandSecret(ctx, st, v, req.GetSecrets())
	if err != nil {
		return 0, err
	}
	v, device, err := s.growRunning(ctx, id)
	if err != nil {
		return 0, err
	}
	at := plain(device)
	if st.Encrypted {
		if at, err = s.growMapping(ctx, st, v, secret); err != nil {
			return 0, err
		}
	}
	if !st.Block && v.FileSystem.SizeBytes < at.bytes {
		if err := s.growFileSystem(ctx, v, at, st.Path); err != nil {
			return 0, err
		}
	}
	return v.CapacityBytes(), nil
}

// expandSecret returns the passphrase of an encrypted volume that is open at a smaller size than the volume is to have; of another none is
// needed.
func (s *Server) expandSecret(ctx context.Context, st *staged, v *volume.Volume, secrets map[string]string) ([]byte, error) {
	if !st.Encrypted {
		return nil, nil
	}
	at, err := s.usedDisk(ctx, st)
	if err != nil || at.bytes >= v.CapacityBytes() {
		return nil, err
	}
	return passphrase(secrets)
}

// growMapping has what an encrypted volume is open as follow the volume's device, which has grown.
func (s *Server) growMapping(ctx context.Context, st *staged, v *volume.Volume, secret []byte) (disk, error) {
	at, err := s.usedDisk(ctx, st)
	if err != nil || at.bytes >= v.CapacityBytes() {
		return at, err
	}
	if secret == nil {
		return at, fmt.Errorf("%w: it was expanded again meanwhile", volume.ErrBusy)
	}
	m, err := s.encryption.ResizeLUKS(ctx, volume.MappingName(st.UUID), secret)
	return opened(m), err
}

// growRunning has what runs of a staged volume follow the record, and keeps the volume from being tended meanwhile. It returns the record
// and the device, which has the size that the record says.
func (s *Server) growRunning(ctx context.Context, id string) (*volume.Volume, nvmeof.Device, error) {
	wv := s.watcher.add(id)
	release, err := wv.hold(ctx)
	if err != nil {
		return nil, nvmeof.Device{}, err
	}
	defer release()
	v, err := s.get(ctx, id)
	if err != nil {
		return nil, nvmeof.Device{}, err
	}
	if v.Owner != s.name && v.GrowingFrom > 0 {
		return nil, nvmeof.Device{}, fmt.Errorf("%w: node %s, which looks after what runs of it, has not grown it yet", volume.ErrBusy, v.Owner)
	}
	if v.Owner != s.name {
		device, err := s.awaitSize(ctx, v)
		return v, device, err
	}
	if v.Assembly == nil || v.Assembly.Held || v.Assembly.Stopping {
		return nil, nvmeof.Device{}, fmt.Errorf("%w: it is being moved, published or given back", volume.ErrBusy)
	}
	had := v.Standby != nil
	if v, err = s.watcher.grow(ctx, wv, v); err != nil {
		return nil, nvmeof.Device{}, err
	}
	if v.GrowingFrom > 0 {
		return nil, nvmeof.Device{}, fmt.Errorf("%w: it was expanded again meanwhile", volume.ErrBusy)
	}
	device, err := s.awaitSize(ctx, v)
	if err != nil {
		return nil, nvmeof.Device{}, err
	}
	if had {
		if err := s.watcher.keepStandby(ctx, wv, v); err != nil { // the volume works without; it is tried again
			klog.FromContext(ctx).Info("Grown volume has no standby yet", "volumeID", id, "err", err)
		}
	}
	return v, device, nil
}

// awaitSize returns this machine's device when it has the size on record.
func (s *Server) awaitSize(ctx context.Context, v *volume.Volume) (nvmeof.Device, error) {
	ctx, cancel := context.WithTimeout(ctx, growLimit)
	defer cancel()
	return s.fabrics.WaitSize(ctx, v.NQN(), v.UUID, v.SizeBytes)
}

// growFileSystem grows the file system that is mounted at path to the size of its disk, and puts that on record.
func (s *Server) growFileSystem(ctx context.Context, v *volume.Volume, at disk, path string) error {
	mounted, err := s.mounts.Mounts(path)
	switch {
	case err != nil:
		return err
	case len(mounted) == 0:
		return fmt.Errorf("%w: nothing is mounted at %s; call NodeStageVolume first", volume.ErrPrecondition, path)
	case mounted[len(mounted)-1].ReadOnly:
		return fmt.Errorf("%w: its file system is mounted read-only at %s; it is grown when it is staged for writing", volume.ErrPrecondition, path)
	}
	if err := s.fs.Resize(ctx, at.path, path); err != nil {
		return err
	}
	fs := volume.FileSystem{Type: mounted[len(mounted)-1].FSType, State: volume.FileSystemMade, SizeBytes: at.bytes}
	if _, err := s.recordFileSystem(ctx, v.ID, fs); err != nil {
		return err
	}
	klog.FromContext(ctx).V(2).Info("File system has grown", "volumeID", v.ID, "path", path, "bytes", at.bytes)
	return nil
}
