package mount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	utilexec "k8s.io/utils/exec"
)

// machine stands in for the commands and for mountinfo, and keeps the two in
// agreement as the kernel does.
type machine struct {
	t         *testing.T
	mountInfo string

	mu     sync.Mutex
	ran    []string
	mounts []string // lines of mountinfo
	// do answers for a command that is named; others succeed in silence.
	do map[string]func(args []string) (output string, status int)
	// stdin is what the last command was given.
	stdin string
	env   []string
}

func newMachine(t *testing.T) (*machine, *Mounter) {
	k := &machine{t: t, mountInfo: filepath.Join(t.TempDir(), "mountinfo"), do: map[string]func([]string) (string, int){}}
	k.do["mount"], k.do["umount"] = k.mount, k.umount
	k.line("/", "/", "8:1", "ext4", "/dev/sda1", "rw", "rw")
	k.line("/dev", "/", "0:6", "devtmpfs", "udev", "rw", "rw")
	m := New(Options{Exec: k, MountInfo: k.mountInfo, SysRoot: t.TempDir()})
	m.number = func(device string) (int, int, error) {
		var n int
		if _, err := fmt.Sscanf(device, "/dev/dm-%d", &n); err == nil {
			return 254, n, nil
		}
		if _, err := fmt.Sscanf(device, "/dev/nvme%dn1", &n); err != nil {
			return 0, 0, fmt.Errorf("%w: %s is not a block device", ErrInvalid, device)
		}
		return 259, n, nil
	}
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return k, m
}

// line adds a mount on top of the others.
func (k *machine) line(target, root, number, fsType, source, options, super string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mounts = append(k.mounts, fmt.Sprintf("%d 1 %s %s %s %s shared:1 - %s %s %s", len(k.mounts)+20, number, root, target, options, fsType, source, super))
	k.write()
}

func (k *machine) write() {
	if err := os.WriteFile(k.mountInfo, []byte(strings.Join(k.mounts, "\n")+"\n"), 0o644); err != nil {
		k.t.Error(err)
	}
}

func target(line string) string { return strings.Fields(line)[4] }

// mount is mount(8) for the calls that this package makes.
func (k *machine) mount(args []string) (string, int) {
	var options []string
	if i := slices.Index(args, "-o"); i >= 0 {
		options = strings.Split(args[i+1], ",")
	}
	at, from := args[len(args)-1], args[len(args)-2]
	flag := "rw"
	if slices.Contains(options, "ro") {
		flag = "ro"
	}
	switch {
	case slices.Contains(options, "remount"):
		k.mu.Lock()
		defer k.mu.Unlock()
		i := k.top(at)
		if i < 0 {
			return "not mounted", 32
		}
		k.mounts[i] = strings.Replace(k.mounts[i], " rw ", " "+flag+" ", 1)
		k.write()
	case slices.Contains(options, "bind"):
		// The kernel ignores ro here.
		number, root := "8:1", from
		if strings.HasPrefix(from, "/dev/") {
			number, root = "0:6", strings.TrimPrefix(from, "/dev")
			if strings.HasPrefix(root, "/dm-") && !slices.Contains(args, "--no-canonicalize") {
				root = "/mapper/name-of-" + root[1:] // as mount(8) does
			}
		}
		k.line(at, root, number, "ext4", "/dev/sda1", "rw", "rw")
	default:
		k.line(at, "/", "259:"+strings.TrimSuffix(strings.TrimPrefix(from, "/dev/nvme"), "n1"), args[slices.Index(args, "-t")+1], from, flag, strings.Join(options, ","))
	}
	return "", 0
}

// top is the index of the uppermost mount at a target.
func (k *machine) top(at string) int {
	for i := len(k.mounts) - 1; i >= 0; i-- {
		if target(k.mounts[i]) == at {
			return i
		}
	}
	return -1
}

func (k *machine) umount(args []string) (string, int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	i := k.top(args[len(args)-1])
	if i < 0 {
		return "not mounted", 32
	}
	k.mounts = slices.Delete(k.mounts, i, i+1)
	k.write()
	return "", 0
}

// commands are those that ran, in order.
func (k *machine) commands() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.ran)
}

// Command implements utilexec.Interface.
func (k *machine) Command(name string, args ...string) utilexec.Cmd {
	return &command{k: k, name: name, args: args}
}

// CommandContext is for commands that may be killed, of which there are none.
func (k *machine) CommandContext(context.Context, string, ...string) utilexec.Cmd {
	k.t.Error("a command was to be killed with its context")
	return nil
}

// LookPath implements utilexec.Interface.
func (k *machine) LookPath(file string) (string, error) { return file, nil }

type command struct {
	utilexec.Cmd
	k    *machine
	name string
	args []string
}

func (c *command) SetStdin(in io.Reader) {
	b, err := io.ReadAll(in)
	if err != nil {
		c.k.t.Error(err)
	}
	c.k.mu.Lock()
	defer c.k.mu.Unlock()
	c.k.stdin = string(b)
}

func (c *command) SetEnv(env []string) {
	c.k.mu.Lock()
	defer c.k.mu.Unlock()
	c.k.env = env
}

func (c *command) CombinedOutput() ([]byte, error) {
	c.k.mu.Lock()
	c.k.ran = append(c.k.ran, c.name+" "+strings.Join(c.args, " "))
	do := c.k.do[c.name]
	c.k.mu.Unlock()
	if do == nil {
		return nil, nil
	}
	out, status := do(c.args)
	switch status {
	case 0:
		return []byte(out), nil
	case missing:
		return nil, utilexec.ErrExecutableNotFound
	}
	return []byte(out), utilexec.CodeExitError{Err: errors.New("exit status"), Code: status}
}

// missing is the status of a program that is not installed.
const missing = -100

// exits answers with a status.
func exits(status int) func([]string) (string, int) {
	return func([]string) (string, int) { return "said so", status }
}

// soon is a context that ends while the test runs.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}
