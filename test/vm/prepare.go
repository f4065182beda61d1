package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const qemu = "qemu-system-x86_64"

// toolPackages hold programs; libraries come with their dependencies.
var toolPackages = []string{"e2fsprogs", "xfsprogs", "util-linux", "mount", "cryptsetup-bin", "dmsetup", "busybox-static"}

// scripting are the dependencies of programs that the guest does not have.
var scripting = regexp.MustCompile(`^(lib)?(perl|python|icu|debconf|cdebconf|install-info|dpkg|sqlite)`)

// CacheDir is where prepared files are kept: HOLDFAST_VM_CACHE, else below
// XDG_CACHE_HOME, else .cache at the module's root, which is not committed.
func CacheDir() (string, error) {
	if dir := os.Getenv("HOLDFAST_VM_CACHE"); dir != "" {
		return dir, nil
	}
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "holdfast-vm"), nil
	}
	root, err := ModuleRoot()
	return filepath.Join(root, ".cache", "holdfast-vm"), err
}

// ModuleRoot is the directory of go.mod, from here upwards.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod here or above: run inside the repository, or set HOLDFAST_VM_CACHE")
		}
		dir = filepath.Dir(dir)
	}
}

// Prepare makes what Start needs: QEMU, the kernels, and images with modules and
// tools. It uses Debian's packages through apt, keeps them in CacheDir, and says
// on log what it does. Prepared before, it only checks.
func Prepare(ctx context.Context, log io.Writer) error {
	cache, err := CacheDir()
	if err != nil {
		return err
	}
	if err := (preparation{ctx: ctx, log: log}).qemu(); err != nil {
		return err
	}
	for _, k := range []Kernel{Stock, Authenticating} {
		p := preparation{ctx: ctx, log: log, cache: k.dir(cache), of: k}
		if p.done() {
			p.say("%s is prepared", p.cache)
			continue
		}
		for _, step := range []func() error{p.unpack, p.modules, p.kernel, p.image} {
			if err := step(); err != nil {
				return err
			}
		}
	}
	return nil
}

// WriteTools writes, as a tar file, the programs that the guest has with what they need: the file system tools, and busybox. It needs what
// Prepare has made.
func WriteTools(w io.Writer) error {
	cache, err := CacheDir()
	if err != nil {
		return err
	}
	a := newTar(w)
	if err := addUserland(preparation{cache: cache}.rootDir(), a); err != nil {
		return err
	}
	return a.close()
}

// ModulesDir is the directory with all modules of the guest's kernel, which is of the same name as the kernel's release.
func ModulesDir() (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	dirs, err := filepath.Glob(filepath.Join(preparation{cache: cache}.rootDir(), "lib/modules/*"))
	if err == nil && len(dirs) != 1 {
		err = fmt.Errorf("want the modules of one kernel in %s, found %d", cache, len(dirs))
	}
	if err != nil {
		return "", err
	}
	return dirs[0], nil
}

// preparation is that of one kernel.
type preparation struct {
	ctx   context.Context
	log   io.Writer
	cache string
	of    Kernel
}

func (p preparation) say(format string, args ...any) { fmt.Fprintf(p.log, format+"\n", args...) }

func (p preparation) packagesDir() string { return filepath.Join(p.cache, "packages") }
func (p preparation) rootDir() string     { return filepath.Join(p.cache, "root") }
func kernelFile(cache string) string      { return filepath.Join(cache, "vmlinuz") }

// imageFile is named by what is in the image, so that one that was prepared with
// less is not taken for it.
func imageFile(cache string) string {
	content := fmt.Sprint(toolPackages, programs, dynamicLibraries, wantedModules)
	return filepath.Join(cache, fmt.Sprintf("base-%08x.cpio", crc32.ChecksumIEEE([]byte(content))))
}

func (p preparation) done() bool {
	for _, f := range []string{kernelFile(p.cache), imageFile(p.cache)} {
		if _, err := os.Stat(f); err != nil {
			return false
		}
	}
	return true
}

// command runs a program and returns its output; its messages go to the log
// when it fails.
func (p preparation) command(dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(p.ctx, name, args...)
	cmd.Dir = dir
	var out, messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &messages
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, out.String(), messages.String())
	}
	return out.String(), nil
}

func (p preparation) qemu() error {
	if _, err := exec.LookPath(qemu); err == nil {
		return nil
	}
	if os.Getuid() != 0 {
		return fmt.Errorf("%s is not installed: install Debian's qemu-system-x86", qemu)
	}
	p.say("installing qemu-system-x86")
	if err := p.refresh(); err != nil {
		return err
	}
	_, err := p.command("", "apt-get", "install", "-y", "--no-install-recommends", "qemu-system-x86", "seabios", "ipxe-qemu")
	return err
}

