package nvmeof

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

func TestConnectWritesWhatWasAskedAndNoMore(t *testing.T) {
	k, h := newKernel(t, true)
	target := testTarget(addressA)
	target.KeepAliveSec, target.ReconnectDelaySec, target.CtrlLossSec, target.IOQueues = 2, 1, -1, 4
	device, err := h.Connect(t.Context(), target)
	if err != nil || device != "/dev/nvme0n1" {
		t.Fatalf("got %q, %v", device, err)
	}
	identity := "nqn=" + testNQN + ",transport=tcp,traddr=10.0.0.1,trsvcid=4420,hostnqn=" + testHost + ",hostid=" + testHostID.String()
	if want := identity + ",keep_alive_tmo=2,reconnect_delay=1,ctrl_loss_tmo=-1,nr_io_queues=4"; k.connects[0] != want {
		t.Errorf("wrote %s\nwant  %s", k.connects[0], want)
	}
	if line, err := testTarget(addressA).connectOptions(addressA); err != nil || line != identity {
		t.Errorf("defaults: %s, %v", line, err)
	}
	if line, err := testTarget("[fd00::1]:4420").connectOptions("[fd00::1]:4420"); err != nil || !strings.Contains(line, "traddr=fd00::1,trsvcid=4420") {
		t.Errorf("IPv6: %s, %v", line, err)
	}
}

func TestConnectAddsOnlyWhatIsMissing(t *testing.T) {
	k, h := newKernel(t, true)
	for _, addresses := range [][]string{{addressA}, {addressA}, {addressA, addressB}, {addressB}} {
		if _, err := h.Connect(t.Context(), testTarget(addresses...)); err != nil {
			t.Fatal(err)
		}
	}
	if paths, err := h.Paths(t.Context(), testNQN); err != nil || len(paths) != 2 || k.count() != 2 {
		t.Errorf("%d connects, paths %+v, %v", k.count(), paths, err)
	}
}

func TestConnectWaitsForControllerNamespaceAndNode(t *testing.T) {
	k, h := newKernel(t, true)
	name := k.controller(testNQN, addressA, StateConnecting)
	expect := func(part string) {
		t.Helper()
		_, err := h.Connect(soon(t), testTarget(addressA))
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), part) {
			t.Errorf("want %q in: %v", part, err)
		}
	}
	expect("nvme0 at 10.0.0.1:4420 is connecting")
	k.set("class/nvme/"+name+"/state", StateLive)
	expect("no namespace")
	k.namespace(testNQN, name, testUUID, ANAInaccessible)
	expect("10.0.0.1:4420 is inaccessible")
	k.namespace(testNQN, name, testUUID, ANAOptimized)
	k.mu.Lock()
	k.nodes["/dev/nvme0n1"] = nodeInfo{block: true, major: 8, minor: 0}
	k.mu.Unlock()
	expect("not block device 259:1")
	k.mu.Lock()
	delete(k.nodes, "/dev/nvme0n1")
	k.mu.Unlock()
	expect("does not exist")
	if k.count() != 0 {
		t.Errorf("%d connects although one was under way", k.count())
	}
}

func TestNamespaceOfAnotherUUIDIsRefused(t *testing.T) {
	k, h := newKernel(t, true)
	other := uuid.New()
	k.namespace(testNQN, k.controller(testNQN, addressA, StateLive), other, ANAOptimized)
	_, err := h.Connect(soon(t), testTarget(addressA))
	if err == nil || !strings.Contains(err.Error(), other.String()) {
		t.Errorf("connect: %v", err)
	}
	if _, err := h.Device(t.Context(), testNQN, testUUID); !errors.Is(err, ErrNotConnected) {
		t.Errorf("device: %v", err)
	}
}

