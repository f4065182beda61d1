package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// accelerators are QEMU's arguments for the processor. /dev/kvm may be there and
// even answer on a machine whose processor can't nest: guests then never run, so
// the processor is asked.
func accelerators() []string {
	emulated := []string{"-accel", "tcg,thread=multi", "-cpu", "max"}
	kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return emulated
	}
	kvm.Close()
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return emulated
	}
	for _, line := range strings.Split(string(info), "\n") {
		if !strings.HasPrefix(line, "flags") {
			continue
		}
		for _, flag := range strings.Fields(line) {
			if flag == "vmx" || flag == "svm" {
				return []string{"-accel", "kvm", "-accel", "tcg", "-cpu", "max"}
			}
		}
	}
	return emulated
}

// Build compiles a program of this module for the guest: static, as that has no
// other libraries than its tools need.
func Build(ctx context.Context, output, pkg string) error {
	return goTool(ctx, "build", "-o", output, pkg)
}

// BuildTest compiles a package's tests, with a build tag, for the guest.
func BuildTest(ctx context.Context, output, pkg, tag string) error {
	return goTool(ctx, "test", "-c", "-tags", tag, "-o", output, pkg)
}

// RunTest compiles a package's tests, copies them into the guest and runs them
// there; tag is the build tag, run a pattern as for `go test -run`. The error
// carries what they printed.
func (v *VM) RunTest(ctx context.Context, pkg, tag, run string) (output string, err error) {
	name := strings.ReplaceAll(pkg, "/", "-") + ".test"
	program := filepath.Join(v.dir, name)
	if err := BuildTest(ctx, program, pkg, tag); err != nil {
		return "", err
	}
	if err := v.Copy(ctx, program, "/tmp/"+name); err != nil {
		return "", err
	}
	return v.Output(ctx, "/tmp/"+name, "-test.v", "-test.run", run)
}

func goTool(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOFLAGS=-trimpath")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}
