//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp/dhchap"
	"github.com/holdfast-csi/holdfast/test/e2e/guest"
	"github.com/holdfast-csi/holdfast/test/vm"
)

// key is one of 32 bytes of that value.
func key(value byte) string { return spdk.NewKey("", bytes.Repeat([]byte{value}, 32)).Text() }

// serveWithKeys exports v to a host that proves itself with key 1, and is proved to with key 2. The group is the smallest: the arithmetic of the larger ones
// takes a kernel in software emulation seconds.
func serveWithKeys(t *testing.T, v *volume, listen string) *export {
	t.Helper()
	e := serve(t, v, 1, nvmetcp.ANAOptimized, listen)
	e.SetAuthAlgorithms(nvmetcp.AuthAlgorithms{Groups: []dhchap.Group{dhchap.FFDHE2048}})
	source := func(value byte) nvmetcp.KeySource { return func() (string, error) { return key(value), nil } }
	e.subsystem.SetHostKeys(hostNQN, &nvmetcp.HostKeys{Host: source(1), Controller: source(2)})
	return e
}

// wantNoKeyInLog fails the test if the kernel's log has a key.
func (m *machine) wantNoKeyInLog(t *testing.T) {
	t.Helper()
	if shown := m.sh(t, "dmesg | grep DHHC-1: || true"); shown != "" {
		t.Errorf("the kernel's log has %s", shown)
	}
}

func TestKernelAndTargetProveThemselvesToEachOther(t *testing.T) {
	c := config(t)
	c.Kernel = vm.Authenticating
	m := withHostd(t, vm.ForTest(t, c))
	t.Cleanup(func() { m.Client.Close() })
	for name, wrong := range map[string]guest.Args{
		"no key": {}, "another key of the host": {HostKey: key(3), ControllerKey: key(2)}, "another key of the target": {HostKey: key(1), ControllerKey: key(3)},
	} {
		v := newVolume(t, 64*mib)
		wrong.Target = v.target(serveWithKeys(t, v, anyPort))
		if err := m.Do(long, "Connect", wrong, nil); !errors.Is(err, nvmeof.ErrRejected) || m.controllers(t, v) != 0 {
			t.Errorf("%s: %v, and %d controllers", name, err, m.controllers(t, v))
		}
	}
	v := newVolume(t, 64*mib)
	e := serveWithKeys(t, v, anyPort)
	var device string
	m.must(t, "Connect", guest.Args{Target: v.target(e), HostKey: key(1), ControllerKey: key(2)}, &device)
	l := m.startLoad(t, device)
	v.waitWrites(t, 10)
	e.Kill() // the kernel authenticates again when the target is back
	serveWithKeys(t, v, e.listen)
	v.waitWrites(t, 10)
	stopLoad(t, l)
	m.must(t, "Disconnect", guest.Args{NQN: v.nqn}, nil)
	if log := m.sh(t, "dmesg"); !strings.Contains(log, "controller authenticated") {
		t.Errorf("the kernel's log doesn't say that the target has proved itself:\n%s", log)
	}
	m.wantNoKeyInLog(t)
}

func TestKernelThatCannotAuthenticateSaysSo(t *testing.T) {
	m := sharedMachine(t)
	v := newVolume(t, 64*mib)
	err := m.Do(long, "Connect", guest.Args{Target: v.target(serveWithKeys(t, v, anyPort)), HostKey: key(1), ControllerKey: key(2)}, nil)
	if !errors.Is(err, nvmeof.ErrUnsupported) || m.controllers(t, v) != 0 {
		t.Errorf("got %v, and %d controllers", err, m.controllers(t, v))
	}
	m.wantNoKeyInLog(t)
}
