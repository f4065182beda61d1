//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
	"github.com/holdfast-csi/holdfast/test/e2e/guest"
	"github.com/holdfast-csi/holdfast/test/vm"
)

const (
	mib     = int64(1) << 20
	hostNQN = "nqn.2024-01.dev.holdfast:host:e2e"
	group   = 1 // ANA group of the one namespace
)

var hostID = uuid.MustParse("0f0e0d0c-1111-4222-8333-444455556666")

// volume is a disk and the identity by which any number of targets export it.
type volume struct {
	nqn    string
	nsUUID uuid.UUID
	disk   *disk
}

func newVolume(t *testing.T, size int64) *volume {
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	return &volume{
		nqn:    fmt.Sprintf("nqn.2024-01.dev.holdfast:e2e:%.60s-%s", name, uuid.NewString()[:8]),
		nsUUID: uuid.New(), disk: &disk{size: size, chunks: map[int64][]byte{}},
	}
}

// export is a target that serves a volume.
type export struct {
	*nvmetcp.Target
	subsystem *nvmetcp.Subsystem
	listen    string // as the target knows it
	address   string // as the guest does
}

// serve exports v at an address of its own, or at listen.
func serve(t *testing.T, v *volume, minCNTLID uint16, state nvmetcp.ANAState, listen string) *export {
	t.Helper()
	e := &export{Target: nvmetcp.NewTarget(nvmetcp.TargetConfig{KeepAliveUnits: 5, MinKATO: 2 * time.Second})}
	t.Cleanup(func() { e.Kill() })
	if err := e.Listen(listen); err != nil {
		t.Fatal(err)
	}
	e.listen = e.Addr()
	_, port, err := net.SplitHostPort(e.listen)
	if err != nil {
		t.Fatal(err)
	}
	e.address = net.JoinHostPort(vm.HostAddress, port)
	e.subsystem, err = e.AddSubsystem(nvmetcp.SubsystemConfig{
		NQN: v.nqn, ANAReporting: true, MinCNTLID: minCNTLID, MaxCNTLID: minCNTLID + 99,
	})
	if err != nil {
		t.Fatal(err)
	}
	e.subsystem.AllowHost(hostNQN)
	if err := errors.Join(
		e.subsystem.AddNamespace(nvmetcp.NamespaceConfig{NSID: 1, Device: v.disk, UUID: v.nsUUID, NGUID: v.nsUUID, ANAGroupID: group}),
		e.subsystem.AddListener(e.listen),
		e.subsystem.SetANAState(e.listen, group, state),
	); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *export) setANA(t *testing.T, state nvmetcp.ANAState) {
	t.Helper()
	if err := e.subsystem.SetANAState(e.listen, group, state); err != nil {
		t.Fatal(err)
	}
}

// target says how to connect v through exports, with times for a short test.
func (v *volume) target(exports ...*export) nvmeof.Target {
	t := nvmeof.Target{
		NQN: v.nqn, NSUUID: v.nsUUID, HostNQN: hostNQN, HostID: hostID,
		KeepAliveSec: 2, ReconnectDelaySec: 1, CtrlLossSec: 600,
	}
	for _, e := range exports {
		t.Paths = append(t.Paths, nvmeof.Path{Address: e.address})
	}
	return t
}

// connect connects v and disconnects it when the test ends.
func (m *machine) connect(t *testing.T, target nvmeof.Target) (device string) {
	t.Helper()
	t.Cleanup(func() {
		if err := m.Do(long, "Disconnect", guest.Args{NQN: target.NQN}, nil); err != nil {
			t.Error(err)
		}
	})
	m.must(t, "Connect", guest.Args{Target: target}, &device)
	return device
}

// controllers counts the controllers of v.
func (m *machine) controllers(t *testing.T, v *volume) int {
	t.Helper()
	var all []nvmeof.Controller
	m.must(t, "Controllers", guest.Args{NQN: v.nqn}, &all)
	return len(all)
}

const chunkBytes = 64 << 10

// disk is memory that only holds what was written, and does as fault says.
type disk struct {
	mu     sync.Mutex
	size   int64
	chunks map[int64][]byte
	fault  func(ctx context.Context, op string, off, n int64) error
	writes int
}

// setFault has every later call ask f first.
func (d *disk) setFault(f func(ctx context.Context, op string, off, n int64) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = f
}

func (d *disk) ask(ctx context.Context, op string, off, n int64) error {
	d.mu.Lock()
	f := d.fault
	d.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(ctx, op, off, n)
}

func (d *disk) grow(size int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.size = size
}

// written counts writes, zeroing and unmapping.
func (d *disk) written() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writes
}

// copy is the disk's content on another disk: a clone of the volume.
func (d *disk) copy() *disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &disk{size: d.size, chunks: map[int64][]byte{}}
	for i, b := range d.chunks {
		c.chunks[i] = append([]byte(nil), b...)
	}
	return c
}

func (d *disk) BlockSize() int { return 4096 }

func (d *disk) SizeBytes() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.size
}

// each calls f with the pieces of a range, by chunk; d.mu is held.
func (d *disk) each(off, n int64, f func(chunk, from, length int64)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for n > 0 {
		length := min(n, chunkBytes-off%chunkBytes)
		f(off/chunkBytes, off%chunkBytes, length)
		off, n = off+length, n-length
	}
}

func (d *disk) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := d.ask(ctx, "read", off, int64(len(p))); err != nil {
		return err
	}
	d.each(off, int64(len(p)), func(chunk, from, length int64) {
		if b := d.chunks[chunk]; b != nil {
			copy(p[:length], b[from:])
		} else {
			clear(p[:length])
		}
		p = p[length:]
	})
	return nil
}

func (d *disk) WriteAt(ctx context.Context, p []byte, off int64) error {
	if err := d.ask(ctx, "write", off, int64(len(p))); err != nil {
		return err
	}
	d.each(off, int64(len(p)), func(chunk, from, length int64) {
		d.writes++
		if d.chunks[chunk] == nil {
			d.chunks[chunk] = make([]byte, chunkBytes)
		}
		copy(d.chunks[chunk][from:], p[:length])
		p = p[length:]
	})
	return nil
}

func (d *disk) WriteZeroes(ctx context.Context, off, n int64, _ bool) error {
	if err := d.ask(ctx, "zero", off, n); err != nil {
		return err
	}
	d.each(off, n, func(chunk, from, length int64) {
		d.writes++
		if b := d.chunks[chunk]; b != nil {
			clear(b[from : from+length])
		}
	})
	return nil
}

func (d *disk) Unmap(ctx context.Context, off, n int64) error {
	return d.WriteZeroes(ctx, off, n, true)
}

func (d *disk) Flush(ctx context.Context) error { return d.ask(ctx, "flush", 0, 0) }
