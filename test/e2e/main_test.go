//go:build e2e

// Package e2e runs the driver's node side against a real Linux kernel, in a
// virtual machine, and targets on this machine that are killed, hung and cut off.
package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/e2e/guest"
	"github.com/holdfast-csi/holdfast/test/vm"
	"github.com/holdfast-csi/holdfast/test/vm/agent"
)

const (
	hostdPath = "/usr/local/bin/hostd"
	// long is the limit of what should succeed: software emulation on a busy
	// machine is slow, and nothing is measured by it.
	long = 90 * time.Second
)

// machine is a virtual machine with hostd running.
type machine struct {
	*vm.VM
	*guest.Client
}

var shared struct {
	sync.Mutex
	machine *machine
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.machine != nil {
		shared.machine.Client.Close()
		if err := shared.machine.VM.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// sharedMachine is one machine for all tests that leave it as they found it:
// each has NQNs and paths of its own.
func sharedMachine(t *testing.T) *machine {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.machine == nil {
		v, err := vm.Start(t.Context(), config(t))
		if err != nil {
			t.Fatal(err)
		}
		shared.machine = withHostd(t, v)
	}
	m := shared.machine
	t.Cleanup(func() {
		if t.Failed() {
			ctx, cancel := context.WithTimeout(context.Background(), long)
			defer cancel()
			log, _ := m.Run(ctx, "sh", "-c", "dmesg | tail -n 50")
			t.Logf("end of the guest's kernel log:\n%s", log.Stdout)
		}
	})
	return m
}

// ownMachine is a machine for one test.
func ownMachine(t *testing.T, kernelArgs ...string) *machine {
	t.Helper()
	c := config(t)
	c.KernelArgs = kernelArgs
	m := withHostd(t, vm.ForTest(t, c))
	t.Cleanup(func() { m.Client.Close() })
	return m
}

func config(t *testing.T) vm.Config {
	t.Helper()
	hostd := filepath.Join(t.TempDir(), "hostd")
	if err := vm.Build(t.Context(), hostd, "github.com/holdfast-csi/holdfast/test/e2e/guest/hostd"); err != nil {
		t.Fatal(err)
	}
	return vm.Config{Files: map[string]string{hostdPath: hostd}}
}

// withHostd starts hostd, which lives as long as the machine.
func withHostd(t *testing.T, v *vm.VM) *machine {
	t.Helper()
	out, in := io.Pipe()
	_, err := v.Start(context.Background(), agent.Command{Args: []string{hostdPath}}, agent.Streams{Stdout: in, Stderr: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.Contains(line, "listening") {
		t.Fatalf("hostd says %q, %v", line, err)
	}
	client, err := guest.Dial(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	return &machine{v, client}
}

// must is Do for what has to succeed.
func (m *machine) must(t *testing.T, op string, args guest.Args, value any) {
	t.Helper()
	if err := m.Do(long, op, args, value); err != nil {
		t.Fatalf("%s: %v", op, err)
	}
}

// sh runs a shell command that has to succeed.
func (m *machine) sh(t *testing.T, command string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	out, err := m.Output(ctx, "sh", "-ec", command)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