func TestControllerBeingDeletedIsReplaced(t *testing.T) {
	k, h := newKernel(t, true)
	old := k.controller(testNQN, addressA, "deleting (no IO)")
	if _, err := h.Connect(soon(t), testTarget(addressA)); !errors.Is(err, context.DeadlineExceeded) || k.count() != 0 {
		t.Fatalf("connected over a controller being deleted: %v", err)
	}
	k.remove("class/nvme/" + old)
	if _, err := h.Connect(t.Context(), testTarget(addressA)); err != nil {
		t.Fatal(err)
	}
}

func TestForeignIdentityIsRefused(t *testing.T) {
	for _, attr := range []string{"hostnqn", "hostid"} {
		k, h := newKernel(t, true)
		name := k.controller(testNQN, addressA, StateLive)
		k.set("class/nvme/"+name+"/"+attr, "another")
		if _, err := h.Connect(t.Context(), testTarget(addressA)); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v", attr, err)
		}
	}
}

func TestOnePathIsEnough(t *testing.T) {
	k, h := newKernel(t, true)
	k.refuse = func(line string) error {
		if strings.Contains(line, "traddr=10.0.0.1") {
			return unix.ECONNREFUSED
		}
		return nil
	}
	if _, err := h.Connect(t.Context(), testTarget(addressA, addressB)); err != nil {
		t.Error(err)
	}
	if _, err := h.Connect(t.Context(), testTarget(addressA)); err != nil {
		t.Errorf("the volume is connected, only not as asked: %v", err)
	}
}

func TestTargetThatDoesNotGreetNeverReachesTheKernel(t *testing.T) {
	k, h := newKernel(t, true)
	k.hung[addressA] = true
	if _, err := h.Connect(t.Context(), testTarget(addressA)); !errors.Is(err, ErrUnreachable) || k.count() != 0 {
		t.Errorf("%d connects, %v", k.count(), err)
	}
}

