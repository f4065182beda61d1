package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-csi/holdfast/driver"
)

func TestProbeTakesAServiceThatWaitsForItsTurnForWell(t *testing.T) {
	path := filepath.Join(t.TempDir(), "csi.sock")
	if _, _, err := output(t, "probe", "--endpoint", path); err != nil {
		t.Errorf("no socket: %v", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	if _, _, err := output(t, "probe", "--endpoint", path); err != nil {
		t.Errorf("a socket that a killed process left: %v", err)
	}
}

func TestProbeTellsAServiceThatAnswersFromOneThatHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "csi.sock")
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- driver.Serve(ctx, path, driver.Services{Identity: driver.Identity{}}) }()
	for { // until it serves: before, every answer is "well"
		if conn, err := net.Dial("unix", path); err == nil {
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if _, _, err := output(t, "probe", "--endpoint", "unix://"+path); err != nil {
		t.Errorf("a service that answers: %v", err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Fatal(err)
	}

	silent, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if _, _, err := output(t, "probe", "--endpoint", path, "--timeout", "100ms"); err == nil || !strings.Contains(err.Error(), "doesn't answer") {
		t.Errorf("a service that hangs: %v", err)
	}
	if _, _, err := output(t, "probe", "--endpoint", "tcp://host"); err == nil {
		t.Error("an endpoint that is no socket is taken")
	}
}
