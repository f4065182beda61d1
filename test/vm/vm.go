// Package vm boots a small Linux virtual machine for tests that need a kernel of
// their own: one that has nvme-tcp, and may be hung, renamed and lost devices.
//
// It is QEMU with Debian's cloud kernel and an initramfs of static Go programs
// and file system tools, up in seconds even under software emulation. The guest
// has no disk, unless it is given one, and no network but the machine's loopback, which it reaches as
// HostAddress. Tests run on the machine, where they can do things to targets,
// and tell the guest what to do.
package vm

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/holdfast-csi/holdfast/test/vm/agent"
)

// HostAddress is the machine's 127.0.0.1 as the guest of the default address sees it.
const HostAddress = "10.0.2.2"

// ErrNotPrepared says that Prepare has not run.
var ErrNotPrepared = errors.New("the test VM's files are missing: run `go run ./test/vm/prepare`")

// Config says what machine to boot. The zero value boots one.
type Config struct {
	Kernel     Kernel            // default Stock
	CPUs       int               // default 2
	MemoryMiB  int               // default 512
	KernelArgs []string          // more for the kernel's command line, e.g. nvme_core.multipath=N
	Files      map[string]string // guest path to a file of this machine, put into the image
	// Disk is an ext4 image with the guest's root file system. The guest starts from it every time: what it writes is lost with it.
	// Without one the image is the root.
	Disk string
	// Address is the guest's, default 10.0.2.15. The machine is number 2 of the same 24 bits.
	Address string
	// Ports are TCP ports of the guest that this machine reaches at Address, which must be an address of this machine then.
	Ports []int
}

// hostAddress is the machine's 127.0.0.1 as the guest sees it.
func (c Config) hostAddress() string { return c.network() + ".2" }

func (c Config) network() string { return c.Address[:strings.LastIndexByte(c.Address, '.')] }

// netdev is QEMU's user network for the guest.
func (c Config) netdev() string {
	dev := fmt.Sprintf("user,id=n0,net=%s.0/24,host=%s", c.network(), c.hostAddress())
	for _, port := range c.Ports {
		dev += fmt.Sprintf(",hostfwd=tcp:%s:%d-%[1]s:%[2]d", c.Address, port)
	}
	return dev
}

// VM is a running virtual machine.
type VM struct {
	host *agent.Host
	qemu *exec.Cmd
	dir  string // console log and image
	done chan struct{}
	err  error // how QEMU ended; read after done
	once sync.Once
}

// Start boots a machine and returns when it takes commands. The machine outlives
// ctx; Close ends it.
func Start(ctx context.Context, c Config) (*VM, error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	for _, image := range c.Kernel.images(cache) {
		if _, err := os.Stat(image); err != nil {
			return nil, fmt.Errorf("%w (%w)", ErrNotPrepared, err)
		}
	}
	dir, err := os.MkdirTemp("", "holdfast-vm-")
	if err != nil {
		return nil, err
	}
	v := &VM{dir: dir, done: make(chan struct{})}
	if err := v.boot(ctx, c, cache); err != nil {
		console := v.Console()
		return nil, errors.Join(fmt.Errorf("boot the test VM: %w", err), v.Close(), errors.New(console))
	}
	return v, nil
}

func (v *VM) boot(ctx context.Context, c Config, cache string) error {
	image := filepath.Join(v.dir, "initramfs")
	if err := v.writeImage(ctx, image, c.Kernel.images(cache), c.Files); err != nil {
		return err
	}
	var err error
	if v.host, err = agent.Listen(); err != nil {
		return err
	}
	c.CPUs, c.MemoryMiB = cmp.Or(c.CPUs, 2), cmp.Or(c.MemoryMiB, 512)
	c.Address = cmp.Or(c.Address, "10.0.2.15")
	// loglevel: warnings and worse reach the console; the kernel's full log is
	// there for `dmesg`.
	cmdline := append([]string{
		"console=ttyS0", "loglevel=5", "panic=-1", "mitigations=off", "random.trust_cpu=on", "no_timer_check", "tsc=reliable", "cryptomgr.notests",
		fmt.Sprintf("holdfast.agent=%s:%d", c.hostAddress(), v.host.Port()), "holdfast.token=" + v.host.Token, "holdfast.address=" + c.Address,
	}, c.KernelArgs...)
	if c.Disk != "" {
		cmdline = append(cmdline, "holdfast.root=/dev/vda")
	}
	args := append(accelerators(),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-smp", fmt.Sprint(c.CPUs), "-m", fmt.Sprintf("%dM", c.MemoryMiB),
		"-serial", "file:"+v.consoleFile(),
		"-netdev", c.netdev(), "-device", "virtio-net-pci,netdev=n0,romfile=",
		"-device", "virtio-rng-pci",
		"-kernel", kernelFile(c.Kernel.dir(cache)), "-initrd", image, "-append", strings.Join(cmdline, " "),
	)
	if c.Disk != "" {
		args = append(args, "-drive", "if=virtio,format=raw,snapshot=on,cache=unsafe,file="+c.Disk)
	}
	v.qemu = exec.Command(qemu, args...)
	var messages bytes.Buffer
	v.qemu.Stdout, v.qemu.Stderr = &messages, &messages
	if err := v.qemu.Start(); err != nil {
		return err
	}
	go func() {
		v.err = fmt.Errorf("the virtual machine has ended: %w: %s", v.qemu.Wait(), messages.String())
		close(v.done)
	}()
	return v.up(ctx)
}

