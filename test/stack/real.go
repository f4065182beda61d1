package stack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// ControlVariable names the environment variable with the path of a program that begins and ends the faults of real targets. It is
// called with a command and the number of the target, from 1 in the order of SPDK_RPC_SOCK:
//
//	kill start      the process ends as of SIGKILL; it starts again with its configuration and the same disks
//	stop cont       SIGSTOP, SIGCONT
//	drop undrop     every packet to and from the target is dropped (its gateway is seen to here)
//	slow fast       they are delayed
//	diskhang diskok the disk below the lvstore answers no I/O
//
// Exit status 2 says that it can't do that here; any other than 0 is a failure. test/faults/targets is such a program.
const ControlVariable = "FAULTS_CONTROL"

// addressesVariable names the environment variable with the IP addresses that real targets are to listen on, separated by commas;
// default is Address for all.
const addressesVariable = "SPDK_NVMF"

// ErrUnsupported says that a fault can't be made here.
var ErrUnsupported = errors.New("this fault can't be made here")

// unsupported is the exit status for it.
const unsupported = 2

// commands are what begins and what ends each fault.
var commands = map[Fault][2]string{
	Killed: {"kill", "start"}, Hung: {"stop", "cont"}, Cut: {"drop", "undrop"}, Slow: {"slow", "fast"}, DiskHung: {"diskhang", "diskok"},
}

var errNoControl = errors.New("real targets are not touched: set " + ControlVariable + " to a program that does it (test/stack/real.go)")

// real is an nvmf_tgt process.
type real struct {
	socket  string
	number  int
	program string
}

// takeReal takes the targets with these sockets. They need an lvstore each and a TCP transport, and their addresses in their network
// namespaces.
func (s *Stack) takeReal(sockets []string) error {
	var ips []string
	if all := os.Getenv(addressesVariable); all != "" {
		ips = strings.Split(all, ",")
	}
	if len(ips) > 0 && len(ips) != len(sockets) {
		return fmt.Errorf("%s names %d addresses, %s %d sockets", addressesVariable, len(ips), socketsVariable, len(sockets))
	}
	for i, socket := range sockets {
		t := &Target{Name: fmt.Sprintf("n%d", i+1), Socket: socket, present: map[Fault]bool{}}
		t.control = &real{socket: socket, number: i + 1, program: os.Getenv(ControlVariable)}
		var err error
		if len(ips) > 0 {
			t.NVMf = net.JoinHostPort(ips[i], nvmfPort)
		} else if t.NVMf, err = freeAddress(s.ip); err != nil {
			return err
		}
		s.Targets = append(s.Targets, t)
	}
	return nil
}

// nvmfPort is the port of NVMe/TCP, used where each target has an address of its own.
const nvmfPort = "4420"

func (r *real) describe() string { return "real (nvmf_tgt)" }

func (r *real) alive(ctx context.Context) bool {
	if r.program == "" {
		return true // nobody to start it again
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", r.socket)
	if err == nil {
		_ = conn.Close()
	}
	return !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, fs.ErrNotExist)
}

func (r *real) set(ctx context.Context, f Fault, on bool) error {
	if r.program == "" {
		return errNoControl
	}
	command := commands[f][0]
	if !on {
		command = commands[f][1]
	}
	out, err := exec.CommandContext(ctx, r.program, command, strconv.Itoa(r.number)).CombinedOutput()
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.ExitCode() == unsupported {
		return fmt.Errorf("%w: %s", ErrUnsupported, strings.TrimSpace(string(out)))
	}
	if err != nil {
		return fmt.Errorf("%s %s %d: %w: %s", r.program, command, r.number, err, strings.TrimSpace(string(out)))
	}
	return nil
}
