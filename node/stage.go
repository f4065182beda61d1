package node

import (
	"context"
	"fmt"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/node/mount"
	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// NodeStageVolume implements csi.NodeServer: the volume is attached, opened if it is encrypted and, unless it is raw block, mounted at the
// staging path.
func (s *Server) NodeStageVolume(ctx context.Context, req *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	id, path := req.GetVolumeId(), req.GetStagingTargetPath()
	switch {
	case id == "":
		return nil, invalid("volume_id is empty")
	case path == "":
		return nil, invalid("staging_target_path is empty")
	}
	a, err := readAccess(req.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	unlock, err := s.locks.Try(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.stage(ctx, id, path, a, req.GetSecrets()); err != nil {
		return nil, fmt.Errorf("stage volume %s at %s: %w", id, path, err)
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

func (s *Server) stage(ctx context.Context, id, path string, a access, secrets map[string]string) error {
	st, err := s.state.load(id)
	if err != nil {
		return err
	}
	if st != nil && (st.Path != path || st.Block != a.block) {
		return fmt.Errorf("%w: it is staged at %s (raw block: %t); unstage it there first", volume.ErrIncompatible, st.Path, st.Block)
	}
	v, err := s.get(ctx, id)
	if err != nil {
		return err
	}
	if _, err := s.cluster.HostKeys(v, volume.HostNQN(s.name)); err != nil {
		return err
	}
	var secret []byte
	if v.Parameters.Encrypted() {
		if secret, err = passphrase(secrets); err != nil {
			return err
		}
	}
	first := !v.StagedToWriteOn(s.name)
	if v, err = s.own(ctx, id); err != nil {
		return err
	}
	if first {
		s.watcher.add(id).setIdle(true)
	}
	v, device, err := s.attach(ctx, v, st, path, a)
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	if !v.Fits(device.SizeBytes) {
		return fmt.Errorf("%w: device %s has %d bytes, the record says %d; nothing was written to it", volume.ErrPrecondition, device.Path, device.SizeBytes, v.SizeBytes)
	}
	p := v.Publication(s.name)
	readOnly := a.readOnly || !p.Writes()
	a.shared = a.shared || p.Mode == volume.AccessMultiNodeReaderOnly
	at := plain(device)
	if v.Parameters.Encrypted() {
		if v, at, err = s.open(ctx, v, device, secret, a.block && readOnly); err != nil {
			return err
		}
	}
	if a.block {
		if v.Parameters.Encrypted() {
			return nil // it was opened so
		}
		return s.fabrics.SetReadOnly(ctx, v.NQN(), v.UUID, readOnly)
	}
	if err := s.mountFileSystem(ctx, v, at, path, a, readOnly); err != nil {
		return err
	}
	klog.FromContext(ctx).V(2).Info("Volume staged", "volumeID", id, "device", at.path, "path", path)
	return nil
}

// mountFileSystem mounts the file system on a disk, which is made if there never was one, and grown if the disk has grown.
func (s *Server) mountFileSystem(ctx context.Context, v *volume.Volume, at disk, path string, a access, readOnly bool) error {
	if a.fsType == "" {
		a.fsType = v.Parameters.FSType
	}
	v, err := s.ensureFileSystem(ctx, v, at, a.fsType, readOnly)
	if err != nil {
		return err
	}
	if err := s.mounts.Mount(ctx, at.path, path, a.fsType, a.mountFlags(), readOnly); err != nil {
		return err
	}
	if !readOnly && v.GrowingFrom == 0 && v.FileSystem.SizeBytes < at.bytes {
		if err := s.growFileSystem(ctx, v, at, path); err != nil {
			klog.FromContext(ctx).Error(err, "File system of a volume that has grown can't be grown; NodeExpandVolume tries again", "volumeID", v.ID, "path", path)
		}
	}
	return nil
}

// attachLimit bounds one attempt to attach: while it lasts, a raid host that turns out to be lost isn't left.
const attachLimit = 20 * time.Second

// attach connects this machine to the volume, where it runs now, and returns its record and device. A switch that an earlier owner has
// left halfway is finished first, and a volume that was being grown is grown. One that can't be is used at the size that it surely has.
func (s *Server) attach(ctx context.Context, v *volume.Volume, st *staged, path string, a access) (*volume.Volume, nvmeof.Device, error) {
	none := nvmeof.Device{}
	if st != nil && st.NQN != v.NQN() {
		if err := s.letGo(ctx, st); err != nil {
			return nil, none, err
		}
		st = nil
	}
	if st == nil {
		if err := s.state.save(&staged{VolumeID: v.ID, NQN: v.NQN(), UUID: v.UUID, Path: path, Block: a.block, Encrypted: v.Parameters.Encrypted()}); err != nil {
			return nil, none, err
		}
	}
	wv := s.watcher.add(v.ID)
	release, err := wv.hold(ctx)
	if err != nil {
		return nil, none, err
	}
	defer release()
	if v, err = s.get(ctx, v.ID); err != nil {
		return nil, none, err
	}
	guest := v.Owner != s.name
	if guest {
		if v, err = s.arriveAsGuest(ctx, wv, v); err != nil {
			return nil, none, err
		}
	} else if v, err = s.arriveAsOwner(ctx, wv, v); err != nil {
		return nil, none, err
	}
	target, err := s.target(v)
	if err != nil {
		return nil, none, err
	}
	limited, cancel := context.WithTimeout(ctx, attachLimit)
	defer cancel()
	if _, err := s.fabrics.Connect(limited, target); err != nil {
		return nil, none, err
	}
	wv.setIdle(false)
	if v.GrowingFrom > 0 && !guest {
		if _, err := s.watcher.grow(limited, wv, v); err != nil {
			klog.FromContext(ctx).Info("Volume is staged before it has grown", "volumeID", v.ID, "err", err)
		}
		if v, err = s.get(ctx, v.ID); err != nil {
			return nil, none, err
		}
	}
	device, err := s.fabrics.WaitSize(limited, target.NQN, target.NSUUID, v.LeastBytes())
	return v, device, err
}

// arriveAsOwner readies a volume that is this node's for this machine to attach it: a switch that was cut short is finished, and its raid has no legs that
// may differ in what was under way when this machine was lost.
func (s *Server) arriveAsOwner(ctx context.Context, wv *watchedVolume, v *volume.Volume) (*volume.Volume, error) {
	if v.Assembly == nil {
		return v, nil
	}
	if !v.Assembly.Held {
		return s.watcher.readAlike(ctx, wv, v)
	}
	v, err := s.watcher.heedGivingUp(ctx, wv, v, true)
	if err != nil {
		return nil, err
	}
	if err := s.watcher.resumeSwitch(ctx, wv, v); err != nil {
		return nil, err
	}
	return s.get(ctx, v.ID)
}

// letGo detaches an earlier volume of the same name that was deleted without having been unstaged here.
func (s *Server) letGo(ctx context.Context, st *staged) error {
	klog.FromContext(ctx).Info("An earlier volume of the same name is still attached; it is detached", "volumeID", st.VolumeID, "nqn", st.NQN)
	if err := s.mounts.Unmount(ctx, st.Path); err != nil {
		return fmt.Errorf("let go of an earlier volume of the same name: %w", err)
	}
	if err := s.closeMapping(ctx, st.UUID); err != nil {
		return fmt.Errorf("let go of an earlier volume of the same name: %w", err)
	}
	if err := s.fabrics.Disconnect(ctx, st.NQN); err != nil {
		return fmt.Errorf("let go of an earlier volume of the same name: %w", err)
	}
	return nil
}

// own takes the volume for this node, before anything is attached, and returns its record. Of a volume that another node has staged and
// that is published to both, this one is a guest; one that became another node's when its owner was lost, and that isn't staged there, is this
// node's. A volume that is not published here, or is held by a node that it isn't published to any more, is refused.
func (s *Server) own(ctx context.Context, id string) (*volume.Volume, error) {
	return volume.Modify(ctx, s.store, id, func(v *volume.Volume) (bool, error) {
		switch {
		case v.Publication(s.name) == nil:
			return false, fmt.Errorf("%w: it is not published to node %s; call ControllerPublishVolume first", volume.ErrPrecondition, s.name)
		case v.Owner != "" && v.Publication(v.Owner) == nil:
			return false, fmt.Errorf("%w: node %s has it staged", volume.ErrInUse, v.Owner)
		}
		p, owner := v.Publication(s.name), v.Publication(v.Owner)
		before, was := *p, v.Owner
		switch {
		case was == "":
			v.VoidSnapshot("the volume was staged while it was taken") // it counts on nobody writing
			v.Owner = s.name
		case !owner.Staged:
			v.Owner, owner.Inherits = s.name, false
		}
		p.Staged = true
		if v.Owner == s.name {
			p.Inherits = false
		}
		return v.Owner != was || *p != before, nil
	})
}

// ensureFileSystem makes the file system that is asked for, on a volume that never had one. What is on record and what the device
// reads must agree:
//
//	on record   device reads blank   device reads as asked   device reads otherwise
//	none        make it              refuse: not ours        refuse
//	making      make it              put it on record        make it: a mkfs of ours was cut short, nothing was ever mounted
//	made        refuse: data lost    use it                  refuse
//
// It returns the record as it is then.
func (s *Server) ensureFileSystem(ctx context.Context, v *volume.Volume, at disk, fsType string, readOnly bool) (*volume.Volume, error) {
	device := at.path
	if fs := v.FileSystem; fs.State == volume.FileSystemMade && fs.Type != fsType {
		return nil, fmt.Errorf("%w: it was formatted as %s, asked for is %s", volume.ErrPrecondition, fs.Type, fsType)
	}
	content, err := s.fs.Probe(ctx, device)
	if err != nil {
		return nil, fmt.Errorf("find out what is on %s (it is not formatted while that is unknown): %w", device, err)
	}
	switch made := v.FileSystem.State == volume.FileSystemMade; {
	case made && content.FSType == fsType:
		return v, nil
	case made && content.Blank:
		return nil, fmt.Errorf("%w: device %s reads blank, but the record says that it was formatted as %s; its data seems to be lost, and it is not formatted again", volume.ErrPrecondition, device, fsType)
	case content.FSType == fsType && v.FileSystem.State == volume.FileSystemMaking:
		return s.recordFileSystem(ctx, v.ID, volume.FileSystem{Type: fsType, State: volume.FileSystemMade})
	case content.FSType == fsType:
		return nil, fmt.Errorf("%w: device %s holds a %s that the record knows nothing of, which may be what another volume has left in the same place; it is neither used nor formatted", volume.ErrPrecondition, device, fsType)
	case made || !content.Blank && v.FileSystem.State != volume.FileSystemMaking:
		return nil, fmt.Errorf("%w: device %s holds %s, asked for is %s; it is not formatted, so as not to lose what is there", volume.ErrPrecondition, device, describe(content), fsType)
	case readOnly:
		return nil, fmt.Errorf("%w: it was never formatted and is to be read only; stage it for writing once", volume.ErrPrecondition)
	}
	return s.format(ctx, v, at, fsType)
}

func (s *Server) format(ctx context.Context, v *volume.Volume, at disk, fsType string) (*volume.Volume, error) {
	unfinished := v.FileSystem.State == volume.FileSystemMaking
	if _, err := s.recordFileSystem(ctx, v.ID, volume.FileSystem{Type: fsType, State: volume.FileSystemMaking}); err != nil {
		return nil, err
	}
	if err := v.Parameters.CheckMkfs(fsType); err != nil {
		return nil, fmt.Errorf("%w: %w", volume.ErrPrecondition, err)
	}
	if err := s.fs.Format(ctx, at.path, mount.FormatOptions{FSType: fsType, Args: v.Parameters.MkfsArgs(fsType), Unfinished: unfinished}); err != nil {
		return nil, err
	}
	klog.FromContext(ctx).V(2).Info("Volume formatted", "volumeID", v.ID, "fsType", fsType)
	return s.recordFileSystem(ctx, v.ID, volume.FileSystem{Type: fsType, State: volume.FileSystemMade, SizeBytes: at.bytes})
}

// recordFileSystem puts a file system on record. What lies below it stays.
func (s *Server) recordFileSystem(ctx context.Context, id string, fs volume.FileSystem) (*volume.Volume, error) {
	return volume.Modify(ctx, s.store, id, func(v *volume.Volume) (bool, error) {
		fs.LUKS = v.FileSystem.LUKS
		changed := v.FileSystem != fs
		v.FileSystem = fs
		return changed, nil
	})
}

func describe(c mount.Content) string {
	switch {
	case c.FSType != "":
		return c.FSType
	case c.PartTable != "":
		return "a partition table (" + c.PartTable + ")"
	}
	return "data of unknown kind"
}