// up waits until a command runs, the machine ends, or ctx does.
func (v *VM) up(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-v.done:
			cancel(v.err)
		case <-stop:
		}
	})
	_, err := v.Run(ctx, "true")
	close(stop)
	wg.Wait()
	return err
}

// writeImage puts the prepared archives and another one, of init and c.Files,
// into one file: the kernel unpacks all.
func (v *VM) writeImage(ctx context.Context, image string, prepared []string, files map[string]string) (err error) {
	initProgram := filepath.Join(v.dir, "init")
	if err := Build(ctx, initProgram, "github.com/holdfast-csi/holdfast/test/vm/init"); err != nil {
		return err
	}
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, from := range prepared {
		if err := appendFile(f, from); err != nil {
			return err
		}
	}
	a := newArchive(f)
	if err := a.file("/init", initProgram); err != nil {
		return err
	}
	for name, from := range files {
		if err := a.file(name, from); err != nil {
			return err
		}
	}
	return a.close()
}

// appendFile writes a whole file to another.
func appendFile(to io.Writer, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(to, f)
	return err
}

// Close ends the machine as a power cut would, and removes its files.
func (v *VM) Close() error {
	var err error
	v.once.Do(func() {
		if v.qemu != nil && v.qemu.Process != nil {
			_ = v.qemu.Process.Kill() // it may have ended by itself
			<-v.done
		}
		if v.host != nil {
			err = v.host.Close()
		}
		err = errors.Join(err, os.RemoveAll(v.dir))
	})
	return err
}

// Done is closed when the machine has ended, be it by itself.
func (v *VM) Done() <-chan struct{} { return v.done }

func (v *VM) consoleFile() string { return filepath.Join(v.dir, "console.log") }

var controlSequence = regexp.MustCompile(`\x1b(\[[0-9;?]*[A-Za-z]|c)|\r`)

// Console is what the kernel and init have printed.
func (v *VM) Console() string {
	b, err := os.ReadFile(v.consoleFile())
	if err != nil {
		return "no console output: " + err.Error()
	}
	return string(controlSequence.ReplaceAll(b, nil))
}

// Result is what a command left.
type Result struct {
	Stdout, Stderr string
	Code           int // exit code; 128+n after signal n
}

// Run runs a command in the guest to its end. The error is for a command that
// could not be run to its end; a failed one has its Code.
func (v *VM) Run(ctx context.Context, args ...string) (Result, error) {
	var out, messages bytes.Buffer
	p, err := v.Start(ctx, agent.Command{Args: args}, agent.Streams{Stdout: &out, Stderr: &messages})
	if err != nil {
		return Result{}, err
	}
	code, err := p.Wait()
	return Result{out.String(), messages.String(), code}, err
}

// Output is Run for a command that must succeed.
func (v *VM) Output(ctx context.Context, args ...string) (string, error) {
	r, err := v.Run(ctx, args...)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("exit code %d", r.Code)
	}
	if err != nil {
		return r.Stdout, fmt.Errorf("in the guest: %s: %w\n%s%s", strings.Join(args, " "), err, r.Stdout, r.Stderr)
	}
	return r.Stdout, nil
}

// Start starts a command in the guest; the end of ctx kills it.
func (v *VM) Start(ctx context.Context, c agent.Command, s agent.Streams) (*agent.Process, error) {
	return v.host.Start(ctx, c, s)
}

// DialContext opens a connection from inside the guest, for instance to the Unix
// socket of a server there: grpc.WithContextDialer takes it.
func (v *VM) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return v.host.DialContext(ctx, network, address)
}

// OpenLoad opens a load on a file of the guest.
func (v *VM) OpenLoad(ctx context.Context, spec agent.LoadSpec) (*agent.Load, error) {
	return v.host.OpenLoad(ctx, spec)
}

// ReadFile reads a file of the guest, sysfs and proc included.
func (v *VM) ReadFile(ctx context.Context, path string) ([]byte, error) {
	return v.host.Get(ctx, path)
}

// WriteFile writes a file in the guest, and the directories above it.
func (v *VM) WriteFile(ctx context.Context, path string, content []byte, mode fs.FileMode) error {
	return v.host.Put(ctx, path, mode, int64(len(content)), bytes.NewReader(content))
}

// Copy copies a file of this machine into the guest.
func (v *VM) Copy(ctx context.Context, from, path string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return v.host.Put(ctx, path, st.Mode().Perm(), st.Size(), f)
}
