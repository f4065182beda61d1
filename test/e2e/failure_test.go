//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/node/mount"
	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
	"github.com/holdfast-csi/holdfast/test/e2e/guest"
)

// short is the limit of what is expected to run out of time.
const short = 2 * time.Second

// Scenario 7: mkfs over live data when the probe failed.
func TestFailedProbeNeverFormats(t *testing.T) {
	unreadable := &nvmetcp.StatusError{SCT: nvmetcp.SCTMedia, SC: nvmetcp.SCUnrecoveredRead}
	for name, broken := range map[string]func(off, n int64) bool{
		"the whole device":                 func(int64, int64) bool { return true },
		"the superblock":                   func(off, _ int64) bool { return off < 4096 },
		"the end of the device":            func(off, n int64) bool { return off+n == 64*mib },
		"the place of a second superblock": func(off, n int64) bool { return off <= 32*mib && 32*mib < off+n },
		"what blkid does not read":         func(off, _ int64) bool { return off >= mib && off < 4*mib },
	} {
		t.Run(name, func(t *testing.T) {
			m := sharedMachine(t)
			v := newVolume(t, 64*mib)
			device := m.connect(t, v.target(serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)))
			v.disk.setFault(func(_ context.Context, op string, off, n int64) error {
				if op == "read" && broken(off, n) {
					return unreadable
				}
				return nil
			})
			before := v.disk.written()
			var c mount.Content
			if err := m.Do(long, "Probe", guest.Args{Device: device}, &c); err == nil {
				t.Errorf("the probe of an unreadable device answered %+v", c)
			} else {
				t.Log(err)
			}
			for fsType := range fileSystems {
				if err := m.Do(long, "Format", guest.Args{Device: device, Format: mount.FormatOptions{FSType: fsType}}, nil); err == nil {
					t.Errorf("an unreadable device was formatted with %s", fsType)
				}
			}
			v.disk.setFault(nil)
			if n := v.disk.written() - before; n != 0 {
				t.Errorf("%d writes reached the device", n)
			}
		})
	}
}

// Also scenario 7: data that no tool knows, and what is left of a file system
// whose head was wiped.
func TestUnknownDataIsNotBlank(t *testing.T) {
	m := sharedMachine(t)
	for name, make := range map[string]func(device string) string{
		"a byte in the head": func(d string) string { return "printf x | dd of=" + d + " bs=1 seek=3000000 conv=notrunc,fsync" },
		"a byte in the tail": func(d string) string { return "printf x | dd of=" + d + " bs=1 seek=268435000 conv=notrunc,fsync" },
		"ext4 without its head": func(d string) string {
			return "mkfs.ext4 -q " + d + "; dd if=/dev/zero of=" + d + " bs=1M count=4 conv=notrunc,fsync"
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVolume(t, 256*mib)
			device := m.connect(t, v.target(serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)))
			m.sh(t, make(device))
			var c mount.Content
			m.must(t, "Probe", guest.Args{Device: device}, &c)
			if c.Blank || c.FSType != "" {
				t.Errorf("got %+v", c)
			}
			if err := m.Do(long, "Format", guest.Args{Device: device, Format: mount.FormatOptions{FSType: mount.XFS}}, nil); !errors.Is(err, mount.ErrNotBlank) {
				t.Errorf("format: %v", err)
			}
		})
	}
}

// A crash in the middle of mkfs leaves a device that is not blank; only with that
// on record is it formatted again.
func TestUnfinishedFormatIsRepeatedOnlyWhenOnRecord(t *testing.T) {
	for fsType, size := range fileSystems {
		t.Run(fsType, func(t *testing.T) {
			m := sharedMachine(t)
			v := newVolume(t, size)
			device := m.connect(t, v.target(serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)))
			m.sh(t, "mkfs."+fsType+" -q "+device)
			format := guest.Args{Device: device, Format: mount.FormatOptions{FSType: fsType}}
			if err := m.Do(long, "Format", format, nil); !errors.Is(err, mount.ErrNotBlank) {
				t.Errorf("format: %v", err)
			}
			format.Format.Unfinished = true
			m.must(t, "Format", format, nil)
			m.mount(t, v, device, fsType)
		})
	}
}

