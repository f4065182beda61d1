package mount

import (
	"context"
	"errors"
	"testing"
)

func TestTrimSaysHowMuchWasDiscarded(t *testing.T) {
	k, m := newMachine(t)
	k.line("/mnt", "/", "259:1", "ext4", "/dev/nvme1n1", "rw", "rw")
	k.do["fstrim"] = func([]string) (string, int) { return "/mnt: 1.5 GiB (1610612736 bytes) trimmed\n", 0 }
	if bytes, err := m.Trim(t.Context(), "/mnt"); err != nil || bytes != 1610612736 {
		t.Errorf("%d bytes, %v", bytes, err)
	}
	k.do["fstrim"] = says("") // a device that can't discard
	if bytes, err := m.Trim(t.Context(), "/mnt"); err != nil || bytes != 0 {
		t.Errorf("%d bytes, %v", bytes, err)
	}
	k.do["fstrim"] = exits(1)
	if _, err := m.Trim(t.Context(), "/mnt"); err == nil {
		t.Error("a failed fstrim is success")
	}
}

func TestWhatIsReadOnlyOrNotMountedIsNotTrimmed(t *testing.T) {
	k, m := newMachine(t)
	k.line("/mnt", "/", "259:1", "ext4", "/dev/nvme1n1", "ro", "ro")
	k.do["fstrim"] = exits(1)
	if bytes, err := m.Trim(t.Context(), "/mnt"); err != nil || bytes != 0 {
		t.Errorf("%d bytes, %v", bytes, err)
	}
	if _, err := m.Trim(t.Context(), "/elsewhere"); !errors.Is(err, ErrNotMounted) {
		t.Error(err)
	}
}

// A trim that hangs with its device, in a process of its own, doesn't keep the caller.
func TestTrimThatHangsIsLeftToItself(t *testing.T) {
	k, m := newMachine(t)
	k.line("/mnt", "/", "259:1", "ext4", "/dev/nvme1n1", "rw", "rw")
	hung := make(chan struct{})
	begun := make(chan struct{})
	k.do["fstrim"] = func([]string) (string, int) { close(begun); <-hung; return "", 0 }
	ctx, cancel := context.WithCancel(t.Context())
	trimmed := make(chan error, 1)
	go func() {
		_, err := m.Trim(ctx, "/mnt")
		trimmed <- err
	}()
	<-begun
	cancel()
	if err := <-trimmed; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(hung)
}
