package nvmeof

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

const (
	testNQN  = "nqn.2024-01.dev.holdfast:volume:v1"
	testHost = "nqn.2024-01.dev.holdfast:host:h1"
	addressA = "10.0.0.1:4420"
	addressB = "10.0.0.2:4420"
)

var (
	testUUID   = uuid.MustParse("11111111-2222-4333-8444-555555555555")
	testHostID = uuid.MustParse("aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee")
)

// kernel is a sysfs tree that obeys the kernel's rules: what is written to it
// makes and deletes controllers, with names that are used again.
type kernel struct {
	t         *testing.T
	root      string
	multipath bool

	tree      sync.Mutex // held while a controller with all below it comes or goes
	mu        sync.Mutex
	connects  []string            // connect lines, in order
	deletes   map[string]int      // by controller
	rescans   map[string]int      // by controller
	nodes     map[string]nodeInfo // of device nodes, by path
	hung      map[string]bool     // addresses that do not answer a greeting
	refuse    func(line string) error
	onConnect func(name string)       // after a controller was made
	onDelete  func(name string) error // before it is removed; an error is the write's
	onRescan  func()
}

func newKernel(t *testing.T, multipath bool) (*kernel, *Host) {
	k := &kernel{
		t: t, root: t.TempDir(), multipath: multipath,
		deletes: map[string]int{}, rescans: map[string]int{}, nodes: map[string]nodeInfo{}, hung: map[string]bool{},
	}
	k.set("module/nvme_core/parameters/multipath", map[bool]string{true: "Y", false: "N"}[multipath])
	h := New(Options{SysRoot: k.root, DevRoot: "/dev", PollInterval: time.Millisecond, ProbeTimeout: time.Millisecond})
	h.connectKernel, h.openAttr, h.statNode, h.greet = k.connect, k.open, k.stat, k.greet
	t.Cleanup(func() {
		if err := h.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return k, h
}

func (k *kernel) path(name string) string { return filepath.Join(k.root, name) }

func (k *kernel) set(name, value string) {
	k.t.Helper()
	if err := os.MkdirAll(filepath.Dir(k.path(name)), 0o755); err != nil {
		k.t.Error(err)
	}
	// By renaming: a reader never sees half a value.
	temp := filepath.Join(k.root, "temp-"+strings.ReplaceAll(name, "/", "-"))
	if err := os.WriteFile(temp, []byte(value+"\n"), 0o644); err != nil {
		k.t.Error(err)
	}
	if err := os.Rename(temp, k.path(name)); err != nil {
		k.t.Error(err)
	}
}

func (k *kernel) remove(name string) {
	k.t.Helper()
	// By renaming first, as sysfs takes a directory away at once.
	temp := filepath.Join(k.t.TempDir(), "gone")
	if err := os.Rename(k.path(name), temp); err != nil && !os.IsNotExist(err) {
		k.t.Error(err)
	}
}

// controller makes one, without namespaces, under the lowest free name.
func (k *kernel) controller(nqn, address, state string) (name string) {
	k.t.Helper()
	for i := 0; ; i++ {
		name = fmt.Sprintf("nvme%d", i)
		if _, err := os.Stat(k.path("class/nvme/" + name)); os.IsNotExist(err) {
			break
		}
	}
	host, port, _ := strings.Cut(address, ":")
	stage := "stage/" + name
	for attr, value := range map[string]string{
		"transport": "tcp", "subsysnqn": nqn, "state": state, "cntlid": "7", "kato": "1",
		"hostnqn": testHost, "hostid": testHostID.String(),
		"address": "traddr=" + host + ",trsvcid=" + port + ",src_addr=10.0.0.9",
	} {
		k.set(stage+"/"+attr, value)
	}
	if err := os.MkdirAll(k.path("class/nvme"), 0o755); err != nil {
		k.t.Error(err)
	}
	if err := os.Rename(k.path(stage), k.path("class/nvme/"+name)); err != nil {
		k.t.Error(err)
	}
	return name
}

// namespace adds a namespace to a controller: a plain disk, or a path and, unless
// it is there, the head.
func (k *kernel) namespace(nqn, controller string, id uuid.UUID, ana string) (disk string) {
	k.t.Helper()
	if !k.multipath {
		disk = controller + "n1"
		k.disk("class/nvme/"+controller+"/"+disk, id, 259, 1)
		return disk
	}
	path := fmt.Sprintf("class/nvme/%s/nvme0c%sn1", controller, strings.TrimPrefix(controller, "nvme"))
	k.set(path+"/ana_state", ana)
	k.set(path+"/nsid", "1")
	k.set(path+"/uuid", id.String())
	subsystem := "class/nvme-subsystem/nvme-subsys0"
	k.set(subsystem+"/subsysnqn", nqn)
	disk = "nvme0n1"
	if ana == ANAOptimized || ana == ANANonOptimized {
		k.disk(subsystem+"/"+disk, id, 259, 1)
	}
	return disk
}

func (k *kernel) disk(dir string, id uuid.UUID, major, minor uint32) {
	for attr, value := range map[string]string{
		"nsid": "1", "size": "2048", "ro": "0", "queue/logical_block_size": "4096",
		"dev": fmt.Sprintf("%d:%d", major, minor), "uuid": id.String(),
	} {
		k.set(dir+"/"+attr, value)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.nodes["/dev/"+filepath.Base(dir)] = nodeInfo{block: true, major: major, minor: minor}
}

// connect is a write to /dev/nvme-fabrics.
func (k *kernel) connect(line string) (string, error) {
	k.mu.Lock()
	k.connects = append(k.connects, line)
	refuse, onConnect := k.refuse, k.onConnect
	k.mu.Unlock()
	if refuse != nil {
		if err := refuse(line); err != nil {
			return "", err
		}
	}
	option := map[string]string{}
	for _, o := range strings.Split(line, ",") {
		key, value, _ := strings.Cut(o, "=")
		option[key] = value
	}
	k.tree.Lock()
	defer k.tree.Unlock()
	name := k.controller(option["nqn"], option["traddr"]+":"+option["trsvcid"], StateLive)
	if onConnect != nil {
		onConnect(name)
	} else {
		k.namespace(option["nqn"], name, testUUID, ANAOptimized)
	}
	return "instance=0,cntlid=7", nil
}

// attribute is one that was opened for writing: it belongs to the object that
// had the name then.
type attribute struct {
	k          *kernel
	controller string
	action     string
	nqn        string
}

func (k *kernel) open(path string) (io.WriteCloser, error) {
	controller := filepath.Base(filepath.Dir(path))
	nqn, err := readAttr(k.path("class/nvme/" + controller + "/subsysnqn"))
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: unix.ENOENT}
	}
	return &attribute{k, controller, filepath.Base(path), nqn}, nil
}

func (a *attribute) Close() error { return nil }

func (a *attribute) Write(b []byte) (int, error) {
	k := a.k
	if nqn, err := readAttr(k.path("class/nvme/" + a.controller + "/subsysnqn")); err != nil || nqn != a.nqn {
		return 0, unix.ENODEV
	}
	k.mu.Lock()
	onDelete, onRescan := k.onDelete, k.onRescan
	if a.action == "rescan_controller" {
		k.rescans[a.controller]++
	} else {
		k.deletes[a.controller]++
	}
	k.mu.Unlock()
	if a.action == "rescan_controller" {
		if onRescan != nil {
			onRescan()
		}
		return len(b), nil
	}
	if onDelete != nil {
		if err := onDelete(a.controller); err != nil {
			return 0, err
		}
	}
	k.tree.Lock()
	defer k.tree.Unlock()
	k.remove("class/nvme/" + a.controller)
	if left, _ := os.ReadDir(k.path("class/nvme")); len(left) == 0 {
		k.remove("class/nvme-subsystem/nvme-subsys0")
	}
	return len(b), nil
}

func (k *kernel) stat(path string) (nodeInfo, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n, ok := k.nodes[path]
	if !ok {
		return n, &os.PathError{Op: "stat", Path: path, Err: unix.ENOENT}
	}
	return n, nil
}

func (k *kernel) greet(_ context.Context, address string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.hung[address] {
		return fmt.Errorf("%w: %w", ErrUnreachable, context.DeadlineExceeded)
	}
	return nil
}

// count is how many connect lines were written.
func (k *kernel) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.connects)
}

// deleted is how often the deletion of a controller was asked for.
func (k *kernel) deleted(name string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.deletes[name]
}

// rescanned is how often a rescan was.
func (k *kernel) rescanned(name string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.rescans[name]
}

func testTarget(addresses ...string) Target {
	t := Target{NQN: testNQN, NSUUID: testUUID, HostNQN: testHost, HostID: testHostID}
	for _, a := range addresses {
		t.Paths = append(t.Paths, Path{Address: a})
	}
	return t
}

// soon is a context that ends while the test runs, for what must not succeed.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}
