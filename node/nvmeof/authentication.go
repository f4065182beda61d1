package nvmeof

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Secret is a DH-HMAC-CHAP key in the form that NVMe has for them, DHHC-1:... (NVM Express Base 2.0, 8.13.5.8). It never prints itself.
type Secret struct{ text string }

// NewSecret returns the secret of a text; of an empty one, none.
func NewSecret(text string) Secret { return Secret{text} }

// Empty says that there is no secret.
func (s Secret) Empty() bool { return s.text == "" }

// Text is the secret itself, for whoever has to prove itself with it.
func (s Secret) Text() string { return s.text }

// String hides the secret.
func (s Secret) String() string {
	if s.Empty() {
		return ""
	}
	return "(hidden)"
}

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return s.String() }

// secretPrefix begins every key.
const secretPrefix = "DHHC-1:"

// Connect options that carry keys.
const (
	optHostKey       = "dhchap_secret"
	optControllerKey = "dhchap_ctrl_secret"
)

// validateKeys checks what the kernel would put into its log with the answer EINVAL, or, for a comma, take for other options.
func (t Target) validateKeys() error {
	if t.HostKey.Empty() && t.ControllerKey.Empty() {
		return nil
	}
	for _, s := range []Secret{t.HostKey, t.ControllerKey} {
		if !strings.HasPrefix(s.text, secretPrefix) || strings.ContainsAny(s.text, ", \t\n") {
			return fmt.Errorf("%w: %s: keys of both ends are wanted, each %s... without comma or space", ErrInvalid, t.NQN, secretPrefix)
		}
	}
	return nil
}

// errNoAuthentication is what is wrong with a kernel that can't authenticate.
var errNoAuthentication = fmt.Errorf("%w: DH-HMAC-CHAP, which the volume's class asks for (hostKey); run a kernel with CONFIG_NVME_HOST_AUTH on this machine (older ones: CONFIG_NVME_AUTH; Debian 12: linux-image-6.12-amd64), or use a class without hostKey", ErrUnsupported)

// checkOptions says whether the kernel knows the options that carry keys. It is asked before keys are handed to it: one that doesn't know an option
// puts it, with its value, into its log (drivers/nvme/host/fabrics.c, nvmf_parse_options).
func (h *Host) checkOptions() error {
	// Since Linux 5.17 an unused handle reads as the list of known options, and no earlier kernel authenticates.
	known, err := readAttr(h.fabrics)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%w (%w)", ErrModuleMissing, err)
	case err == nil && knows(known, optHostKey) && knows(known, optControllerKey):
		return nil
	}
	return errNoAuthentication
}

// cannotAuthenticate says that the kernel, although it knows the options, surely can't authenticate: Linux 6.1 takes them however it was built, and
// fails when a target asks (drivers/nvme/host/nvme.h, nvme_auth_negotiate). Nothing but its symbols tells.
func (h *Host) cannotAuthenticate() bool {
	f, err := os.Open(h.symbols)
	if err != nil {
		return false
	}
	defer f.Close()
	some := false
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		some = true
		if fields := strings.Fields(lines.Text()); len(fields) > 2 && fields[2] == "nvme_auth_negotiate" {
			return false
		}
	}
	return some && lines.Err() == nil
}

// knows says whether a list of options has one.
func knows(list, option string) bool { return strings.Contains(","+list, ","+option+"=") }

// withoutKeys is a connect line that may be shown.
func withoutKeys(line string) string {
	options := strings.Split(line, ",")
	for i, o := range options {
		if key, _, _ := strings.Cut(o, "="); key == optHostKey || key == optControllerKey {
			options[i] = key + "=(hidden)"
		}
	}
	return strings.Join(options, ",")
}
