package userspace

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
)

// blockMajor is the major number of NVMe disks on Linux (include/uapi/linux/major.h, BLOCK_EXT_MAJOR).
const blockMajor = 259

// Connect implements node.Fabrics with the meaning that nvmeof.Host gives it. A device that was disconnected never gets its name
// again: whoever kept the name finds nothing.
func (m *Machine) Connect(ctx context.Context, t nvmeof.Target) (string, error) {
	return do(m, OpConnect, func() (string, error) {
		path, err := m.connect(ctx, t)
		if err != nil {
			return "", fmt.Errorf("connect %s: %w", t.NQN, err)
		}
		return path, nil
	})
}

func (m *Machine) connect(ctx context.Context, t nvmeof.Target) (string, error) {
	if t.NQN == "" || t.HostNQN == "" || t.NSUUID == uuid.Nil || t.HostID == uuid.Nil || len(t.Paths) == 0 {
		return "", fmt.Errorf("%w: it needs an NQN, a host NQN, both UUIDs and a path", nvmeof.ErrInvalid)
	}
	d, err := m.diskFor(t)
	if err != nil {
		return "", err
	}
	pathErr := addPaths(ctx, d.head, t)
	if err := awaitNamespace(ctx, d.head); err != nil {
		m.dropDead(d)
		return "", errors.Join(err, pathErr)
	}
	if pathErr != nil {
		m.o.Logger.Info("A path is not connected", "nqn", t.NQN, "err", pathErr.Error())
	}
	return d.path, nil
}

// diskFor returns the target's disk, a new one without paths if there is none or it is dead.
func (m *Machine) diskFor(t nvmeof.Target) (*disk, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := m.disks[t.NQN]; d != nil && !d.dead() {
		if d.hostNQN != t.HostNQN {
			return nil, fmt.Errorf("%w: as %s, wanted is %s; disconnect it first", nvmeof.ErrForeign, d.hostNQN, t.HostNQN)
		}
		return d, nil
	} else if d != nil {
		m.forgetLocked(d)
	}
	name := fmt.Sprintf("nvme%dn1", m.made)
	d := &disk{
		nqn: t.NQN, hostNQN: t.HostNQN, nsUUID: t.NSUUID, name: name, path: filepath.Join(m.o.Dir, name), minor: uint32(m.made),
		head: nvmetcp.NewHead(nvmetcp.HeadConfig{
			SubNQN: t.NQN, HostNQN: t.HostNQN, HostID: t.HostID, UUID: t.NSUUID, Dial: m.o.Dial, Logger: m.o.Logger,
		}),
	}
	note := fmt.Sprintf("namespace %s of %s\n", t.NSUUID, t.NQN)
	if err := os.WriteFile(d.path, []byte(note), 0o600); err != nil {
		return nil, fmt.Errorf("make the placeholder of a device: %w", err)
	}
	m.made++
	m.disks[t.NQN] = d
	return d, nil
}

// addPaths connects the paths that are not there yet, all at once.
func addPaths(ctx context.Context, head *nvmetcp.Head, t nvmeof.Target) error {
	have := head.Paths()
	errs := make([]error, len(t.Paths))
	var wg sync.WaitGroup
	for i, p := range t.Paths {
		if slices.ContainsFunc(have, func(info nvmetcp.PathInfo) bool { return info.Addr == p.Address }) {
			continue
		}
		wg.Go(func() {
			err := head.AddPath(ctx, nvmetcp.PathConfig{
				Addr: p.Address, IOQueues: min(t.IOQueues, 1), KATO: seconds(t.KeepAliveSec),
				ReconnectDelay: seconds(t.ReconnectDelaySec), CtrlLossTimeout: seconds(t.CtrlLossSec), Auth: authentication(t),
			})
			errs[i] = classify(err)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// authentication is how the machine proves itself to a target, and has the target prove itself; nil is not at all.
func authentication(t nvmeof.Target) *nvmetcp.HostAuth {
	if t.HostKey.Empty() {
		return nil
	}
	source := func(s nvmeof.Secret) nvmetcp.KeySource {
		return func() (string, error) { return s.Text(), nil }
	}
	return &nvmetcp.HostAuth{Key: source(t.HostKey), ControllerKey: source(t.ControllerKey)}
}

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }

// classify tells a target that refused from one that did not answer.
func classify(err error) error {
	var status *nvmetcp.StatusError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &status), errors.Is(err, nvmetcp.ErrAuthFailed), errors.Is(err, nvmetcp.ErrAuthKeyMissing):
		return fmt.Errorf("%w: %w", nvmeof.ErrRejected, err)
	}
	return fmt.Errorf("%w: %w", nvmeof.ErrUnreachable, err)
}

// awaitNamespace returns when I/O can go to the namespace, or no path is left to wait for.
func awaitNamespace(ctx context.Context, head *nvmetcp.Head) error {
	for {
		changed, paths := head.Changed(), head.Paths()
		if slices.ContainsFunc(paths, serves) && !head.Gone() {
			return nil
		}
		if len(paths) == 0 || head.Gone() {
			return nvmeof.ErrNotConnected
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("no path serves the namespace (%+v): %w", paths, context.Cause(ctx))
		}
	}
}

func serves(p nvmetcp.PathInfo) bool {
	return p.State == nvmetcp.PathLive && p.NSID != 0 && (p.ANAState == nvmetcp.ANAOptimized || p.ANAState == nvmetcp.ANANonOptimized)
}

// dead says that a disk has no path left, or had its namespace and has it on no path any more: whatever is connected later, the kernel
// makes another disk of it.
func (d *disk) dead() bool { return d.head.Gone() || len(d.head.Paths()) == 0 }

// dropDead forgets a disk that is dead.
func (m *Machine) dropDead(d *disk) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.disks[d.nqn] == d && d.dead() {
		m.forgetLocked(d)
	}
}

