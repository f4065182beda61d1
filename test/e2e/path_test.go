//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/node/mount"
	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
	"github.com/holdfast-csi/holdfast/test/e2e/guest"
	"github.com/holdfast-csi/holdfast/test/vm/agent"
	"github.com/holdfast-csi/holdfast/test/vm/load"
)

// waitWrites waits until n more writes have reached the disk.
func (v *volume) waitWrites(t *testing.T, n int) {
	t.Helper()
	deadline := time.Now().Add(long)
	for target := v.disk.written() + n; v.disk.written() < target; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("writes do not go on")
		}
	}
}

// startLoad writes to a device until stopLoad.
func (m *machine) startLoad(t *testing.T, device string) *agent.Load {
	t.Helper()
	l, err := m.OpenLoad(t.Context(), agent.LoadSpec{Path: device, Blocks: 1024})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if err := l.Run(t.Context(), load.Mix{Writers: 1}); err != nil {
		t.Fatal(err)
	}
	return l
}

// stopLoad ends a load that must not have seen anything.
func stopLoad(t *testing.T, l *agent.Load) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	r, err := l.Pause(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d writes, longest pause %v", r.Writes, r.LongestPause.Round(time.Millisecond))
	if r, err = l.Verify(ctx); err != nil || r.Errors != 0 || r.DifferingBytes != 0 {
		t.Errorf("got %+v, %v", r, err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestIOMovesBetweenPathsByANAState(t *testing.T) {
	m := sharedMachine(t)
	v := newVolume(t, 64*mib)
	a := serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)
	b := serve(t, v, 101, nvmetcp.ANAInaccessible, anyPort)
	device := m.connect(t, v.target(a))
	writing := m.startLoad(t, device)

	var p nvmeof.PathState
	add := guest.Args{Target: v.target(a), Address: b.address}
	m.must(t, "ConnectPath", add, &p)
	if p.State != nvmeof.StateLive || p.ANAState != nvmeof.ANAInaccessible || p.CNTLID < 101 {
		t.Fatalf("the second path is %+v", p)
	}
	m.must(t, "ConnectPath", add, nil)

	from, to := a, b
	for range 4 {
		from.setANA(t, nvmetcp.ANAInaccessible)
		to.setANA(t, nvmetcp.ANAOptimized)
		v.waitWrites(t, 20)
		from, to = to, from
	}
	stopLoad(t, writing)
	var paths []nvmeof.PathState
	m.must(t, "Paths", guest.Args{NQN: v.nqn}, &paths)
	if len(paths) != 2 {
		t.Errorf("paths: %+v", paths)
	}
}

// The order of fact 24: the new path is there, inaccessible; the old controller
// is deleted; only then may the new path serve.
func TestFailoverFromDeadPathLosesNothing(t *testing.T) {
	for name, die := range map[string]func(*export){
		"killed": func(e *export) { e.Kill() },
		"hung":   func(e *export) { e.SetHung(true) },
	} {
		t.Run(name, func(t *testing.T) {
			m := sharedMachine(t)
			v := newVolume(t, 64*mib)
			a := serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)
			device := m.connect(t, v.target(a))
			writing := m.startLoad(t, device)
			v.waitWrites(t, 20)
			die(a)
			b := serve(t, v, 101, nvmetcp.ANAInaccessible, anyPort)
			m.must(t, "ConnectPath", guest.Args{Target: v.target(a), Address: b.address}, nil)
			begin := time.Now()
			m.must(t, "DisconnectPath", guest.Args{NQN: v.nqn, Address: a.address}, nil)
			t.Logf("the kernel took %v to delete the old path", time.Since(begin).Round(time.Millisecond))
			b.setANA(t, nvmetcp.ANAOptimized)
			v.waitWrites(t, 20)
			stopLoad(t, writing)
			var d nvmeof.Device
			m.must(t, "Device", guest.Args{NQN: v.nqn, NSUUID: v.nsUUID}, &d)
			if d.Path != device {
				t.Errorf("the device was %s and is %s", device, d.Path)
			}
		})
	}
}

func TestConnectUsesThePathThatLives(t *testing.T) {
	m := sharedMachine(t)
	v := newVolume(t, 64*mib)
	gone := serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)
	gone.Kill()
	hung := serve(t, v, 101, nvmetcp.ANAOptimized, anyPort)
	hung.SetHung(true)
	lives := serve(t, v, 201, nvmetcp.ANAOptimized, anyPort)
	m.connect(t, v.target(gone, hung, lives))
	var paths []nvmeof.PathState
	m.must(t, "Paths", guest.Args{NQN: v.nqn}, &paths)
	if len(paths) != 1 || paths[0].Address != lives.address || paths[0].ANAState != nvmeof.ANAOptimized {
		t.Errorf("paths: %+v", paths)
	}
}

