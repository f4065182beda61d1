package stack

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Main runs a program's tests where this machine has Address: here, or in a network namespace of their own (which needs root and
// iproute2), and returns the exit status. The shell commands in setup prepare that namespace.
func Main(m *testing.M, setup ...string) int {
	flag.Parse()
	if l, err := net.Listen("tcp", Address+":0"); err == nil {
		_ = l.Close()
		return m.Run()
	}
	steps := append([]string{"ip link set lo up", "ip address add " + Address + "/32 dev lo"}, setup...)
	script := strings.Join(append(steps, `exec "$0" "$@"`), " && ")
	again := exec.Command("unshare", append([]string{"--net", "sh", "-c", script}, os.Args...)...)
	again.Stdout, again.Stderr = os.Stdout, os.Stderr
	err := again.Run()
	var ended *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &ended):
		return max(ended.ExitCode(), 1) // it has said why
	}
	fmt.Fprintln(os.Stderr, "run in a network namespace (this needs root and iproute2):", err)
	return 1
}
