package node

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/node/mount"
	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// SecretPassphrase is the key of the passphrase of an encrypted volume among the secrets of NodeStageVolume and NodeExpandVolume: 1 to
// mount.MaxPassphraseBytes bytes, used as they are.
const SecretPassphrase = "encryptionPassphrase"

// Encryption makes, opens, grows and closes LUKS devices. *mount.Mounter is the real one.
type Encryption interface {
	FormatLUKS(ctx context.Context, device string, o mount.LUKSOptions) error
	OpenLUKS(ctx context.Context, device, name string, passphrase []byte, readOnly bool) (mount.Mapping, error)
	ResizeLUKS(ctx context.Context, name string, passphrase []byte) (mount.Mapping, error)
	CloseLUKS(ctx context.Context, name string) error
	Mapping(name string) (at mount.Mapping, open bool, err error)
}

// disk is what a volume's file system is on, and what a pod gets of a raw block volume: the volume's block device, or what an encrypted
// one is open as.
type disk struct {
	path     string
	bytes    int64
	readOnly bool
}

func plain(d nvmeof.Device) disk { return disk{path: d.Path, bytes: d.SizeBytes, readOnly: d.ReadOnly} }

func opened(m mount.Mapping) disk {
	return disk{path: m.Path, bytes: m.SizeBytes, readOnly: m.ReadOnly}
}

// passphrase returns what opens an encrypted volume. Its errors never show any of it.
func passphrase(secrets map[string]string) ([]byte, error) {
	secret := secrets[SecretPassphrase]
	switch {
	case secret == "":
		return nil, invalid("secrets: the volume is encrypted, and there is no %s; name a Secret that has it in the StorageClass, "+
			"as csi.storage.k8s.io/node-stage-secret-name and csi.storage.k8s.io/node-expand-secret-name with their namespaces", SecretPassphrase)
	case len(secret) > mount.MaxPassphraseBytes:
		return nil, invalid("secrets: %s has %d bytes; the most are %d", SecretPassphrase, len(secret), mount.MaxPassphraseBytes)
	}
	return []byte(secret), nil
}

// open opens an encrypted volume that is attached, and makes its header first if it never had one. What a predecessor of this process has
// open on the same device is taken as it is; what is open on a device that is gone is closed, if nothing holds it.
func (s *Server) open(ctx context.Context, v *volume.Volume, device nvmeof.Device, secret []byte, readOnly bool) (*volume.Volume, disk, error) {
	name := volume.MappingName(v.UUID)
	at, open, err := s.encryption.Mapping(name)
	switch {
	case err != nil:
		return nil, disk{}, err
	case open && at.Below != device.Name:
		klog.FromContext(ctx).Info("Encrypted volume is open on a device that is gone; it is closed", "volumeID", v.ID, "was", at.Below, "is", device.Name)
		if err := s.closeMapping(ctx, v.UUID); err != nil {
			return nil, disk{}, fmt.Errorf("%w; end the pods that use it, so that it is unstaged", err)
		}
		open = false
	case open && at.ReadOnly != readOnly:
		return nil, disk{}, fmt.Errorf("%w: it is staged as raw block, read-only: %t; unstage it first", volume.ErrPrecondition, at.ReadOnly)
	}
	if !open {
		if v, err = s.ensureHeader(ctx, v, device, secret, readOnly); err != nil {
			return nil, disk{}, err
		}
		if at, err = s.encryption.OpenLUKS(ctx, device.Path, name, secret, readOnly); err != nil {
			return nil, disk{}, err
		}
	}
	if v.GrowingFrom == 0 && at.SizeBytes < device.SizeBytes-volume.LUKSHeaderBytes {
		if grown, err := s.encryption.ResizeLUKS(ctx, name, secret); err == nil {
			at = grown
		} else {
			klog.FromContext(ctx).Error(err, "Encrypted volume that has grown is used at its former size; NodeExpandVolume tries again", "volumeID", v.ID)
		}
	}
	return v, opened(at), nil
}

