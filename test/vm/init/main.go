// Command init is process 1 of the test virtual machine: it mounts the usual
// file systems, loads the modules that the image lists, gives the network card
// its address, and serves the control channel. When that ends, the machine does.
package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-csi/holdfast/test/vm/agent"
)

// modulesList names the image's modules in the order of their dependencies.
const modulesList = "/etc/modules"

func main() {
	if len(os.Args) > 2 && os.Args[1] == "agent" {
		fmt.Fprintln(os.Stderr, "agent:", agent.Serve(os.Args[2], os.Args[3]))
		os.Exit(1)
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this is process 1 of a test virtual machine, not for use elsewhere")
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, "init:", run())
	// Returning would be a panic, with the same end but more noise.
	fmt.Fprintln(os.Stderr, "init: power off:", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}

func run() error {
	for _, m := range []struct{ source, target, fsType string }{
		{"proc", "/proc", "proc"},
		{"sysfs", "/sys", "sysfs"},
		{"devtmpfs", "/dev", "devtmpfs"},
		{"tmpfs", "/run", "tmpfs"},
		{"tmpfs", "/tmp", "tmpfs"},
		{"debugfs", "/sys/kernel/debug", "debugfs"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil && m.fsType != "debugfs" {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.fsType, 0, ""); err != nil && m.fsType != "debugfs" {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := loadModules(); err != nil {
		return err
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	parameter := map[string]string{}
	for _, word := range strings.Fields(string(cmdline)) {
		key, value, _ := strings.Cut(word, "=")
		parameter[key] = value
	}
	for name, text := range map[string]string{"lo": "127.0.0.1", "eth0": parameter["holdfast.address"]} {
		address, err := netip.ParseAddr(text)
		if err == nil {
			err = configure(name, address.As4())
		}
		if err != nil {
			return fmt.Errorf("configure %s: %w", name, err)
		}
	}
	if root := parameter["holdfast.root"]; root != "" {
		if err := switchRoot(root); err != nil {
			return fmt.Errorf("make %s the root: %w", root, err)
		}
	}
	return supervise(parameter["holdfast.agent"], parameter["holdfast.token"])
}

func loadModules() error {
	list, err := os.ReadFile(modulesList)
	if err != nil {
		return err
	}
	for _, path := range strings.Fields(string(list)) {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		// An accelerated variant says ENODEV where the processor lacks it.
		if err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("load %s: %w", path, err)
		}
	}
	return nil
}

// configure gives a network card its address, with the netmask of its class
// narrowed to 24 bits, and takes it up.
func configure(name string, address [4]byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, step := range []struct {
		request uint
		set     func(*unix.Ifreq) error
	}{
		{unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(address[:]) }},
		{unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 0}) }},
		{unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }},
	} {
		r, err := unix.NewIfreq(name)
		if err == nil {
			err = step.set(r)
		}
		if err == nil {
			err = unix.IoctlIfreq(fd, step.request, r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// supervise runs the agent as a child and, as process 1 has to, reaps every
// process that loses its parent.
func supervise(address, token string) error {
	cmd := exec.Command("/proc/self/exe", "agent", address, token)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C"}
	if err := cmd.Start(); err != nil {
		return err
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if pid == cmd.Process.Pid {
			return fmt.Errorf("the agent ended, status %d", status)
		}
	}
}
