//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/node/mount"
	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
	"github.com/holdfast-csi/holdfast/test/e2e/guest"
)

const anyPort = "127.0.0.1:0"

// fileSystems and the least size that mkfs takes for them.
var fileSystems = map[string]int64{mount.Ext4: 64 * mib, mount.XFS: 320 * mib}

// dir is a mount point of the test's own.
func dir(v *volume) string { return "/mnt/" + v.nsUUID.String() }

// mountNew connects v, formats it and mounts it.
func (m *machine) mountNew(t *testing.T, v *volume, target nvmeof.Target, fsType string) (device string) {
	t.Helper()
	device = m.connect(t, target)
	m.must(t, "Format", guest.Args{Device: device, Format: mount.FormatOptions{FSType: fsType}}, nil)
	m.mount(t, v, device, fsType)
	return device
}

// mount mounts v and unmounts it when the test ends.
func (m *machine) mount(t *testing.T, v *volume, device, fsType string) {
	t.Helper()
	t.Cleanup(func() {
		if err := m.Do(long, "Unmount", guest.Args{Path: dir(v)}, nil); err != nil {
			t.Error(err)
		}
	})
	m.must(t, "Mount", guest.Args{Device: device, Path: dir(v), FSType: fsType}, nil)
}

func TestDataSurvivesUnstageAndStage(t *testing.T) {
	for fsType, size := range fileSystems {
		t.Run(fsType, func(t *testing.T) {
			m := sharedMachine(t)
			v := newVolume(t, size)
			target := v.target(serve(t, v, 1, nvmetcp.ANAOptimized, anyPort))
			device := m.connect(t, target)

			var content mount.Content
			m.must(t, "Probe", guest.Args{Device: device}, &content)
			if !content.Blank || content.SizeBytes != size {
				t.Fatalf("a new volume reads %+v", content)
			}
			format := guest.Args{Device: device, Format: mount.FormatOptions{FSType: fsType}}
			m.must(t, "Format", format, nil)
			m.mount(t, v, device, fsType)
			m.mount(t, v, device, fsType) // idempotent
			sum := m.sh(t, fmt.Sprintf("dd if=/dev/urandom of=%[1]s/data bs=1M count=8 2>/dev/null; md5sum %[1]s/data", dir(v)))

			m.must(t, "Unmount", guest.Args{Path: dir(v)}, nil)
			m.must(t, "Unmount", guest.Args{Path: dir(v)}, nil)
			m.must(t, "Disconnect", guest.Args{NQN: v.nqn}, nil)
			m.must(t, "Disconnect", guest.Args{NQN: v.nqn}, nil)
			if n := m.controllers(t, v); n != 0 {
				t.Fatalf("%d controllers are left", n)
			}
			if err := m.Do(long, "Device", guest.Args{NQN: v.nqn, NSUUID: v.nsUUID}, nil); !errors.Is(err, nvmeof.ErrNotConnected) {
				t.Fatalf("the device of a disconnected volume: %v", err)
			}

			device = m.connect(t, target)
			m.must(t, "Probe", guest.Args{Device: device}, &content)
			if content.Blank || content.FSType != fsType {
				t.Fatalf("a formatted volume reads %+v", content)
			}
			format.Device = device
			if err := m.Do(long, "Format", format, nil); !errors.Is(err, mount.ErrNotBlank) {
				t.Fatalf("formatting a formatted volume: %v", err)
			}
			m.mount(t, v, device, fsType)
			if again := m.sh(t, fmt.Sprintf("md5sum %s/data", dir(v))); again != sum {
				t.Errorf("read %q, wrote %q", again, sum)
			}
		})
	}
}

func TestTwoVolumesAreToldApart(t *testing.T) {
	m := sharedMachine(t)
	a, b := newVolume(t, 64*mib), newVolume(t, 64*mib)
	for _, v := range []*volume{a, b} {
		m.mountNew(t, v, v.target(serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)), mount.Ext4)
		m.sh(t, fmt.Sprintf("echo %s > %s/name; sync", v.nsUUID, dir(v)))
	}
	for _, v := range []*volume{a, b} {
		var d nvmeof.Device
		m.must(t, "Device", guest.Args{NQN: v.nqn, NSUUID: v.nsUUID}, &d)
		if d.UUID != v.nsUUID || d.SizeBytes != 64*mib || d.BlockSize != 4096 {
			t.Errorf("got %+v", d)
		}
		if out := m.sh(t, "cat "+dir(v)+"/name"); strings.TrimSpace(out) != v.nsUUID.String() {
			t.Errorf("volume %s holds %s", v.nsUUID, out)
		}
	}
	if err := m.Do(long, "Device", guest.Args{NQN: a.nqn, NSUUID: b.nsUUID}, nil); !errors.Is(err, nvmeof.ErrNotConnected) {
		t.Errorf("a namespace of another subsystem: %v", err)
	}
}

