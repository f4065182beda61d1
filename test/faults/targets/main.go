// Command targets runs real SPDK targets for the fault matrix, each in a network namespace of its own behind a bridge, and does to them
// what the matrix asks for. As root, with iproute2:
//
//	NVMF_TGT=.../nvmf_tgt go run ./test/faults/targets run make faults
//
// starts them, runs the command where it reaches them, and ends them. The program is itself what FAULTS_CONTROL names (see
// test/stack/real.go). More settings, in the environment:
//
//	TARGETS            how many, default 3
//	TARGETS_DIR        sockets, disks and logs, default /tmp/holdfast-targets
//	TARGETS_DISK_MIB   size of each disk, default 4096
//	NVMF_ARGS          arguments of each nvmf_tgt, default "-m 0x2 --no-huge -s 512 --no-pci --disable-cpumask-locks"
//	TARGETS_POLL_GROUPS the poll_groups_mask, for targets with two cores: volumes that grow freeze one with a single core for 30 s
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
)

// cantDo is the exit status for a fault that this machine can't make (stack.ControlVariable).
const cantDo = 2

var errCantDo = errors.New("this machine can't do that")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	stop()
	var command *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &command) && len(os.Args) > 1 && os.Args[1] == "run":
		os.Exit(command.ExitCode())
	default:
		fmt.Fprintln(os.Stderr, "targets:", err)
		if errors.Is(err, errCantDo) {
			os.Exit(cantDo)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	l, err := newLab()
	if err != nil {
		return err
	}
	if len(args) > 1 && args[0] == "run" {
		return l.runWith(ctx, args[1:])
	}
	if len(args) != 2 {
		return errors.New("want: run COMMAND..., or one of kill start stop cont drop undrop slow fast diskhang diskok with the number of a target")
	}
	number, err := strconv.Atoi(args[1])
	if err != nil || number < 1 || number > l.count {
		return fmt.Errorf("target %q: there are 1 to %d", args[1], l.count)
	}
	return l.target(number).control(ctx, args[0])
}

// lab is all targets.
type lab struct {
	count, diskMiB           int
	dir, program, pollGroups string
	args                     []string
}

func newLab() (*lab, error) {
	l := &lab{
		dir: cmp.Or(os.Getenv("TARGETS_DIR"), "/tmp/holdfast-targets"), program: os.Getenv("NVMF_TGT"), pollGroups: os.Getenv("TARGETS_POLL_GROUPS"),
		args: strings.Fields(cmp.Or(os.Getenv("NVMF_ARGS"), "-m 0x2 --no-huge -s 512 --no-pci --disable-cpumask-locks")),
	}
	if l.program == "" {
		return nil, errors.New("NVMF_TGT: give the path of SPDK's nvmf_tgt")
	}
	var err error
	if l.count, err = strconv.Atoi(cmp.Or(os.Getenv("TARGETS"), "3")); err != nil {
		return nil, fmt.Errorf("TARGETS: %w", err)
	}
	if l.diskMiB, err = strconv.Atoi(cmp.Or(os.Getenv("TARGETS_DISK_MIB"), "4096")); err != nil {
		return nil, fmt.Errorf("TARGETS_DISK_MIB: %w", err)
	}
	return l, os.MkdirAll(l.dir, 0o755)
}

func (l *lab) target(number int) *target {
	return &target{lab: l, number: number, name: filepath.Join(l.dir, fmt.Sprintf("spdk%d", number))}
}

// runWith runs a command with fresh targets, where it reaches them.
func (l *lab) runWith(ctx context.Context, command []string) (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := l.joinNetworks(); err != nil {
		return err
	}
	defer l.partNetworks()
	var sockets, addresses []string
	for i := 1; i <= l.count; i++ {
		t := l.target(i)
		if err := errors.Join(t.removeDisk(), t.start(ctx)); err != nil {
			return err
		}
		defer t.end()
		sockets, addresses = append(sockets, t.socket()), append(addresses, t.ip())
	}
	cmd := exec.Command("ip", append([]string{"netns", "exec", testsNamespace}, command...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "SPDK_RPC_SOCK="+strings.Join(sockets, ","), "SPDK_NVMF="+strings.Join(addresses, ","), "FAULTS_CONTROL="+self)
	return cmd.Run()
}