func TestConnectWaitsWhileEveryPathIsInaccessible(t *testing.T) {
	m := sharedMachine(t)
	v := newVolume(t, 64*mib)
	e := serve(t, v, 1, nvmetcp.ANAInaccessible, anyPort)
	t.Cleanup(func() { m.must(t, "Disconnect", guest.Args{NQN: v.nqn}, nil) })
	err := m.Do(short, "Connect", guest.Args{Target: v.target(e)}, nil)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	t.Log(err)
	e.setANA(t, nvmetcp.ANAOptimized)
	m.connect(t, v.target(e))
}

// Scenario 8: the old device is held by a mount when the volume is connected
// again, so that the kernel gives it another name.
func TestRenamedDeviceIsFoundByItsUUID(t *testing.T) {
	m := sharedMachine(t)
	v := newVolume(t, 64*mib)
	e := serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)
	target := v.target(e)
	device := m.mountNew(t, v, target, mount.Ext4)
	m.sh(t, fmt.Sprintf("echo kept > %s/file; sync", dir(v)))
	m.must(t, "Disconnect", guest.Args{NQN: v.nqn}, nil)

	var renamed string
	m.must(t, "Connect", guest.Args{Target: target}, &renamed)
	if renamed == device {
		t.Errorf("the device is %s again although that is held open", device)
	}
	var d nvmeof.Device
	m.must(t, "Device", guest.Args{NQN: v.nqn, NSUUID: v.nsUUID}, &d)
	if d.Path != renamed {
		t.Errorf("connected as %s, found as %s", renamed, d.Path)
	}
	// The dead mount is in the way, is recognized, and goes.
	if err := m.Do(long, "Mount", guest.Args{Device: renamed, Path: dir(v), FSType: mount.Ext4}, nil); !errors.Is(err, mount.ErrOtherMount) {
		t.Errorf("mounting over the dead mount: %v", err)
	}
	m.must(t, "Unmount", guest.Args{Path: dir(v)}, nil)
	m.mount(t, v, renamed, mount.Ext4)
	if out := m.sh(t, "cat "+dir(v)+"/file"); out != "kept\n" {
		t.Errorf("read %q", out)
	}
}

// Scenario 8 without multipath: each controller has a disk of its own.
func TestWithoutMultipath(t *testing.T) {
	m := ownMachine(t, "nvme_core.multipath=N")
	v := newVolume(t, 64*mib)
	a := serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)
	b := serve(t, v, 101, nvmetcp.ANAOptimized, anyPort)
	if err := m.Do(long, "Connect", guest.Args{Target: v.target(a, b)}, nil); !errors.Is(err, nvmeof.ErrUnsupported) {
		t.Errorf("two paths without multipath: %v", err)
	}
	device := m.connect(t, v.target(a))
	var d nvmeof.Device
	m.must(t, "Device", guest.Args{NQN: v.nqn, NSUUID: v.nsUUID}, &d)
	if d.Path != device || d.SizeBytes != 64*mib {
		t.Errorf("connected as %s, found %+v", device, d)
	}
	if err := m.Do(long, "ConnectPath", guest.Args{Target: v.target(a), Address: b.address}, nil); !errors.Is(err, nvmeof.ErrUnsupported) {
		t.Errorf("a second path without multipath: %v", err)
	}
	m.must(t, "Format", guest.Args{Device: device, Format: mount.FormatOptions{FSType: mount.Ext4}}, nil)
	m.mount(t, v, device, mount.Ext4)
}
