package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/holdfast-csi/holdfast/test/vm"
)

// packages are Debian's that a worker has besides the minimal system.
const packages = "containerd,runc,containernetworking-plugins,e2fsprogs,xfsprogs,kmod,iproute2,udev,util-linux,mount,procps"

// images are those of the chart, and those of the tests' pods.
func (c *Cluster) images(tools, writer string) map[string]image {
	driver := c.SPDK.Binary()
	images := map[string]image{
		// Two names: an upgrade is to the second.
		"holdfast": {names: []string{Registry + "/holdfast/holdfast:before", Registry + "/holdfast/holdfast:after"}, base: tools, program: driver},
		"pause":    {names: []string{pauseImage}, base: tools, entrypoint: []string{"/bin/busybox", "sleep", "2147483647"}},
		"writer":   {names: []string{WriterImage}, base: tools, program: writer},
	}
	for _, name := range sidecars {
		images[name] = image{names: []string{Registry + "/sig-storage/" + name + ":test"}, program: filepath.Join(c.binaries, name)}
	}
	return images
}

// sidecars are the containers beside the driver's.
var sidecars = []string{"csi-provisioner", "csi-attacher", "csi-resizer", "csi-snapshotter", "csi-node-driver-registrar", "livenessprobe"}

const (
	pauseImage = Registry + "/pause:test"
	// WriterImage has a shell, and a program that writes and verifies: package writer.
	WriterImage = Registry + "/writer:test"
)

func (c *Cluster) disk() string { return c.path("worker.img") }

// makeDisk makes the image of the disk that all workers start from: Debian with containerd and kubelet, and all container images.
func (c *Cluster) makeDisk(ctx context.Context) error {
	tree := treeDir(c.source)
	if _, err := os.Stat(tree); err != nil {
		return fmt.Errorf("%w: go run ./test/kubernetes/prepare makes it", err)
	}
	if err := c.configure(ctx, tree); err != nil {
		return err
	}
	if err := c.importImages(ctx, tree); err != nil {
		return err
	}
	return command(ctx, "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1", "-d", tree, c.disk(), "4G")
}

// treeDir is where Prepare has the minimal Debian.
func treeDir(source string) string { return filepath.Join(source, ".cache/holdfast-cluster/tree") }

// Prepare installs a minimal Debian for the workers' disk from Debian's packages, once. It needs root, debootstrap and the network, which the
// namespace of the tests does not have.
func Prepare(ctx context.Context) error {
	source, err := vm.ModuleRoot()
	if err != nil {
		return err
	}
	tree := treeDir(source)
	if _, err := os.Stat(tree); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	part := tree + ".part"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	if err := command(ctx, "debootstrap", "--variant=minbase", "--include="+packages, "bookworm", part); err != nil {
		return err
	}
	modules, err := vm.ModulesDir()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(part+"/lib/modules", 0o755); err != nil {
		return err
	}
	if err := command(ctx, "cp", "-r", modules, part+"/lib/modules/"); err != nil {
		return err
	}
	if err := command(ctx, "chroot", part, "depmod", filepath.Base(modules)); err != nil {
		return err
	}
	return os.Rename(part, tree)
}

// configure writes what is the same on all workers.
func (c *Cluster) configure(ctx context.Context, tree string) error {
	ca, err := readFile(c.path("ca.crt"))
	if err != nil {
		return err
	}
	for name, body := range map[string]string{
		"/etc/containerd/config.toml":   containerdConfig,
		"/etc/kubernetes/kubelet.yaml":  kubeletConfig,
		"/etc/kubernetes/pki/ca.crt":    string(ca),
		"/etc/resolv.conf":              "",
		"/etc/hosts":                    "127.0.0.1 localhost\n",
		"/var/lib/kubelet/.keep":        "",
		"/var/lib/kubelet/plugins/.dir": "",
	} {
		if err := os.MkdirAll(filepath.Dir(tree+name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(tree+name, []byte(body), 0o644); err != nil {
			return err
		}
	}
	return command(ctx, "install", "-m", "755", filepath.Join(c.binaries, "kubelet"), tree+"/usr/local/bin/kubelet")
}

// importScript imports /images/*.tar with the containerd of the tree, in a mount namespace of its own. No pod runs there: the part of
// containerd that talks to kubelets is off.
const importScript = `
tree=$1
mount -t proc proc "$tree/proc"
mount -t tmpfs tmpfs "$tree/run"
mount -t tmpfs tmpfs "$tree/tmp"
echo 'version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]' >"$tree/run/import.toml"
chroot "$tree" containerd --config /run/import.toml >&2 &
server=$!
trap 'kill $server; wait $server' EXIT
until chroot "$tree" ctr version >/dev/null 2>&1; do kill -0 $server; sleep 0.2; done
for file in "$tree"/images/*.tar; do
	chroot "$tree" ctr --namespace k8s.io images import "/images/${file##*/}"
done
`

// importImages puts the images into the tree's containerd, in the place of those that are there.
func (c *Cluster) importImages(ctx context.Context, tree string) error {
	writer := c.path("writer")
	if err := vm.Build(ctx, writer, "github.com/holdfast-csi/holdfast/test/kubernetes/writer"); err != nil {
		return err
	}
	var tools bytes.Buffer
	if err := vm.WriteTools(&tools); err != nil {
		return fmt.Errorf("%w (%w)", vm.ErrNotPrepared, err)
	}
	if err := os.WriteFile(c.path("tools.tar"), tools.Bytes(), 0o644); err != nil {
		return err
	}
	for _, dir := range []string{tree + "/images", tree + "/var/lib/containerd"} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(tree+"/images", 0o755); err != nil {
		return err
	}
	for name, i := range c.images(c.path("tools.tar"), writer) {
		var body bytes.Buffer
		if err := i.write(&body, name); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(tree, "images", name+".tar"), body.Bytes(), 0o644); err != nil {
			return err
		}
	}
	if err := command(ctx, "unshare", "--mount", "--propagation", "private", "bash", "-euc", importScript, "import", tree); err != nil {
		return fmt.Errorf("import the images: %w", err)
	}
	return os.RemoveAll(tree + "/images")
}

// command runs a program on this machine to its end.
func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
