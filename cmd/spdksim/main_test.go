package main

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseSizeTakesBinaryUnits(t *testing.T) {
	for in, want := range map[string]int64{"4096": 4096, "4MiB": 4 << 20, "8 GiB": 8 << 30, "1TiB": 1 << 40} {
		if got, err := parseSize(in); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "0", "-1", "4MB", "GiB", "99999999TiB"} {
		if got, err := parseSize(in); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", in, got)
		}
	}
}

func TestMalformedFlagsAreRefused(t *testing.T) {
	for _, args := range [][]string{
		{},
		{"--dir", t.TempDir(), "--pool", "8GiB"},
		{"--dir", t.TempDir(), "--pool", "lvs=many"},
		{"--dir", t.TempDir(), "--cluster-size", "x"},
		{"--dir", t.TempDir(), "--block-size", "1000"},
		{"--dir", t.TempDir(), "extra"},
	} {
		cmd := command()
		cmd.SetArgs(args)
		if err := cmd.ExecuteContext(context.Background()); err == nil {
			t.Errorf("%q was accepted", args)
		}
	}
}

func TestProgramServesItsNodesUntilItIsTold(t *testing.T) {
	dir, err := os.MkdirTemp("", "sim")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		cmd := command()
		cmd.SetArgs([]string{"--dir", dir, "--nodes", "2", "--pool", "lvs=1GiB", "--files"})
		done <- cmd.ExecuteContext(ctx)
	}()
	got := ask(t, filepath.Join(dir, "control.sock"), "sim_nodes")
	if strings.Count(got, `"running":true`) != 2 {
		t.Errorf("sim_nodes: %s", got)
	}
	got = ask(t, filepath.Join(dir, "node-1.sock"), "bdev_lvol_get_lvstores")
	if !strings.Contains(got, `"name":"lvs"`) {
		t.Errorf("bdev_lvol_get_lvstores: %s", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.sock")); len(left) > 0 {
		t.Errorf("sockets were left behind: %v", left)
	}
}

// ask calls a method as soon as the socket is there.
func ask(t *testing.T, socket, method string) string {
	t.Helper()
	var conn net.Conn
	var err error
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if conn, err = net.Dial("unix", socket); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(`{"jsonrpc":"2.0","id":1,"method":"` + method + `"}`)); err != nil {
		t.Fatal(err)
	}
	var answer json.RawMessage
	if err := json.NewDecoder(conn).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return string(answer)
}