func TestConnectErrorsSayWhatIsWrong(t *testing.T) {
	m := sharedMachine(t)
	v := newVolume(t, 64*mib)
	e := serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)
	gone := serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)
	gone.Kill()
	hung := serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)
	hung.SetHung(true)
	for name, c := range map[string]struct {
		change func(*nvmeof.Target)
		want   error
	}{
		"nobody listens":     {func(n *nvmeof.Target) { n.Paths[0].Address = gone.address }, nvmeof.ErrUnreachable},
		"the target hangs":   {func(n *nvmeof.Target) { n.Paths[0].Address = hung.address }, nvmeof.ErrUnreachable},
		"no such subsystem":  {func(n *nvmeof.Target) { n.NQN += "-not" }, nvmeof.ErrRejected},
		"host not allowed":   {func(n *nvmeof.Target) { n.HostNQN += "-not" }, nvmeof.ErrRejected},
		"a name, no address": {func(n *nvmeof.Target) { n.Paths[0].Address = "localhost:4420" }, nvmeof.ErrInvalid},
		"comma in a name":    {func(n *nvmeof.Target) { n.HostNQN += ",ctrl_loss_tmo=1" }, nvmeof.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			target := v.target(e)
			c.change(&target)
			begin := time.Now()
			err := m.Do(long, "Connect", guest.Args{Target: target}, nil)
			if !errors.Is(err, c.want) {
				t.Errorf("got %v", err)
			}
			t.Logf("after %v: %v", time.Since(begin).Round(time.Millisecond), err)
			if n := m.controllers(t, v); n != 0 {
				t.Errorf("%d controllers are left", n)
			}
		})
	}
	t.Run("another namespace", func(t *testing.T) {
		target := v.target(e)
		target.NSUUID[0] ^= 0xff
		t.Cleanup(func() { m.must(t, "Disconnect", guest.Args{NQN: v.nqn}, nil) })
		err := m.Do(short, "Connect", guest.Args{Target: target}, nil)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), v.nsUUID.String()) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("another host identity is connected", func(t *testing.T) {
		m.connect(t, v.target(e))
		target := v.target(e)
		target.HostID[0] ^= 0xff
		if err := m.Do(long, "Connect", guest.Args{Target: target}, nil); !errors.Is(err, nvmeof.ErrForeign) {
			t.Errorf("got %v", err)
		}
	})
}

// Scenario 9: a retry finds the volume connected, or still connecting.
func TestConnectWaitsForControllerThatReconnects(t *testing.T) {
	m := sharedMachine(t)
	v := newVolume(t, 64*mib)
	e := serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)
	target := v.target(e)
	device := m.connect(t, target)
	e.Kill()
	m.waitState(t, v, nvmeof.StateConnecting)

	if err := m.Do(short, "Connect", guest.Args{Target: target}, nil); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "connecting") {
		t.Errorf("while the target is gone: %v", err)
	}
	serve(t, v, 1, nvmetcp.ANAOptimized, e.listen)
	var again string
	m.must(t, "Connect", guest.Args{Target: target}, &again)
	if n := m.controllers(t, v); again != device || n != 1 {
		t.Errorf("connected as %s, then %s; %d controllers", device, again, n)
	}
}

// waitState waits until some controller of v is in that state.
func (m *machine) waitState(t *testing.T, v *volume, state string) {
	t.Helper()
	deadline := time.Now().Add(long)
	for time.Now().Before(deadline) {
		var paths []nvmeof.PathState
		m.must(t, "Paths", guest.Args{NQN: v.nqn}, &paths)
		for _, p := range paths {
			if p.State == state {
				return
			}
		}
	}
	t.Fatalf("no controller became %s", state)
}