func TestKernelErrorsAreExplained(t *testing.T) {
	for _, c := range []struct {
		errno  unix.Errno
		module bool   // nvme_tcp is loaded
		tokens string // that the kernel knows
		want   error
	}{
		{unix.ENOENT, false, "", ErrModuleMissing},
		{unix.ENODEV, false, "", ErrModuleMissing},
		{unix.EINVAL, false, "", ErrModuleMissing},
		{unix.EINVAL, true, "", ErrRejected},
		{unix.EINVAL, true, "transport=%s,nqn=%s,traddr=%s,trsvcid=%s,hostnqn=%s", ErrUnsupported},
		{unix.EINVAL, true, "transport=%s,nqn=%s,traddr=%s,trsvcid=%s,hostnqn=%s,hostid=%s", ErrRejected},
		{unix.EIO, true, "", ErrRejected},
		{unix.ECONNREFUSED, true, "", ErrUnreachable},
		{unix.ETIMEDOUT, true, "", ErrUnreachable},
		{unix.EHOSTUNREACH, true, "", ErrUnreachable},
		{unix.ENOMEM, true, "", unix.ENOMEM},
	} {
		k, h := newKernel(t, true)
		h.fabrics = filepath.Join(t.TempDir(), "nvme-fabrics")
		if err := os.WriteFile(h.fabrics, []byte(c.tokens), 0o644); err != nil {
			t.Fatal(err)
		}
		if c.module {
			k.set("module/nvme_tcp/initstate", "live")
		}
		k.refuse = func(string) error { return &os.PathError{Op: "write", Path: h.fabrics, Err: c.errno} }
		_, err := h.Connect(t.Context(), testTarget(addressA))
		if !errors.Is(err, c.want) || !errors.Is(err, c.errno) || !strings.Contains(err.Error(), testNQN) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestConnectThatSomebodyElseHasMadeIsSuccess(t *testing.T) {
	k, h := newKernel(t, true)
	k.refuse = func(string) error {
		k.namespace(testNQN, k.controller(testNQN, addressA, StateLive), testUUID, ANAOptimized)
		return unix.EALREADY
	}
	if err := h.connectOnce(testTarget(addressA), addressA); err != nil {
		t.Error(err)
	}
	if _, err := h.Connect(t.Context(), testTarget(addressA)); err != nil {
		t.Error(err)
	}
}

func TestRetryJoinsConnectUnderWay(t *testing.T) {
	k, h := newKernel(t, true)
	release := make(chan struct{})
	k.refuse = func(string) error { <-release; return nil }
	for range 3 {
		if _, err := h.Connect(soon(t), testTarget(addressA)); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
	}
	if err := h.Close(soon(t)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("closed with a connect under way: %v", err)
	}
	if k.count() != 1 {
		t.Errorf("%d connects", k.count())
	}
	close(release)
	if err := h.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := h.Connect(t.Context(), testTarget(addressA)); err != nil || k.count() != 1 {
		t.Errorf("%d connects, %v", k.count(), err)
	}
}

func TestWithoutMultipathThereIsOnePath(t *testing.T) {
	k, h := newKernel(t, false)
	if _, err := h.Connect(t.Context(), testTarget(addressA, addressB)); !errors.Is(err, ErrUnsupported) {
		t.Errorf("two paths: %v", err)
	}
	// A second controller of the same namespace has a disk of its own; the one
	// that is live serves.
	dead := k.controller(testNQN, addressB, StateConnecting)
	k.namespace(testNQN, dead, testUUID, "")
	device, err := h.Connect(t.Context(), testTarget(addressA))
	if err != nil || device != "/dev/nvme1n1" {
		t.Errorf("got %q, %v", device, err)
	}
	if _, err := h.ConnectPath(t.Context(), testTarget(addressA), addressB); !errors.Is(err, ErrUnsupported) {
		t.Errorf("add a path: %v", err)
	}
}

func TestPathCountsOnlyWithItsNamespace(t *testing.T) {
	k, h := newKernel(t, true)
	if _, err := h.Connect(t.Context(), testTarget(addressA)); err != nil {
		t.Fatal(err)
	}
	var second string
	k.onConnect = func(name string) { second = name }
	if _, err := h.ConnectPath(soon(t), testTarget(addressA), addressB); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no path through it") {
		t.Errorf("a controller without namespace: %v", err)
	}
	k.namespace(testNQN, second, uuid.New(), ANAOptimized)
	if _, err := h.ConnectPath(soon(t), testTarget(addressA), addressB); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a controller with another namespace: %v", err)
	}
	k.namespace(testNQN, second, testUUID, ANAInaccessible)
	p, err := h.ConnectPath(t.Context(), testTarget(addressA), addressB)
	if want := (PathState{second, addressB, StateLive, ANAInaccessible, 7}); err != nil || p != want {
		t.Errorf("got %+v, %v", p, err)
	}
}

func TestMalformedTargetsAreRefused(t *testing.T) {
	_, h := newKernel(t, true)
	for i, change := range []func(*Target){
		func(n *Target) { n.NQN = "v1" },
		func(n *Target) { n.NQN += ",hostnqn=x" },
		func(n *Target) { n.HostNQN = "" },
		func(n *Target) { n.HostID = uuid.Nil },
		func(n *Target) { n.NSUUID = uuid.Nil },
		func(n *Target) { n.Paths = nil },
		func(n *Target) { n.Paths[0].Address = "storage-1:4420" },
		func(n *Target) { n.Paths[0].Address = "10.0.0.1" },
		func(n *Target) { n.Paths[0].Address = "10.0.0.1:0" },
		func(n *Target) { n.CtrlLossSec = -2 },
		func(n *Target) { n.NQN += fmt.Sprintf("%0223d", 0) },
	} {
		target := testTarget(addressA)
		change(&target)
		if _, err := h.Connect(t.Context(), target); !errors.Is(err, ErrInvalid) {
			t.Errorf("%d: %v", i, err)
		}
	}
}
