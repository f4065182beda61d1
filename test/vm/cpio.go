package vm

import (
	"archive/tar"
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// archive writes a cpio archive of the form "newc", which is what the kernel
// unpacks (Documentation/driver-api/early-userspace/buffer-format.rst). Several
// may follow one another in one file; an archive may be followed by zeroes.
type archive struct {
	w       *bufio.Writer
	tar     *tar.Writer // instead of w
	written int64
	inode   int
	dirs    map[string]bool
}

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriter(w), dirs: map[string]bool{"": true, ".": true}}
}

// newTar returns an archive that is a tar file instead.
func newTar(w io.Writer) *archive {
	a := newArchive(w)
	a.tar = tar.NewWriter(w)
	return a
}

const (
	modeDir     = 0o040000
	modeRegular = 0o100000
	modeLink    = 0o120000
)

// entry writes one header and its body.
func (a *archive) entry(name string, mode uint32, size int64, body io.Reader) error {
	if a.tar != nil {
		return a.tarEntry(name, mode, size, body)
	}
	a.inode++
	links := 1
	header := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		a.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	if _, err := a.w.WriteString(header); err != nil {
		return err
	}
	a.written += int64(len(header))
	if err := a.pad(); err != nil {
		return err
	}
	n, err := io.CopyN(a.w, body, size)
	a.written += n
	if err != nil {
		return fmt.Errorf("add %s to the image: %w", name, err)
	}
	return a.pad()
}

func (a *archive) tarEntry(name string, mode uint32, size int64, body io.Reader) error {
	header := &tar.Header{Name: name, Mode: int64(mode & 0o7777), Size: size, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
	switch mode &^ 0o7777 {
	case modeDir:
		header.Typeflag, header.Name = tar.TypeDir, name+"/"
	case modeLink:
		target, err := io.ReadAll(body)
		if err != nil {
			return fmt.Errorf("add %s to the image: %w", name, err)
		}
		header.Typeflag, header.Linkname, header.Size = tar.TypeSymlink, string(target), 0
	}
	if err := a.tar.WriteHeader(header); err != nil {
		return fmt.Errorf("add %s to the image: %w", name, err)
	}
	if _, err := io.CopyN(a.tar, body, header.Size); err != nil {
		return fmt.Errorf("add %s to the image: %w", name, err)
	}
	return nil
}

// pad aligns headers and bodies to four bytes.
func (a *archive) pad() error {
	n := (4 - a.written%4) % 4
	a.written += n
	_, err := a.w.WriteString("\x00\x00\x00"[:n])
	return err
}

// parents writes the directories above name that are not there yet.
func (a *archive) parents(name string) error {
	dir := path.Dir(name)
	if a.dirs[dir] {
		return nil
	}
	if err := a.parents(dir); err != nil {
		return err
	}
	a.dirs[dir] = true
	return a.entry(dir, modeDir|0o755, 0, strings.NewReader(""))
}

// dir adds an empty directory. All names are absolute.
func (a *archive) dir(name string) error { return a.parents(clean(name) + "/.") }

// bytes adds a file.
func (a *archive) bytes(name string, perm fs.FileMode, content string) error {
	name = clean(name)
	if err := a.parents(name); err != nil {
		return err
	}
	return a.entry(name, modeRegular|uint32(perm.Perm()), int64(len(content)), strings.NewReader(content))
}

// symlink adds a symbolic link.
func (a *archive) symlink(name, target string) error {
	name = clean(name)
	if err := a.parents(name); err != nil {
		return err
	}
	return a.entry(name, modeLink|0o777, int64(len(target)), strings.NewReader(target))
}

// file adds a file of this machine, following links.
func (a *archive) file(name, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	name = clean(name)
	if err := a.parents(name); err != nil {
		return err
	}
	return a.entry(name, modeRegular|uint32(st.Mode().Perm()), st.Size(), f)
}

// close ends the archive.
func (a *archive) close() error {
	if a.tar != nil {
		return a.tar.Close()
	}
	if err := a.entry("TRAILER!!!", 0, 0, strings.NewReader("")); err != nil {
		return err
	}
	return a.w.Flush()
}

func clean(name string) string { return strings.TrimPrefix(path.Clean(name), "/") }