// waitGone waits until the kernel has given up every controller of v.
func (m *machine) waitGone(t *testing.T, v *volume) {
	t.Helper()
	deadline := time.Now().Add(long)
	for m.controllers(t, v) > 0 {
		if time.Now().After(deadline) {
			t.Fatal("the kernel keeps the controller")
		}
	}
}

// Scenario 10, the connection: bounded in time, never a leaked controller.
func TestDisconnectFromHungTargetIsBounded(t *testing.T) {
	m := sharedMachine(t)
	v, other := newVolume(t, 64*mib), newVolume(t, 64*mib)
	e := serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)
	m.connect(t, v.target(e))
	e.SetHung(true)

	begin := time.Now()
	err := m.Do(short, "Disconnect", guest.Args{NQN: v.nqn}, nil)
	if err == nil {
		t.Log("the kernel was done before the limit")
	} else if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "still there") {
		t.Errorf("got %v", err)
	}
	t.Logf("after %v: %v", time.Since(begin), err)
	// Meanwhile other volumes are served.
	m.connect(t, other.target(serve(t, other, 1, nvmetcp.ANAOptimized, anyPort)))
	t.Logf("another volume connected after %v", time.Since(begin))

	m.must(t, "Disconnect", guest.Args{NQN: v.nqn}, nil)
	t.Logf("the controller of the hung target was gone after %v", time.Since(begin))
	if n := m.controllers(t, v); n != 0 {
		t.Errorf("%d controllers are left", n)
	}
}

// Scenario 10, the mount: decided from mountinfo, bounded, never a false success.
func TestUnstageWithDeadTarget(t *testing.T) {
	for fsType, size := range fileSystems {
		for _, hung := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/hung=%v", fsType, hung), func(t *testing.T) {
				m := sharedMachine(t)
				v := newVolume(t, size)
				e := serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)
				device := m.mountNew(t, v, v.target(e), fsType)
				m.sh(t, fmt.Sprintf("echo unwritten > %s/file", dir(v)))
				if hung {
					e.SetHung(true)
				} else {
					e.Kill()
				}
				begin := time.Now()
				err := m.Do(short, "Unmount", guest.Args{Path: dir(v)}, nil)
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("unmount of a dead device: %v", err)
				}
				t.Logf("unmount: %v: %v", time.Since(begin), err)
				// The blocked umount(8) is out of mountinfo already; the device is
				// held all the same, and the answer stays an error.
				if err := m.Do(short, "Unmount", guest.Args{Path: dir(v)}, nil); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("a second unmount while the first one is stuck: %v", err)
				}
				var inUse bool
				m.must(t, "InUse", guest.Args{Device: device}, &inUse)
				if !inUse {
					t.Error("the device does not show as in use")
				}
				// Giving the target up fails the I/O that umount waits for.
				m.must(t, "Disconnect", guest.Args{NQN: v.nqn}, nil)
				t.Logf("disconnected after %v", time.Since(begin))
				m.must(t, "Unmount", guest.Args{Path: dir(v)}, nil)
				t.Logf("unmounted after %v", time.Since(begin))
				var at []mount.Mounted
				m.must(t, "Mounts", guest.Args{Path: dir(v)}, &at)
				if n := m.controllers(t, v); n != 0 || len(at) != 0 {
					t.Errorf("left: %d controllers, mounts %+v", n, at)
				}
			})
		}
	}
}

