package vm

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// wantedModules are loaded at boot, with what they depend on. What the kernel
// has built in is skipped.
var wantedModules = []string{
	"virtio_pci", "virtio_net", "virtio_rng", "virtio_blk", "veth",
	"nvme_core", "nvme_fabrics", "nvme_tcp",
	"crc32c_intel", "ext4", "xfs", "loop", "overlay",
	"sch_netem",
	"dm_crypt", "ecb", "xts", "aesni_intel", "algif_skcipher",
}

// moduleSet is the modules of one kernel package.
type moduleSet struct {
	root    string            // of the unpacked packages
	files   map[string]string // module name to path below root
	builtin map[string]bool
	order   []string // paths in loading order
	placed  map[string]bool
}

// readModules finds the modules of the one kernel unpacked at root. depmod has
// not run there, so dependencies are read from the modules themselves.
func readModules(root string) (*moduleSet, error) {
	s := &moduleSet{root: root, files: map[string]string{}, builtin: map[string]bool{}, placed: map[string]bool{}}
	lists, err := filepath.Glob(filepath.Join(root, "lib/modules/*/modules.builtin"))
	if err == nil && len(lists) == 0 {
		lists, err = filepath.Glob(filepath.Join(root, "usr/lib/modules/*/modules.builtin"))
	}
	if err != nil {
		return nil, err
	}
	if len(lists) != 1 {
		return nil, fmt.Errorf("want the modules of one kernel below %s, found %d", root, len(lists))
	}
	list, err := os.ReadFile(lists[0])
	if err != nil {
		return nil, err
	}
	for _, path := range strings.Fields(string(list)) {
		s.builtin[moduleName(path)] = true
	}
	err = filepath.WalkDir(filepath.Dir(lists[0]), func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".ko") {
			s.files[moduleName(path)] = path
		}
		return err
	})
	return s, err
}

// moduleName is a module's name as the kernel says it, with underscores.
func moduleName(path string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(path), ".ko"), "-", "_")
}

// want puts a module after all that it depends on.
func (s *moduleSet) want(name string) error {
	if s.placed[name] || s.builtin[name] {
		return nil
	}
	path, ok := s.files[name]
	if !ok {
		return fmt.Errorf("the kernel has no module %s; if its modules are compressed, they must be unpacked first", name)
	}
	s.placed[name] = true
	info, err := moduleInfo(path)
	if err != nil {
		return fmt.Errorf("read module %s: %w", path, err)
	}
	for _, dep := range info {
		if err := s.want(dep); err != nil {
			return fmt.Errorf("%s needs: %w", name, err)
		}
	}
	s.order = append(s.order, path)
	return nil
}

// moduleInfo reads what a module depends on. Soft dependencies, which a module
// can do without, are for wantedModules to name.
func moduleInfo(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("it has no .modinfo")
	}
	data, err := section.Data()
	if err != nil {
		return nil, err
	}
	var needs []string
	for _, field := range bytes.Split(data, []byte{0}) {
		if list, ok := strings.CutPrefix(string(field), "depends="); ok && list != "" {
			needs = append(needs, strings.Split(strings.ReplaceAll(list, "-", "_"), ",")...)
		}
	}
	return needs, nil
}

// addTo adds the modules and their list in loading order.
func (s *moduleSet) addTo(a *archive) error {
	var list []string
	for _, path := range s.order {
		name := filepath.Join("/lib/modules", filepath.Base(path))
		list = append(list, name)
		if err := a.file(name, path); err != nil {
			return err
		}
	}
	return a.bytes("/etc/modules", 0o644, strings.Join(list, "\n")+"\n")
}
