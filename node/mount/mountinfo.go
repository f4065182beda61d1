package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	mountutils "k8s.io/mount-utils"
)

// Mounted is one line of mountinfo (proc_pid_mountinfo(5)).
type Mounted struct {
	Target       string // mount point
	Source       string // what the kernel was told, e.g. /dev/nvme0n1
	Root         string // directory or file within the file system; not "/" for a bind
	FSType       string
	Major, Minor int  // of the file system's device
	ReadOnly     bool // of this mount; see Mounter.ReadOnly for the file system
	Options      []string
	SuperOptions []string // of the file system
}

// Mounts lists what is mounted exactly at path, the lowest first: mounts stack.
// Empty means that nothing is.
func (m *Mounter) Mounts(path string) ([]Mounted, error) {
	path, err := resolve(path)
	if err != nil {
		return nil, err
	}
	all, err := m.list()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(e Mounted) bool { return e.Target != path }), nil
}

// list reads all of mountinfo, in its order, in which what covers comes after
// what is covered.
func (m *Mounter) list() ([]Mounted, error) {
	infos, err := mountutils.ParseMountInfo(m.mountInfo)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", m.mountInfo, err)
	}
	all := make([]Mounted, len(infos))
	for i, in := range infos {
		all[i] = Mounted{
			Target: unescape.Replace(in.MountPoint), Source: unescape.Replace(in.Source), Root: unescape.Replace(in.Root),
			FSType: in.FsType, Major: in.Major, Minor: in.Minor,
			ReadOnly: slices.Contains(in.MountOptions, "ro"),
			Options:  in.MountOptions, SuperOptions: in.SuperOptions,
		}
	}
	return all, nil
}

// unescape undoes the kernel's mangling of paths (fs/proc_namespace.c).
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#")

// resolve makes path absolute and follows links in its directory, as mountinfo
// does. The last element may be a dead mount and is not looked at.
func resolve(path string) (string, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) == "/" {
		return "", fmt.Errorf("%w: path %q: want an absolute one below /", ErrInvalid, path)
	}
	dir, base := filepath.Split(filepath.Clean(path))
	parent, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return filepath.Clean(path), nil
	}
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", path, err)
	}
	return filepath.Join(parent, base), nil
}