// ensureHeader makes the LUKS header of a volume that never had one. What is on record and what the device reads must agree:
//
//	on record   device reads blank   device reads as LUKS   device reads otherwise
//	none        make it              refuse: not ours       refuse
//	making      make it              make it                make it: one was cut short, nothing was ever written through it
//	made        refuse: data lost    use it                 refuse
//
// A header that was begun is made anew even if it looks whole: whether it has a key slot, and whose passphrase opens that, is not known.
func (s *Server) ensureHeader(ctx context.Context, v *volume.Volume, device nvmeof.Device, secret []byte, readOnly bool) (*volume.Volume, error) {
	content, err := s.fs.Probe(ctx, device.Path)
	if err != nil {
		return nil, fmt.Errorf("find out what is on %s (it is not encrypted while that is unknown): %w", device.Path, err)
	}
	header := v.FileSystem.LUKS
	switch luks := content.FSType == mount.LUKSType; {
	case header == volume.FileSystemMade && luks:
		return v, nil
	case header == volume.FileSystemMade && content.Blank:
		return nil, fmt.Errorf("%w: device %s reads blank, but the record says that it was encrypted; its data seems to be lost, and it is not encrypted again", volume.ErrPrecondition, device.Path)
	case header == volume.FileSystemMade, header == volume.FileSystemNone && !content.Blank:
		return nil, fmt.Errorf("%w: device %s holds %s, which is not what the record says; it is neither used nor encrypted, so as not to lose what is there", volume.ErrPrecondition, device.Path, describe(content))
	case v.FileSystem.State != volume.FileSystemNone:
		return nil, fmt.Errorf("%w: the record knows of its %s, but not of its encryption; it is not encrypted, so as not to lose what is there", volume.ErrPrecondition, v.FileSystem.Type)
	case readOnly:
		return nil, fmt.Errorf("%w: it was never encrypted and is to be read only; stage it for writing once", volume.ErrPrecondition)
	}
	if _, err := s.recordHeader(ctx, v.ID, volume.FileSystemMaking); err != nil {
		return nil, err
	}
	o := mount.LUKSOptions{Passphrase: secret, SectorBytes: device.BlockSize, Unfinished: header == volume.FileSystemMaking}
	if err := s.encryption.FormatLUKS(ctx, device.Path, o); err != nil {
		return nil, err
	}
	klog.FromContext(ctx).V(2).Info("Volume encrypted", "volumeID", v.ID)
	return s.recordHeader(ctx, v.ID, volume.FileSystemMade)
}

// recordHeader puts on record how far the header is. Of several nodes that stage a volume only its owner makes one, or each would overwrite
// what the other has made.
func (s *Server) recordHeader(ctx context.Context, id string, state volume.FileSystemState) (*volume.Volume, error) {
	return volume.Modify(ctx, s.store, id, func(v *volume.Volume) (bool, error) {
		if v.Owner != s.name {
			return false, fmt.Errorf("%w: node %s encrypts it first; stage it here again when it is staged there", volume.ErrBusy, v.Owner)
		}
		changed := v.FileSystem.LUKS != state
		v.FileSystem.LUKS = state
		return changed, nil
	})
}

// closeMapping closes what a volume of that UUID is open as, unless it is held; none is success. It does no I/O.
func (s *Server) closeMapping(ctx context.Context, u uuid.UUID) error {
	name := volume.MappingName(u)
	at, open, err := s.encryption.Mapping(name)
	if err != nil {
		return err
	}
	if open {
		inUse, err := s.fs.InUse(ctx, at.Path)
		if err != nil {
			return fmt.Errorf("close %s: %w", name, err)
		}
		if inUse {
			return fmt.Errorf("%w: %s (%s) is still held, by a file system that is being written back or by a process; it stays open", volume.ErrBusy, name, at.Path)
		}
	}
	return s.encryption.CloseLUKS(ctx, name)
}

// usedDisk returns the disk of a volume that is staged here.
func (s *Server) usedDisk(ctx context.Context, st *staged) (disk, error) {
	if !st.Encrypted {
		device, err := s.fabrics.Device(ctx, st.NQN, st.UUID)
		return plain(device), err
	}
	at, open, err := s.encryption.Mapping(volume.MappingName(st.UUID))
	if err == nil && !open {
		err = fmt.Errorf("%w: its encrypted device is not open; call NodeStageVolume first", volume.ErrPrecondition)
	}
	return opened(at), err
}
