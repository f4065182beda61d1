package nvmeof

import (
	"context"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDisconnectDeletesEveryControllerOfTheNQNOnly(t *testing.T) {
	k, h := newKernel(t, true)
	k.controller(testNQN, addressA, StateLive)
	k.controller(testNQN, addressB, StateConnecting)
	other := k.controller(testNQN+"0", addressA, StateLive)
	if err := h.Disconnect(t.Context(), testNQN); err != nil {
		t.Fatal(err)
	}
	left, err := h.Controllers("nqn.2024-01.dev.holdfast:")
	if err != nil || len(left) != 1 || left[0].Name != other {
		t.Errorf("left: %+v, %v", left, err)
	}
	if err := h.Disconnect(t.Context(), testNQN); err != nil {
		t.Errorf("absent: %v", err)
	}
}

func TestDisconnectPathLeavesTheOther(t *testing.T) {
	k, h := newKernel(t, true)
	k.controller(testNQN, addressA, StateLive)
	k.controller(testNQN, addressB, StateLive)
	for range 2 {
		if err := h.DisconnectPath(t.Context(), testNQN, addressA); err != nil {
			t.Fatal(err)
		}
	}
	if paths, err := h.Paths(t.Context(), testNQN); err != nil || len(paths) != 1 || paths[0].Address != addressB {
		t.Errorf("left: %+v, %v", paths, err)
	}
}

func TestBlockedDeletionIsReportedAndJoined(t *testing.T) {
	k, h := newKernel(t, true)
	release := make(chan struct{})
	k.onDelete = func(name string) error {
		k.set("class/nvme/"+name+"/state", "deleting (no IO)")
		<-release
		return nil
	}
	name := k.controller(testNQN, addressA, StateLive)
	for range 3 {
		err := h.Disconnect(soon(t), testNQN)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), name+" at "+addressA) {
			t.Fatalf("got %v", err)
		}
	}
	close(release)
	if err := h.Disconnect(t.Context(), testNQN); err != nil || k.deleted(name) != 1 {
		t.Errorf("%d deletions, %v", k.deleted(name), err)
	}
}

func TestControllerStillBeingMadeIsDeletedOnceItCanBe(t *testing.T) {
	k, h := newKernel(t, true)
	name := k.controller(testNQN, addressA, StateConnecting)
	k.onDelete = func(string) error {
		if k.deleted(name) < 4 {
			return unix.EBUSY
		}
		return nil
	}
	if err := h.Disconnect(t.Context(), testNQN); err != nil || k.deleted(name) != 4 {
		t.Errorf("%d tries, %v", k.deleted(name), err)
	}
}

func TestRefusedDeletionIsAnError(t *testing.T) {
	k, h := newKernel(t, true)
	k.onDelete = func(string) error { return unix.EPERM }
	k.controller(testNQN, addressA, StateLive)
	if err := h.Disconnect(t.Context(), testNQN); !errors.Is(err, unix.EPERM) {
		t.Errorf("got %v", err)
	}
}

func TestDisconnectWaitsForConnectUnderWay(t *testing.T) {
	k, h := newKernel(t, true)
	release := make(chan struct{})
	k.refuse = func(string) error { <-release; return nil }
	if _, err := h.Connect(soon(t), testTarget(addressA)); err == nil {
		t.Fatal("connected")
	}
	if err := h.Disconnect(soon(t), testNQN); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("says that nothing is there while the kernel connects: %v", err)
	}
	if err := h.DisconnectPath(t.Context(), testNQN, addressB); err != nil {
		t.Errorf("another path: %v", err)
	}
	close(release)
	if err := h.Disconnect(t.Context(), testNQN); err != nil {
		t.Fatal(err)
	}
	if left, err := h.Controllers(testNQN); err != nil || len(left) != 0 {
		t.Errorf("left: %+v, %v", left, err)
	}
}

func TestNothingIsAbsentWhileAControllerCannotBeRead(t *testing.T) {
	k, h := newKernel(t, true)
	name := k.controller(testNQN, addressA, StateLive)
	k.remove("class/nvme/" + name + "/subsysnqn")
	if err := h.Disconnect(soon(t), testNQN); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	k.remove("class/nvme/" + name)
	if err := h.Disconnect(t.Context(), testNQN); err != nil {
		t.Error(err)
	}
}

func TestNameThatChangedHandsIsNotDeleted(t *testing.T) {
	k, h := newKernel(t, true)
	stale := Controller{Name: k.controller(testNQN+"0", addressA, StateLive), NQN: testNQN, Address: addressA}
	if err := h.deleteController(stale); err != nil || k.deleted(stale.Name) != 0 {
		t.Errorf("%d deletions, %v", k.deleted(stale.Name), err)
	}
}

func TestHungTargetIsDeletedAfterTheKernelNoticed(t *testing.T) {
	k, h := newKernel(t, true)
	k.hung[addressA] = true
	name := k.controller(testNQN, addressA, StateLive)
	state := make(chan string, 1)
	k.onDelete = func(name string) error {
		s, err := readAttr(k.path("class/nvme/" + name + "/state"))
		state <- s
		return err
	}
	if err := h.DisconnectPath(soon(t), testNQN, addressA); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	k.set("class/nvme/"+name+"/state", StateConnecting)
	if err := h.DisconnectPath(t.Context(), testNQN, addressA); err != nil {
		t.Fatal(err)
	}
	if s := <-state; s != StateConnecting {
		t.Errorf("deleted while %s", s)
	}
}

func TestOtherTransportsAreNotOurs(t *testing.T) {
	k, h := newKernel(t, true)
	name := k.controller(testNQN, addressA, StateLive)
	k.set("class/nvme/"+name+"/transport", "pcie")
	if left, err := h.Controllers(""); err != nil || len(left) != 0 {
		t.Errorf("got %+v, %v", left, err)
	}
	if err := h.Disconnect(t.Context(), testNQN); err != nil || k.deleted(name) != 0 {
		t.Errorf("%d deletions, %v", k.deleted(name), err)
	}
}
