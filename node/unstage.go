package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/uuid"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// NodeUnstageVolume implements csi.NodeServer. It succeeds when nothing is mounted at the staging path, no encrypted device is open and no
// controller of the volume is left, whether or not its target answers; then the node gives its ownership back.
func (s *Server) NodeUnstageVolume(ctx context.Context, req *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	id, path := req.GetVolumeId(), req.GetStagingTargetPath()
	switch {
	case id == "":
		return nil, invalid("volume_id is empty")
	case path == "":
		return nil, invalid("staging_target_path is empty")
	}
	unlock, err := s.locks.Try(id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.unstage(ctx, id, path); err != nil {
		return nil, fmt.Errorf("unstage volume %s from %s: %w", id, path, err)
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

func (s *Server) unstage(ctx context.Context, id, path string) error {
	st, err := s.state.load(id)
	if err != nil {
		return err
	}
	if st != nil && st.Path != path {
		// Staged elsewhere: this path only has to be free.
		return s.mounts.Unmount(ctx, path)
	}
	if err := s.mounts.Unmount(ctx, path); err != nil {
		return err
	}
	wv := s.watcher.add(id)
	release, err := wv.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	nqn, u, err := s.attachedAs(ctx, id, st)
	if err != nil {
		return err
	}
	lost := false
	if nqn != "" {
		if lost, err = s.lostWrites(ctx, wv); err != nil {
			return err
		}
		if err := s.detach(ctx, nqn, u); err != nil {
			return err
		}
		wv.setIdle(!lost)
	}
	if err := s.giveBack(ctx, wv, lost); err != nil {
		return err
	}
	s.watcher.remove(id)
	if err := s.state.remove(id); err != nil {
		return err
	}
	klog.FromContext(ctx).V(2).Info("Volume unstaged", "volumeID", id, "path", path)
	return nil
}

// lostWrites says whether a volume that is about to be detached is not reached where it runs: what was under way has failed, or fails with that.
func (s *Server) lostWrites(ctx context.Context, wv *watchedVolume) (bool, error) {
	v, err := s.get(ctx, wv.id)
	if notFound(err) {
		return false, nil
	}
	if err != nil || v.Assembly == nil || wv.isIdle() || !v.StagedToWriteOn(s.name) {
		return false, err
	}
	_, live := s.watcher.paths(ctx, v)
	return !live || v.Assembly.Held, nil
}

// detach closes a volume that is open and disconnects it, when nothing holds its device any more. umount takes a file system off mountinfo
// before it has written back what is dirty: as long as it hasn't, the device is in use although nothing is mounted.
func (s *Server) detach(ctx context.Context, nqn string, u uuid.UUID) error {
	if err := s.closeMapping(ctx, u); err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	device, err := s.fabrics.Device(ctx, nqn, u)
	if err == nil {
		inUse, err := s.fs.InUse(ctx, device.Path)
		if err != nil {
			return fmt.Errorf("detach: %w", err)
		}
		if inUse {
			return fmt.Errorf("%w: device %s is still held, by a file system that is being written back or by a process; it stays attached", volume.ErrBusy, device.Path)
		}
	}
	if err := s.fabrics.Disconnect(ctx, nqn); err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	return nil
}

// attachedAs returns what the volume is attached as: by the node's own note, else by the record. "" is a volume that neither knows.
func (s *Server) attachedAs(ctx context.Context, id string, st *staged) (nqn string, u uuid.UUID, err error) {
	if st != nil {
		return st.NQN, st.UUID, nil
	}
	v, err := s.get(ctx, id)
	switch {
	case notFound(err):
		return "", uuid.Nil, nil
	case err != nil:
		return "", uuid.Nil, err
	}
	return v.NQN(), v.UUID, nil
}

// giveBack gives the volume to another node that has it staged, or back to the controller. The last node looks a last time before. lost: what this
// machine had under way has failed; it is on all replicas all the same if the raid host is there still.
func (s *Server) giveBack(ctx context.Context, wv *watchedVolume, lost bool) error {
	for {
		v, err := s.get(ctx, wv.id)
		if notFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		last := v.Owner == s.name && len(v.Guests()) == 0
		if last {
			if err := s.watcher.last(ctx, wv); err != nil {
				return err
			}
		}
		if lost && v.Assembly != nil && v.InFlight == volume.InFlightNone {
			_, finished := s.watcher.legsOf(ctx, v, *v.Assembly)
			lost = !finished
		}
		err = s.disown(ctx, wv.id, last, lost)
		if !errors.Is(err, errNowLast) {
			return err
		}
	}
}

// errNowLast says that the other nodes have let go of the volume meanwhile.
var errNowLast = fmt.Errorf("%w: no other node has it staged any more", volume.ErrConflict)

// disown puts on record that this node has let go of the volume; last says that it looked for the last time, lost that replicas may differ in what it
// had under way.
func (s *Server) disown(ctx context.Context, id string, last, lost bool) error {
	_, err := volume.Modify(ctx, s.store, id, func(v *volume.Volume) (bool, error) {
		p, owned := v.Publication(s.name), v.Owner == s.name
		if !owned && (p == nil || !p.Staged) {
			return false, nil
		}
		alone := len(v.Guests()) == 0
		if owned && alone && !last {
			return false, errNowLast
		}
		if owned && alone && v.Snapshot != nil && v.Snapshot.State == volume.WishPausing {
			v.VoidSnapshot("the volume was unstaged while it was taken")
		}
		switch {
		case lost && v.StagedToWriteOn(s.name):
			v.InFlight, v.Review = volume.InFlightLost, !alone
		case owned && alone && v.InFlight == volume.InFlightResent:
			v.InFlight = volume.InFlightNone // all of it has had its answer
		}
		v.Unstage(s.name)
		return true, nil
	})
	if notFound(err) {
		return nil
	}
	return err
}
