package nvmeof

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// options are those that a kernel lists that can authenticate.
const options = "instance=-1,cntlid=-1,transport=%s,traddr=%s,trsvcid=%s,nqn=%s,hostnqn=%s,hostid=%s,discovery,dhchap_secret=%s,dhchap_ctrl_secret=%s,tls\n"

func keyed(addresses ...string) Target {
	t := testTarget(addresses...)
	t.HostKey, t.ControllerKey = NewSecret("DHHC-1:01:hosts3cret:"), NewSecret("DHHC-1:01:controllers3cret:")
	return t
}

// lists has the kernel list its options.
func lists(t *testing.T, h *Host, known string) {
	t.Helper()
	h.fabrics = filepath.Join(t.TempDir(), "nvme-fabrics")
	if err := os.WriteFile(h.fabrics, []byte(known), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestConnectHandsKeysToTheKernel(t *testing.T) {
	k, h := newKernel(t, true)
	lists(t, h, options)
	if _, err := h.Connect(t.Context(), keyed(addressA)); err != nil {
		t.Fatal(err)
	}
	if _, err := h.ConnectPath(t.Context(), keyed(addressB), addressB); err != nil {
		t.Fatal(err)
	}
	for _, line := range k.connects {
		if !strings.HasSuffix(line, ",dhchap_secret=DHHC-1:01:hosts3cret:,dhchap_ctrl_secret=DHHC-1:01:controllers3cret:") {
			t.Errorf("wrote %s", line)
		}
	}
	if k.count() != 2 {
		t.Errorf("%d connects", k.count())
	}
}

// A kernel that doesn't know an option puts it into its log, value and all.
func TestKernelThatCannotAuthenticateIsGivenNoKey(t *testing.T) {
	for name, known := range map[string]string{
		"built without it":        "transport=%s,nqn=%s,traddr=%s,trsvcid=%s,hostnqn=%s,hostid=%s",
		"of the host's key alone": strings.ReplaceAll(options, "dhchap_ctrl_secret=%s,", ""),
		"older than the list":     "",
	} {
		k, h := newKernel(t, true)
		lists(t, h, known)
		_, err := h.Connect(t.Context(), keyed(addressA))
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "CONFIG_NVME_HOST_AUTH") || k.count() != 0 {
			t.Errorf("%s: %d connects, %v", name, k.count(), err)
		}
	}
	k, h := newKernel(t, true)
	h.fabrics = filepath.Join(t.TempDir(), "absent")
	if _, err := h.Connect(t.Context(), keyed(addressA)); !errors.Is(err, ErrModuleMissing) || k.count() != 0 {
		t.Errorf("without the module: %d connects, %v", k.count(), err)
	}
}

// Linux 6.1 that was built without authentication takes the options all the same, and fails when the target asks.
func TestKernelThatTakesKeysAndCannotAuthenticateIsTold(t *testing.T) {
	for name, c := range map[string]struct {
		symbols string
		want    error
	}{
		"it can't":     {"0000000000000000 T nvme_init_ctrl\t[nvme_core]\n", ErrUnsupported},
		"it can":       {"0000000000000000 T nvme_init_ctrl\t[nvme_core]\n0000000000000000 T nvme_auth_negotiate\t[nvme_core]\n", ErrRejected},
		"it hides all": {"", ErrRejected},
	} {
		k, h := newKernel(t, true)
		lists(t, h, options)
		h.symbols = filepath.Join(t.TempDir(), "kallsyms")
		if err := os.WriteFile(h.symbols, []byte(c.symbols), 0o644); err != nil {
			t.Fatal(err)
		}
		k.refuse = func(string) error { return &os.PathError{Op: "write", Path: h.fabrics, Err: unix.EIO} }
		if _, err := h.Connect(t.Context(), keyed(addressA)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRefusedKeysAreARejection(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EKEYREJECTED, unix.ENOKEY, unix.ECONNREFUSED, unix.EIO} {
		k, h := newKernel(t, true)
		lists(t, h, options)
		h.symbols = filepath.Join(t.TempDir(), "absent")
		k.refuse = func(string) error { return &os.PathError{Op: "write", Path: h.fabrics, Err: errno} }
		if _, err := h.Connect(t.Context(), keyed(addressA)); !errors.Is(err, ErrRejected) || !strings.Contains(err.Error(), "replicaKeys") {
			t.Errorf("%v: %v", errno, err)
		}
	}
	// A kernel that was given no key says so of a target that asks for one.
	k, h := newKernel(t, true)
	k.refuse = func(string) error { return unix.ENOKEY }
	if _, err := h.Connect(t.Context(), testTarget(addressA)); !errors.Is(err, ErrRejected) {
		t.Error(err)
	}
}

func TestKeysAreShownNowhere(t *testing.T) {
	k, h := newKernel(t, true)
	lists(t, h, options)
	for _, errno := range []unix.Errno{unix.EINVAL, unix.EIO, unix.ENOMEM, unix.EKEYREJECTED, unix.ECONNREFUSED} {
		k.refuse = func(string) error { return &os.PathError{Op: "write", Path: h.fabrics, Err: errno} }
		_, err := h.Connect(t.Context(), keyed(addressA))
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%v: %v", errno, err)
		}
	}
	target := keyed(addressA)
	target.HostKey = NewSecret("s3cret, of no form")
	if _, err := h.Connect(t.Context(), target); !errors.Is(err, ErrInvalid) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("a key of no form: %v", err)
	}
	if shown := fmt.Sprintf("%v %+v %#v %s", target, target, target, target.HostKey); strings.Contains(shown, "s3cret") {
		t.Errorf("shown as %s", shown)
	}
}

func TestKeysOfOneEndAreInvalid(t *testing.T) {
	_, h := newKernel(t, true)
	for _, clear := range []func(*Target){func(t *Target) { t.HostKey = Secret{} }, func(t *Target) { t.ControllerKey = Secret{} }} {
		target := keyed(addressA)
		clear(&target)
		if _, err := h.Connect(t.Context(), target); !errors.Is(err, ErrInvalid) {
			t.Error(err)
		}
	}
}