// Scenario 10 again: the kernel has given the device up while it was mounted.
func TestMountOnLostDeviceIsUnmounted(t *testing.T) {
	for fsType, size := range fileSystems {
		t.Run(fsType, func(t *testing.T) {
			m := sharedMachine(t)
			v := newVolume(t, size)
			e := serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)
			target := v.target(e)
			target.CtrlLossSec = 2
			m.mountNew(t, v, target, fsType)
			m.sh(t, fmt.Sprintf("echo unwritten > %s/file", dir(v)))
			e.Kill()
			m.waitGone(t, v)
			_, _ = m.Run(t.Context(), "sh", "-c", "sync; ls -l "+dir(v))
			if err := m.Do(long, "Responds", guest.Args{Path: dir(v)}, nil); err != nil {
				t.Logf("the mount point answers: %v", err)
			}
			m.must(t, "Unmount", guest.Args{Path: dir(v)}, nil)
			var at []mount.Mounted
			m.must(t, "Mounts", guest.Args{Path: dir(v)}, &at)
			if len(at) != 0 {
				t.Errorf("still mounted: %+v", at)
			}
		})
	}
}

// Scenario 11.
func TestBusyMountIsAnError(t *testing.T) {
	m := sharedMachine(t)
	v := newVolume(t, 64*mib)
	m.mountNew(t, v, v.target(serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)), mount.Ext4)
	m.sh(t, fmt.Sprintf("cd %s; sleep 1000 >/dev/null 2>&1 & echo $! > /tmp/%s", dir(v), v.nsUUID))
	if err := m.Do(long, "Unmount", guest.Args{Path: dir(v)}, nil); !errors.Is(err, mount.ErrStillMounted) {
		t.Errorf("got %v", err)
	}
	m.sh(t, fmt.Sprintf("kill -9 $(cat /tmp/%s); while [ -e /proc/$(cat /tmp/%s) ]; do :; done", v.nsUUID, v.nsUUID))
	m.must(t, "Unmount", guest.Args{Path: dir(v)}, nil)
}

func TestStackedMountsAllGo(t *testing.T) {
	m := sharedMachine(t)
	v := newVolume(t, 64*mib)
	m.mountNew(t, v, v.target(serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)), mount.Ext4)
	m.sh(t, fmt.Sprintf("mount --bind /tmp %[1]s; mount -t tmpfs none %[1]s", dir(v)))
	var at []mount.Mounted
	m.must(t, "Mounts", guest.Args{Path: dir(v)}, &at)
	if len(at) != 3 {
		t.Errorf("mounted %+v", at)
	}
	m.must(t, "Unmount", guest.Args{Path: dir(v)}, nil)
	m.must(t, "Mounts", guest.Args{Path: dir(v)}, &at)
	if len(at) != 0 {
		t.Errorf("still mounted %+v", at)
	}
}

// Scenario 13.
func TestReadOnlyFileSystemIsSeenAndRestageRepairsIt(t *testing.T) {
	m := sharedMachine(t)
	v := newVolume(t, 64*mib)
	e := serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)
	device := m.mountNew(t, v, v.target(e), mount.Ext4)
	m.sh(t, fmt.Sprintf("echo kept > %s/file; sync", dir(v)))
	v.disk.setFault(func(_ context.Context, op string, _, _ int64) error {
		if op == "read" {
			return nil
		}
		return &nvmetcp.StatusError{SCT: nvmetcp.SCTMedia, SC: nvmetcp.SCWriteFault}
	})
	_, _ = m.Run(t.Context(), "sh", "-c", fmt.Sprintf("echo lost > %s/other; sync; touch %s/third", dir(v), dir(v)))
	v.disk.setFault(nil)
	var readOnly bool
	m.must(t, "ReadOnly", guest.Args{Path: dir(v)}, &readOnly)
	if !readOnly {
		t.Error("the file system does not show as read-only")
	}
	m.must(t, "Unmount", guest.Args{Path: dir(v)}, nil)
	m.mount(t, v, device, mount.Ext4)
	m.must(t, "ReadOnly", guest.Args{Path: dir(v)}, &readOnly)
	out := m.sh(t, fmt.Sprintf("echo new > %[1]s/new; cat %[1]s/file", dir(v)))
	if readOnly || out != "kept\n" {
		t.Errorf("after restage: read-only %v, %q", readOnly, out)
	}
}