// refresh updates apt's lists where that is allowed; else they are as they are.
func (p preparation) refresh() error {
	if os.Getuid() != 0 {
		return nil
	}
	_, err := p.command("", "apt-get", "update")
	return err
}

// unpack downloads the packages and unpacks them side by side, without
// installing any.
func (p preparation) unpack() error {
	if err := p.refresh(); err != nil {
		return err
	}
	names, err := p.packages()
	if err != nil {
		return err
	}
	p.say("downloading %d packages to %s", len(names), p.packagesDir())
	if err := os.RemoveAll(p.packagesDir()); err != nil {
		return err
	}
	if err := os.MkdirAll(p.packagesDir(), 0o755); err != nil {
		return err
	}
	if _, err := p.command(p.packagesDir(), "apt-get", append([]string{"download"}, names...)...); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(p.packagesDir(), "*.deb"))
	if err != nil {
		return err
	}
	p.say("unpacking %d packages", len(debs))
	if err := os.RemoveAll(p.rootDir()); err != nil {
		return err
	}
	for _, deb := range debs {
		if _, err := p.command("", "dpkg-deb", "-x", deb, p.rootDir()); err != nil {
			return err
		}
	}
	return nil
}

// packages names the kernel's package and, for the stock kernel, the tools' with all dependencies.
func (p preparation) packages() ([]string, error) {
	only := []string{"--no-pre-depends", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances"}
	out, err := p.command("", "apt-cache", append(append([]string{"depends"}, only...), p.of.metaPackage())...)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, line := range strings.Split(out, "\n") {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: linux-image-"); ok {
			names = append(names, "linux-image-"+name)
		}
	}
	if len(names) != 1 {
		return nil, fmt.Errorf("%s should depend on one kernel: %q", p.of.metaPackage(), out)
	}
	if p.of != Stock {
		return names, nil
	}
	out, err = p.command("", "apt-cache", append(append([]string{"depends", "--recurse"}, only[1:]...), toolPackages...)...)
	if err != nil {
		return nil, err
	}
	for _, line := range strings.Split(out, "\n") {
		// Names stand alone in their line; dependencies are indented, packages
		// that exist in name only are in angle brackets.
		if line == "" || strings.ContainsAny(line[:1], " <|") || scripting.MatchString(line) {
			continue
		}
		names = append(names, line)
	}
	return p.available(names)
}

// available leaves out names that no package has, which are alternatives of a
// dependency that another fulfils.
func (p preparation) available(names []string) ([]string, error) {
	out, err := p.command("", "apt-cache", append([]string{"show", "--no-all-versions"}, names...)...)
	if err != nil {
		return nil, err
	}
	var have []string
	for _, line := range strings.Split(out, "\n") {
		if name, ok := strings.CutPrefix(line, "Package: "); ok {
			have = append(have, name)
		}
	}
	slices.Sort(have)
	return slices.Compact(have), nil
}

func (p preparation) kernel() error {
	kernels, err := filepath.Glob(filepath.Join(p.rootDir(), "boot/vmlinuz-*"))
	if err != nil {
		return err
	}
	if len(kernels) != 1 {
		return fmt.Errorf("want one kernel in %s, found %d", p.rootDir(), len(kernels))
	}
	p.say("kernel %s", strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-"))
	b, err := os.ReadFile(kernels[0])
	if err != nil {
		return err
	}
	return os.WriteFile(kernelFile(p.cache), b, 0o644)
}

// image writes the archive under another name first: its presence says that all
// is prepared.
func (p preparation) image() (err error) {
	part := imageFile(p.cache) + ".part"
	f, err := os.Create(part)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := f.Close(); closeErr != nil && !errors.Is(closeErr, fs.ErrClosed) {
			err = errors.Join(err, closeErr)
		}
	}()
	a := newArchive(f)
	if p.of == Stock {
		if err := addUserland(p.rootDir(), a); err != nil {
			return err
		}
	}
	modules, err := readModules(p.rootDir())
	if err != nil {
		return err
	}
	for _, name := range wantedModules {
		if err := modules.want(name); err != nil {
			return err
		}
	}
	if err := modules.addTo(a); err != nil {
		return err
	}
	if err := a.close(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	p.say("image %s, %d MiB", imageFile(p.cache), a.written>>20)
	return os.Rename(part, imageFile(p.cache))
}
