package vm

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// programs are what the guest has besides busybox, by the names they are run by.
var programs = []string{
	"blkid", "mount", "umount", "losetup", "findmnt", "blockdev", "fstrim",
	"mke2fs", "mkfs.ext4", "e2fsck", "fsck.ext4", "resize2fs", "tune2fs", "dumpe2fs", "debugfs",
	"mkfs.xfs", "xfs_growfs", "xfs_repair", "xfs_io", "xfs_db",
	"cryptsetup", "dmsetup",
}

// dynamicLibraries are those that programs load while they run: ending a thread
// takes libgcc, and cryptsetup's key derivation has threads.
var dynamicLibraries = []string{"libgcc_s.so.1"}

// userland collects programs and the shared libraries that they need from
// unpacked packages.
type userland struct {
	root  string
	files map[string][]string // base name to paths below root
	added map[string]bool     // guest paths
	to    *archive
}

func newUserland(root string, to *archive) (*userland, error) {
	u := &userland{root: root, files: map[string][]string{}, added: map[string]bool{}, to: to}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasPrefix(path, filepath.Join(root, "usr/share")) {
			u.files[d.Name()] = append(u.files[d.Name()], path)
		}
		return err
	})
	return u, err
}

// find returns the first file of that name in one of the directories.
func (u *userland) find(name string, dirs ...string) (string, error) {
	for _, path := range u.files[name] {
		for _, dir := range dirs {
			if strings.Contains(strings.TrimPrefix(path, u.root), dir) {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("none of the packages has %s", name)
}

// program adds a program at /usr/sbin, which comes before busybox in the path.
func (u *userland) program(name string) error {
	from, err := u.find(name, "/sbin/", "/bin/")
	if err != nil {
		return err
	}
	// Links are followed, but within the packages.
	if target, err := os.Readlink(from); err == nil {
		if from, err = u.find(filepath.Base(target), "/sbin/", "/bin/"); err != nil {
			return err
		}
	}
	return u.binary("/usr/sbin/"+name, from)
}

// binary adds an executable or library and, first, what it needs.
func (u *userland) binary(name, from string) error {
	if u.added[name] {
		return nil
	}
	u.added[name] = true
	f, err := elf.Open(from)
	if err != nil {
		return fmt.Errorf("read %s: %w", from, err)
	}
	defer f.Close()
	libraries, err := f.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, lib := range libraries {
		path, err := u.library(lib)
		if err != nil {
			return fmt.Errorf("%s needs: %w", name, err)
		}
		if err := u.binary("/lib/x86_64-linux-gnu/"+lib, path); err != nil {
			return err
		}
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err != nil {
			return err
		}
		interpreter := strings.TrimRight(string(b), "\x00")
		path, err := u.library(filepath.Base(interpreter))
		if err != nil {
			return err
		}
		if err := u.binary(interpreter, path); err != nil {
			return err
		}
	}
	return u.to.file(name, from)
}

// library finds a shared library by its soname, which is often a link to a file
// of a longer name beside it.
func (u *userland) library(name string) (string, error) {
	path, err := u.find(name, "/lib/", "/lib64/")
	if err != nil {
		return "", err
	}
	target, err := os.Readlink(path)
	if err != nil {
		return path, nil
	}
	return u.find(filepath.Base(target), "/lib/", "/lib64/")
}

// busybox adds it with a link for each applet.
func (u *userland) busybox() error {
	from, err := u.find("busybox", "/bin/")
	if err != nil {
		return err
	}
	if err := u.to.file("/bin/busybox", from); err != nil {
		return err
	}
	applets, err := exec.Command(from, "--list").Output()
	if err != nil {
		return fmt.Errorf("list busybox's applets: %w", err)
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet == "busybox" || u.added["/usr/sbin/"+applet] {
			continue
		}
		if err := u.to.symlink("/bin/"+applet, "busybox"); err != nil {
			return err
		}
	}
	return nil
}

// addUserland adds all of it.
func addUserland(root string, a *archive) error {
	u, err := newUserland(root, a)
	if err != nil {
		return err
	}
	for _, p := range programs {
		if err := u.program(p); err != nil {
			return err
		}
	}
	for _, lib := range dynamicLibraries {
		path, err := u.library(lib)
		if err != nil {
			return err
		}
		if err := u.binary("/lib/x86_64-linux-gnu/"+lib, path); err != nil {
			return err
		}
	}
	if err := u.busybox(); err != nil {
		return err
	}
	conf := filepath.Join(root, "etc/mke2fs.conf")
	if err := a.file("/etc/mke2fs.conf", conf); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, dir := range []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/root", "/mnt", "/var/lib"} {
		if err := a.dir(dir); err != nil {
			return err
		}
	}
	if err := a.bytes("/etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n"); err != nil {
		return err
	}
	if err := a.bytes("/etc/group", 0o644, "root:x:0:\n"); err != nil {
		return err
	}
	return a.symlink("/etc/mtab", "/proc/self/mounts")
}
