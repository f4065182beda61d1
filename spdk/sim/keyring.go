package sim

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp/dhchap"
)

// maxKeyFile is the size of the largest key file that is read (NVME_AUTH_CHAP_KEY_MAX_SIZE).
const maxKeyFile = 256

// fileKey is a key of the module keyring_file: the name of a file, which is read for each authentication. Who uses a key holds it, and
// not its name: one that was removed is none any more for whoever held it, even after another of its name was added.
type fileKey struct {
	name, path string
	removed    atomic.Bool
}

// checkKeyFile is keyring_file_check_path: nobody but the process's user may have rights.
func checkKeyFile(path string) errno {
	if !filepath.IsAbs(path) {
		return errPERM
	}
	info, err := os.Stat(path)
	if err != nil {
		return errNOENT
	}
	if info.Mode().Perm()&0o077 != 0 {
		return errPERM
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != os.Getuid() {
		return errPERM
	}
	return 0
}

// read is the key's text; it is a nvmetcp.KeySource.
func (k *fileKey) read() (string, error) {
	if k.removed.Load() {
		return "", errNOKEY
	}
	if rc := checkKeyFile(k.path); rc != 0 {
		return "", rc
	}
	text, err := os.ReadFile(k.path)
	if err != nil {
		return "", errIO
	}
	if len(text) > maxKeyFile {
		return "", errNOBUFS
	}
	return string(text), nil
}

// source is how a key is read, nil without a key.
func (k *fileKey) source() nvmetcp.KeySource {
	if k == nil {
		return nil
	}
	return k.read
}

// keyPair is a key and the controller's; each may be nil.
type keyPair struct{ host, controller *fileKey }

// wire is what the target asks of a host, nil without a key.
func (k keyPair) wire() *nvmetcp.HostKeys {
	if k.host == nil {
		return nil
	}
	return &nvmetcp.HostKeys{Host: k.host.source(), Controller: k.controller.source()}
}

// describe adds the keys' names to what shows who has them.
func (k keyPair) describe(o object) object {
	if k.host != nil {
		o = o.with("dhchap_key", k.host.name)
	}
	if k.controller != nil {
		o = o.with("dhchap_ctrlr_key", k.controller.name)
	}
	return o
}

// findKey finds a key; ":name" is one of the global keyring as well, which is the only one.
func (p *process) findKey(name string) *fileKey {
	i := slices.IndexFunc(p.keys, func(k *fileKey) bool { return !k.removed.Load() && keyName(k.name) == keyName(name) })
	if i < 0 {
		return nil
	}
	return p.keys[i]
}

func keyName(name string) string {
	if _, rest, ok := strings.Cut(name, ":"); ok {
		return rest
	}
	return name
}

// findKeys finds the keys of these names, "" being none; false is that one isn't there.
func (p *process) findKeys(host, controller string) (pair keyPair, found bool) {
	found = true
	for _, k := range []struct {
		name string
		at   **fileKey
	}{{host, &pair.host}, {controller, &pair.controller}} {
		if k.name != "" {
			*k.at = p.findKey(k.name)
			found = found && *k.at != nil
		}
	}
	return pair, found
}

// holders counts who has a key.
func (p *process) holders(k *fileKey) (n int) {
	count := func(pair keyPair) {
		for _, held := range []*fileKey{pair.host, pair.controller} {
			if held == k {
				n++
			}
		}
	}
	for _, s := range p.nvmf.subs {
		for _, h := range s.hosts {
			count(h.keys)
		}
	}
	for _, g := range p.nvme.groups {
		for _, c := range g.paths {
			count(c.keysNow())
		}
	}
	return n
}

// algorithms reads the names of hashes and groups.
func algorithms(hashes, groups []string) (a nvmetcp.AuthAlgorithms) {
	for _, name := range hashes {
		if i := slices.Index([]string{"sha256", "sha384", "sha512"}, name); i >= 0 {
			a.Hashes = append(a.Hashes, dhchap.Hash(i+1))
		}
	}
	for _, name := range groups {
		if i := slices.Index([]string{"null", "ffdhe2048", "ffdhe3072", "ffdhe4096", "ffdhe6144", "ffdhe8192"}, name); i >= 0 {
			a.Groups = append(a.Groups, dhchap.Group(i))
		}
	}
	return a
}
