package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/holdfast-csi/holdfast/test/cluster"
)

// A controller and a node service are scraped as they are started.
func TestMetricsAreServedWhereTheFlagSays(t *testing.T) {
	c := cluster.New(t, 1, cluster.Options{})
	body, err := yaml.Marshal(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string, body []byte) string {
		path := filepath.Join(c.Dir, name)
		if err := os.WriteFile(path, body, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config, store := file("config.yaml", body), "unix://"+filepath.Join(c.Dir, "store.sock")
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	start := func(args ...string) (address string) {
		address = freePort(t)
		cmd := root()
		cmd.SetArgs(append(args, "--config", config, "--metrics-address", address))
		running.Go(func() {
			if err := cmd.ExecuteContext(ctx); err != nil {
				t.Error(err)
			}
		})
		return address
	}
	controller := start("controller", "--endpoint", filepath.Join(c.Dir, "c.sock"), "--store", "bolt://"+filepath.Join(c.Dir, "served.db"), "--serve-store", store)
	await(t, "http://"+controller+"/readyz", "ok")
	await(t, "http://"+controller+"/metrics", `holdfast_spdk_node_up{spdk_node="n1"} 1`)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("unix", strings.TrimPrefix(store, "unix://"))
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	node := start("node", "--node-id", "host", "--endpoint", filepath.Join(c.Dir, "n.sock"), "--store", store, "--state-dir", filepath.Join(c.Dir, "state"),
		"--machine-id-file", file("machine-id", []byte("m\n")))
	await(t, "http://"+node+"/readyz", "ok")
	await(t, "http://"+node+"/metrics", `holdfast_staged_volumes{condition="healthy"} 0`)
	await(t, "http://"+node+"/metrics", "holdfast_build_info{")
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// await asks until the answer has a text in it.
func await(t *testing.T, url, want string) {
	t.Helper()
	var got string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get(url)
		if err != nil {
			got = err.Error()
			continue
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got = string(body); strings.Contains(got, want) {
			return
		}
	}
	t.Fatalf("%s doesn't tell %q: %s", url, want, got)
}
