package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/sim/memnet"
)

// newDirectNode starts a node that needs neither a socket nor the kernel's network.
func newDirectNode(t *testing.T, name string, network *Network, tcp *memnet.Network) *Node {
	t.Helper()
	return newNode(t, name, func(c *Config) {
		c.Socket, c.Network, c.Listen, c.Dial = "", network, tcp.Listen, tcp.Dial
		c.NVMeOptions = map[string]any{"timeout_us": 60_000_000, "keep_alive_timeout_ms": 2000, "action_on_timeout": "reset"}
	})
}

func TestCallWithoutSocketAnswersAsTheSocketDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newDirectNode(t, "n", NewNetwork(nil), memnet.New())
		ctx := t.Context()
		if _, err := n.Call(ctx, "bdev_null_create", json.RawMessage(createNull)); err != nil {
			t.Fatal(err)
		}
		var refused *CallError
		if _, err := n.Call(ctx, "bdev_null_create", json.RawMessage(createNull)); !errors.As(err, &refused) || refused.Code != -17 {
			t.Errorf("made twice: %v", err)
		}
		n.AddRPCFault(RPCFault{Kind: HangupAfter, Call: 1})
		if _, err := n.Call(ctx, "bdev_null_delete", json.RawMessage(`{"name":"null"}`)); !errors.Is(err, ErrHungUp) {
			t.Errorf("hung up: %v", err)
		}
		if _, err := n.Call(ctx, "bdev_get_bdevs", json.RawMessage(`{"name":"null"}`)); !errors.As(err, &refused) {
			t.Errorf("deleted before it hung up: %v", err)
		}
		n.Kill()
		if _, err := n.Call(ctx, "spdk_get_version", nil); !errors.Is(err, ErrNotRunning) {
			t.Errorf("killed: %v", err)
		}
	})
}

func TestStoppedProcessDoesLaterWhatItWasAskedInThatOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newDirectNode(t, "n", NewNetwork(nil), memnet.New())
		n.Hang(true)
		for _, call := range [][2]string{{"bdev_null_create", createNull}, {"bdev_null_delete", `{"name":"null"}`}, {"bdev_null_create", createNull}} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := n.Call(ctx, call[0], json.RawMessage(call[1])); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s while stopped: %v", call[0], err)
			}
			cancel()
		}
		if _, err := n.Inspect(t.Context(), "bdev_get_bdevs", json.RawMessage(`{"name":"null"}`)); err == nil {
			t.Error("something was done by a stopped process")
		}
		n.Hang(false)
		synctest.Wait()
		if _, err := n.Inspect(t.Context(), "bdev_get_bdevs", json.RawMessage(`{"name":"null"}`)); err != nil {
			t.Errorf("nothing was done when it went on: %v", err)
		}
	})
}

// Everything that is driven by time follows the clock of a bubble: an idle peer that hangs is noticed by its keep-alive, tried
// again, and given up.
func TestHungPeerIsGivenUpInFakeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, tcp := NewNetwork(nil), memnet.New()
		a, b := newDirectNode(t, "a", network, tcp), newDirectNode(t, "b", network, tcp)
		ok := func(n *Node, method, params string) json.RawMessage {
			t.Helper()
			result, err := n.Call(t.Context(), method, json.RawMessage(params))
			if err != nil {
				t.Fatalf("%s: %v", method, err)
			}
			return result
		}
		ok(b, "bdev_null_create", createNull)
		ok(b, "nvmf_create_subsystem", `{"nqn":"nqn.2026-11.dev:b","allow_any_host":true}`)
		ok(b, "nvmf_subsystem_add_ns", `{"nqn":"nqn.2026-11.dev:b","namespace":{"bdev_name":"null"}}`)
		ok(b, "nvmf_subsystem_add_listener", `{"nqn":"nqn.2026-11.dev:b","listen_address":{"trtype":"TCP","adrfam":"IPv4","traddr":"10.0.0.2","trsvcid":"4420"}}`)
		ok(a, "bdev_nvme_attach_controller", `{"name":"leg","trtype":"TCP","adrfam":"IPv4","traddr":"10.0.0.2","trsvcid":"4420",
			"subnqn":"nqn.2026-11.dev:b","reconnect_delay_sec":1,"fast_io_fail_timeout_sec":2,"ctrlr_loss_timeout_sec":6}`)
		time.Sleep(time.Hour)
		b.Hang(true)
		begin := time.Now()
		for string(ok(a, "bdev_nvme_get_controllers", `{}`)) != "[]" {
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(begin); took < 6*time.Second || took > 12*time.Second {
			t.Errorf("the controller was given up after %v", took)
		}
	})
}

func TestListingARaidOfTooManyMemoryDomainsEndsTheProcess(t *testing.T) {
	n, ctx := newNode(t, "n", nil), context.Background()
	call := func(method, params string) error {
		_, err := n.Call(ctx, method, json.RawMessage(params))
		return err
	}
	var bases []string
	for i := range 9 { // with two memory domains each
		name := fmt.Sprintf("m%d", i)
		if err := call("bdev_malloc_create", fmt.Sprintf(`{"name":%q,"block_size":4096,"num_blocks":256}`, name)); err != nil {
			t.Fatal(err)
		}
		bases = append(bases, fmt.Sprintf("%q", name))
	}
	for _, c := range []struct {
		raid  string
		bases int
		ends  bool
	}{{"eight", 8, false}, {"nine", 9, true}} {
		create := fmt.Sprintf(`{"name":%q,"raid_level":"raid1","base_bdevs":[%s]}`, c.raid, strings.Join(bases[:c.bases], ","))
		if err := call("bdev_raid_create", create); err != nil {
			t.Fatal(err)
		}
		if err := call("bdev_get_bdevs", fmt.Sprintf(`{"name":%q}`, c.raid)); errors.Is(err, ErrHungUp) != c.ends {
			t.Errorf("%d bdevs: %v", c.bases, err)
		}
		if !c.ends {
			if err := call("bdev_raid_delete", fmt.Sprintf(`{"name":%q}`, c.raid)); err != nil {
				t.Fatal(err)
			}
		}
	}
}
