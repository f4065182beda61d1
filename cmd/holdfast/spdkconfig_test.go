package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
)

func TestSPDKConfigHasEverythingInTheOrderThatSPDKWants(t *testing.T) {
	out, warning, err := output(t, "spdk-config", "--stall", "10s", "--poll-groups-mask", "0x2", "--aio", "disk0=/dev/sdb", "--nvme", "fast=0000:01:00.0")
	if err != nil || warning != "" {
		t.Fatalf("%v, %s", err, warning)
	}
	want := `{"subsystems":[
		{"subsystem":"bdev","config":[
			{"method":"bdev_set_options","params":{"bdev_auto_examine":false}},
			{"method":"bdev_nvme_set_options","params":{"action_on_timeout":"reset","timeout_us":4000000,"timeout_admin_us":4000000,
				"keep_alive_timeout_ms":2000,"transport_ack_timeout":9,"tcp_connect_timeout_ms":0}},
			{"method":"bdev_aio_create","params":{"name":"disk0","filename":"/dev/sdb","block_size":4096}},
			{"method":"bdev_nvme_attach_controller","params":{"name":"fast","trtype":"PCIe","traddr":"0000:01:00.0"}},
			{"method":"bdev_examine","params":{"name":"disk0"}},
			{"method":"bdev_examine","params":{"name":"fastn1"}},
			{"method":"bdev_wait_for_examine"}]},
		{"subsystem":"nvmf","config":[
			{"method":"nvmf_set_config","params":{"poll_groups_mask":"0x2","dhchap_dhgroups":["ffdhe3072"]}},
			{"method":"nvmf_create_transport","params":{"trtype":"TCP","kas":5,"min_kato":2000}}]}]}`
	var compact [2]bytes.Buffer
	for i, text := range []string{out, want} {
		if err := json.Compact(&compact[i], []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if compact[0].String() != compact[1].String() {
		t.Errorf("got  %s\nwant %s", &compact[0], &compact[1])
	}
}

func TestSPDKConfigWithoutPollGroupsMaskWarns(t *testing.T) {
	out, warning, err := output(t, "spdk-config")
	if err != nil || !strings.Contains(warning, "--poll-groups-mask") || strings.Contains(out, "poll_groups_mask") {
		t.Errorf("%v, warning %q, printed %s", err, warning, out)
	}
}

func TestSPDKConfigBoundsRebuildsIfAskedTo(t *testing.T) {
	out, _, err := output(t, "spdk-config", "--rebuild-bandwidth", "200", "--poll-groups-mask", "0x2")
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(out)); err != nil {
		t.Fatal(err)
	}
	if want := `{"method":"bdev_raid_set_options","params":{"process_max_bandwidth_mb_sec":200}}`; err != nil || !strings.Contains(compact.String(), want) {
		t.Errorf("%v, printed %s", err, out)
	}
	if out, _, err = output(t, "spdk-config", "--poll-groups-mask", "0x2"); err != nil || strings.Contains(out, "bdev_raid_set_options") {
		t.Errorf("%v, printed %s", err, out)
	}
}

// The configuration is carried out as SPDK carries it out: first what may precede its start, then the rest.
func TestNodeStartedWithTheConfigurationHoldsTheBudget(t *testing.T) {
	for _, stall := range []time.Duration{10 * time.Second, 20 * time.Second, 29 * time.Second} {
		c, err := newSPDKConfig(spdkConfigOptions{stall: stall, pollGroupsMask: "0x2"})
		if err != nil {
			t.Fatal(err)
		}
		dir, err := os.MkdirTemp("", "hf")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		n, err := sim.New(sim.Config{Name: "n1", Socket: filepath.Join(dir, "n1.sock"), WaitForRPC: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.Close)
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
		rpc, err := spdk.Dial("unix://"+n.Socket(), spdk.Options{CallTimeout: timeouts.RPC})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = rpc.Close() })
		var later []spdkCall
		for _, s := range c.Subsystems {
			for _, call := range s.Config {
				if call.Method == "nvmf_create_transport" {
					later = append(later, call)
					continue
				}
				if err := rpc.Call(t.Context(), call.Method, call.Params, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, call := range append([]spdkCall{{Method: "framework_start_init"}}, later...) {
			if err := rpc.Call(t.Context(), call.Method, call.Params, nil); err != nil {
				t.Fatal(err)
			}
		}
		held(t, spdk.NewNode("n1", rpc), stall)
	}
}

// held checks that a node holds a stall budget without anything having to be set.
func held(t *testing.T, n *spdk.Node, stall time.Duration) {
	t.Helper()
	before, err := n.InForce(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := timeouts.Budgets{ReplicaStall: stall, TargetLoss: timeouts.DefaultBudgets().TargetLoss}
	values, err := converge.NewInForce(converge.NewCluster([]*converge.Node{{Node: n, Name: "n1"}}), clock.RealClock{}).Of(t.Context(), "n1", b)
	if err != nil {
		t.Fatal(err)
	}
	if after, err := n.InForce(t.Context()); err != nil || after.NVMe != before.NVMe || *after.Transport != *before.Transport {
		t.Errorf("for %s something had to be set: %+v, %v", stall, after, err)
	}
	if err := values.Joins(b); err != nil {
		t.Errorf("for %s: %v", stall, err)
	}
}
