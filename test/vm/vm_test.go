//go:build e2e

package vm

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/test/vm/agent"
)

func TestGuestRunsCommandsAndHasNVMeTCP(t *testing.T) {
	begin := time.Now()
	v := ForTest(t, Config{KernelArgs: []string{"nvme_core.multipath=N"}})
	t.Logf("booted in %v", time.Since(begin).Round(time.Millisecond))
	ctx := t.Context()

	r, err := v.Run(ctx, "sh", "-c", "echo out; echo err >&2; exit 7")
	if err != nil || r.Code != 7 || r.Stdout != "out\n" || r.Stderr != "err\n" {
		t.Fatalf("got %+v, %v", r, err)
	}
	if _, err := v.Output(ctx, "test", "-c", "/dev/nvme-fabrics"); err != nil {
		t.Error(err)
	}
	if b, err := v.ReadFile(ctx, "/sys/module/nvme_core/parameters/multipath"); err != nil || strings.TrimSpace(string(b)) != "N" {
		t.Errorf("multipath is %q, %v", b, err)
	}
	for _, tool := range programs {
		if _, err := v.Output(ctx, "which", tool); err != nil {
			t.Error(err)
		}
	}
	if _, err := v.Run(ctx, "/no/such/program"); err == nil {
		t.Error("a program that does not exist was run")
	}
	if out, err := v.Output(ctx, "mkfs.xfs", "-V"); err != nil {
		t.Error(out, err)
	}
}

// The tests of node/mount touch what a kernel makes different: permissions, file
// systems, mountinfo.
func TestPackageTestsRunInTheGuest(t *testing.T) {
	v := ForTest(t, Config{})
	out, err := v.RunTest(t.Context(), "github.com/holdfast-csi/holdfast/node/mount", "e2e", ".")
	if err != nil || !strings.Contains(out, "--- PASS") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestCommandTakesInputAndDiesWithItsContext(t *testing.T) {
	v := ForTest(t, Config{})
	var out strings.Builder
	p, err := v.Start(t.Context(), agent.Command{Args: []string{"sh", "-c", "cat; echo $GREETING"}, Env: []string{"GREETING=hello"}},
		agent.Streams{Stdin: strings.NewReader("input\n"), Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	if code, err := p.Wait(); err != nil || code != 0 || out.String() != "input\nhello\n" {
		t.Errorf("got %d, %v, %q", code, err, out.String())
	}

	ctx, cancel := context.WithCancel(t.Context())
	p, err = v.Start(ctx, agent.Command{Args: []string{"sleep", "1234"}}, agent.Streams{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := p.Wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	// The agent learns of it when the call closes; wait until it has acted.
	if _, err := v.Output(t.Context(), "sh", "-c", "while pgrep -f 'sleep 1234' >/dev/null; do usleep 10000; done"); err != nil {
		t.Error(err)
	}
}

func TestTestOnTheMachineTalksToUnixSocketInTheGuest(t *testing.T) {
	v := ForTest(t, Config{})
	ctx := t.Context()
	if err := v.WriteFile(ctx, "/tmp/sub/echo.sh", []byte("#!/bin/sh\nread line; echo got $line\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var messages strings.Builder
	server, err := v.Start(ctx, agent.Command{Args: []string{"nc", "-l", "-p", "4000", "-e", "/tmp/sub/echo.sh"}}, agent.Streams{Stderr: &messages})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Signal(9) }()
	var conn net.Conn
	for conn == nil {
		if conn, err = v.DialContext(ctx, "tcp", "127.0.0.1:4000"); err == nil {
			break
		}
		select {
		case <-server.Done():
			code, err := server.Wait()
			t.Fatalf("the server ended with %d, %v: %s", code, err, messages.String())
		default:
		}
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "line\n"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 9)
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != "got line\n" {
		t.Errorf("got %q, %v", b, err)
	}
	if _, err := v.DialContext(ctx, "unix", "/no/such/socket"); err == nil {
		t.Error("dialled a socket that does not exist")
	}
}