func TestRawBlockVolume(t *testing.T) {
	m := sharedMachine(t)
	v := newVolume(t, 64*mib)
	device := m.connect(t, v.target(serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)))
	file := dir(v) + "/pod/dev"
	bind := guest.Args{Device: device, Path: file}
	m.must(t, "BindDevice", bind, nil)
	t.Cleanup(func() { _ = m.Do(long, "Unmount", guest.Args{Path: file}, nil) })
	m.must(t, "BindDevice", bind, nil)
	m.sh(t, fmt.Sprintf("test -b %[1]s; test $(grep -c %[1]s /proc/mounts) = 1; echo hello | dd of=%[1]s bs=4096 conv=sync,fsync", file))
	if got := m.sh(t, "dd if="+device+" bs=5 count=1 2>/dev/null"); got != "hello" {
		t.Errorf("read %q", got)
	}
	if err := m.Do(long, "Remove", guest.Args{Path: file}, nil); !errors.Is(err, mount.ErrStillMounted) {
		t.Errorf("removed a mounted file: %v", err)
	}
	m.must(t, "Unmount", guest.Args{Path: file}, nil)
	m.must(t, "Remove", guest.Args{Path: file}, nil)
	m.must(t, "Remove", guest.Args{Path: file}, nil)
}

func TestBindMountIsReadOnlyWhereAsked(t *testing.T) {
	m := sharedMachine(t)
	v := newVolume(t, 64*mib)
	m.mountNew(t, v, v.target(serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)), mount.Ext4)
	for pod, readOnly := range map[string]bool{"a": false, "b": true} {
		bind := guest.Args{Source: dir(v), Path: "/mnt/pods/" + v.nsUUID.String() + pod, ReadOnly: readOnly}
		m.must(t, "BindMount", bind, nil)
		t.Cleanup(func() { m.must(t, "Unmount", bind, nil) })
		m.must(t, "BindMount", bind, nil)
		var at []mount.Mounted
		m.must(t, "Mounts", bind, &at)
		if len(at) != 1 || at[0].ReadOnly != readOnly {
			t.Errorf("mounted %+v", at)
		}
	}
	if err := m.Do(long, "BindMount", guest.Args{Source: "/tmp", Path: "/mnt/pods/" + v.nsUUID.String() + "a"}, nil); !errors.Is(err, mount.ErrOtherMount) {
		t.Errorf("another source at the same target: %v", err)
	}
}

func TestCloneIsMountedBesideItsSource(t *testing.T) {
	for fsType, size := range fileSystems {
		t.Run(fsType, func(t *testing.T) {
			m := sharedMachine(t)
			source := newVolume(t, size)
			m.mountNew(t, source, source.target(serve(t, source, 1, nvmetcp.ANAOptimized, anyPort)), fsType)
			m.sh(t, fmt.Sprintf("echo content > %s/file; sync", dir(source)))

			clone := newVolume(t, size)
			clone.disk = source.disk.copy()
			m.mount(t, clone, m.connect(t, clone.target(serve(t, clone, 1, nvmetcp.ANAOptimized, anyPort))), fsType)
			if out := m.sh(t, "cat "+dir(clone)+"/file"); out != "content\n" {
				t.Errorf("the clone holds %q", out)
			}
		})
	}
}

func TestVolumeGrows(t *testing.T) {
	for fsType, size := range fileSystems {
		for _, announced := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/announced=%v", fsType, announced), func(t *testing.T) {
				m := sharedMachine(t)
				v := newVolume(t, size)
				e := serve(t, v, 1, nvmetcp.ANAOptimized, anyPort)
				device := m.mountNew(t, v, v.target(e), fsType)
				var before, after mount.Usage
				m.must(t, "Stats", guest.Args{Path: dir(v)}, &before)

				v.disk.grow(2 * size)
				if announced {
					e.subsystem.NamespaceResized(1)
				}
				var d nvmeof.Device
				m.must(t, "WaitSize", guest.Args{NQN: v.nqn, NSUUID: v.nsUUID, Bytes: 2 * size}, &d)
				if d.SizeBytes != 2*size {
					t.Errorf("the device has %d bytes", d.SizeBytes)
				}
				m.must(t, "Resize", guest.Args{Device: device, Path: dir(v)}, nil)
				m.must(t, "Resize", guest.Args{Device: device, Path: dir(v)}, nil)
				m.must(t, "Stats", guest.Args{Path: dir(v)}, &after)
				if after.TotalBytes < before.TotalBytes*3/2 {
					t.Errorf("the file system had %d bytes and has %d", before.TotalBytes, after.TotalBytes)
				}
			})
		}
	}
}