func (m *Machine) forgetLocked(d *disk) {
	_ = d.head.Close() // it never fails
	delete(m.disks, d.nqn)
	if err := os.Remove(d.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.o.Logger.Info("A placeholder of a device is left behind", "path", d.path, "err", err.Error())
	}
}

// Disconnect implements node.Fabrics: absent is success. When ctx ends the connections are dropped without a word to the target.
func (m *Machine) Disconnect(ctx context.Context, nqn string) error {
	return m.perform(OpDisconnect, func() error {
		m.mu.Lock()
		d := m.disks[nqn]
		m.mu.Unlock()
		if d == nil {
			return nil
		}
		var wg sync.WaitGroup
		for _, p := range d.head.Paths() {
			wg.Go(func() {
				if err := d.head.RemovePath(ctx, p.Addr); err != nil {
					m.o.Logger.V(4).Info("A path went by itself", "nqn", nqn, "addr", p.Addr, "err", err.Error())
				}
			})
		}
		wg.Wait()
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.disks[nqn] == d {
			m.forgetLocked(d)
		}
		return nil
	})
}

// Device implements node.Fabrics.
func (m *Machine) Device(_ context.Context, nqn string, nsUUID uuid.UUID) (nvmeof.Device, error) {
	return do(m, OpDevice, func() (nvmeof.Device, error) {
		d, err := m.attached(nqn, nsUUID)
		if err != nil {
			return nvmeof.Device{}, err
		}
		return d.device(), nil
	})
}

func (d *disk) device() nvmeof.Device {
	nsid := 0
	for _, p := range d.head.Paths() {
		nsid = max(nsid, int(p.NSID))
	}
	return nvmeof.Device{
		Path: d.path, Name: d.name, UUID: d.nsUUID, NSID: nsid, SizeBytes: d.head.SizeBytes(), BlockSize: d.head.BlockSize(),
		Major: blockMajor, Minor: d.minor, ReadOnly: d.isReadOnly(),
	}
}

// WaitSize implements node.Fabrics.
func (m *Machine) WaitSize(ctx context.Context, nqn string, nsUUID uuid.UUID, bytes int64) (nvmeof.Device, error) {
	return do(m, OpWaitSize, func() (nvmeof.Device, error) {
		d, err := m.attached(nqn, nsUUID)
		if err != nil {
			return nvmeof.Device{}, err
		}
		for {
			changed, size := d.head.Changed(), d.head.SizeBytes()
			if size >= bytes {
				return d.device(), nil
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return d.device(), fmt.Errorf("namespace %s of %s has %d bytes, want %d: %w", nsUUID, nqn, size, bytes, context.Cause(ctx))
			}
		}
	})
}

// SetReadOnly implements node.Fabrics.
func (m *Machine) SetReadOnly(_ context.Context, nqn string, nsUUID uuid.UUID, readOnly bool) error {
	return m.perform(OpSetReadOnly, func() error {
		d, err := m.attached(nqn, nsUUID)
		if err == nil {
			d.setReadOnly(readOnly)
		}
		return err
	})
}

// attached returns the disk of a namespace, whether or not a path to it works now.
func (m *Machine) attached(nqn string, nsUUID uuid.UUID) (*disk, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.disks[nqn]
	if d == nil || d.nsUUID != nsUUID || d.head.Gone() || !slices.ContainsFunc(d.head.Paths(), func(p nvmetcp.PathInfo) bool { return p.NSID != 0 }) {
		return nil, fmt.Errorf("namespace %s of %s: %w", nsUUID, nqn, nvmeof.ErrNotConnected)
	}
	return d, nil
}
