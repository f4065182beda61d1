package sim

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

const createNull = `{"name":"null","block_size":4096,"num_blocks":256}`

// faulty runs bdev_null_create under a fault and tells what came of it: the answer,
// the client's error, and whether the bdev is there.
func faulty(t *testing.T, f RPCFault) (answer testAnswer, err error, there bool) {
	t.Helper()
	n := newNode(t, "n", nil)
	n.AddRPCFault(f)
	c := dialNode(t, n)
	c.conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	answer, err = c.try("bdev_null_create", createNull)
	if f.Kind == KillBefore || f.Kind == KillAfter {
		eventually(t, "the process is dead", func() bool { return !n.Running() })
		return answer, err, false
	}
	return answer, err, dialNode(t, n).do("bdev_get_bdevs", `{"name":"null"}`).Error == nil
}

func TestRPCFaultsHitBeforeOrAfterTheEffect(t *testing.T) {
	const method = "bdev_null_create"
	for _, tc := range []struct {
		fault   RPCFault
		code    int
		err     string
		effects bool
	}{
		{RPCFault{Kind: FailBefore, Method: method}, -32603, "", false},
		{RPCFault{Kind: FailAfter, Method: method, Code: -5, Message: "Input/output error"}, -5, "", true},
		{RPCFault{Kind: HangupBefore, Method: method}, 0, "EOF", false},
		{RPCFault{Kind: HangupAfter, Method: method}, 0, "EOF", true},
		{RPCFault{Kind: KillBefore, Method: method}, 0, "", false},
		{RPCFault{Kind: KillAfter, Method: method}, 0, "", false},
		{RPCFault{Kind: NoAnswer, Method: method}, 0, "timeout", true},
		{RPCFault{Kind: NotJSON, Method: method}, 0, "invalid character", true},
		{RPCFault{Kind: Delayed, Method: method, Delay: 50 * time.Millisecond}, 0, "", true},
		{RPCFault{Kind: FailBefore, Method: "other"}, 0, "", true},
		{RPCFault{Kind: FailBefore, Method: method, Call: 2}, 0, "", true},
	} {
		answer, err, there := faulty(t, tc.fault)
		if there != tc.effects {
			t.Errorf("%+v: effect %v, want %v", tc.fault, there, tc.effects)
		}
		if tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%+v: error %v, want %s", tc.fault, err, tc.err)
		}
		if tc.code != 0 && (err != nil || answer.Error == nil || answer.Error.Code != tc.code) {
			t.Errorf("%+v: answer %+v, error %v, want code %d", tc.fault, answer, err, tc.code)
		}
	}
}

func TestRPCFaultHitsTheNthCallOnly(t *testing.T) {
	n := newNode(t, "n", nil)
	n.AddRPCFault(RPCFault{Kind: FailBefore, Method: "spdk_get_version", Call: 2})
	c := dialNode(t, n)
	c.ok("spdk_get_version", "")
	c.fails(-32603, "Internal error", "spdk_get_version", "")
	c.ok("spdk_get_version", "")
	if got := n.Calls()["spdk_get_version"]; got != 3 {
		t.Errorf("%d calls counted, want 3", got)
	}
}

func TestRemovedRPCFaultHitsNothing(t *testing.T) {
	n := newNode(t, "n", nil)
	remove := n.AddRPCFault(RPCFault{Kind: FailBefore})
	c := dialNode(t, n)
	c.fails(-32603, "Internal error", "spdk_get_version", "")
	remove()
	c.ok("spdk_get_version", "")
	n.AddRPCFault(RPCFault{Kind: FailBefore})
	n.ClearRPCFaults()
	c.ok("spdk_get_version", "")
}

func TestOwnMethodsWorkOnASocketOfAStoppedProcess(t *testing.T) {
	c := newCluster(t, nil)
	c.rpc[0].ok("sim_hang", `{"hung":true}`)
	c.rpc[1].ok("sim_hang", `{"node":"n0","hung":false}`)
	c.rpc[0].ok("spdk_get_version", "")
	c.rpc[0].ok("sim_kill", `{"node":"n2"}`)
	nodes := decodeAs[[]struct {
		Name    string `json:"name"`
		Running bool   `json:"running"`
	}](t, c.rpc[0].ok("sim_nodes", ""))
	if len(nodes) != 3 || nodes[2].Name != "n2" || nodes[2].Running {
		t.Fatalf("nodes: %+v", nodes)
	}
	c.rpc[0].ok("sim_start", `{"node":"n2"}`)
	dialNode(t, c.nodes[2]).ok("spdk_get_version", "")
	c.rpc[0].fails(-32602, `there is no node "x"`, "sim_kill", `{"node":"x"}`)
}

func TestFaultsCanBeMadeByRPC(t *testing.T) {
	n := newNode(t, "n", nil)
	c := dialNode(t, n)
	c.thin("v", 4)
	c.ok("sim_disk_fault", `{"pool":"lvs","write_error":true}`)
	if n.writeBdev("lvs/v", 0, pattern(1, 4096)) == nil {
		t.Error("the broken disk took a write")
	}
	c.ok("sim_disk_fault", `{"pool":"lvs"}`)
	c.ok("sim_limit_pool", `{"pool":"lvs","clusters":0}`)
	if n.writeBdev("lvs/v", 2*mib, pattern(1, 4096)) == nil {
		t.Error("the full pool took a write")
	}
	c.ok("sim_limit_pool", `{"pool":"lvs","clusters":-1}`)
	mustWrite(t, n, "lvs/v", 0, pattern(1, 4096))
	c.ok("sim_link", `{"from":"n","to":"n","delay_ms":1}`)
	c.ok("sim_cut", `{"a":"n","b":"m","cut":true}`)
	c.ok("sim_rpc_fault", `{"kind":"fail_before","method":"spdk_get_version"}`)
	c.fails(-32603, "Internal error", "spdk_get_version", "")
	c.ok("sim_clear_rpc_faults", "")
	c.ok("spdk_get_version", "")
	calls := map[string]int{}
	if err := json.Unmarshal(c.ok("sim_calls", ""), &calls); err != nil || calls["spdk_get_version"] != 2 {
		t.Errorf("calls: %v, %v", calls, err)
	}
}

func TestNodeThatRestartsItselfHangsUp(t *testing.T) {
	n := newNode(t, "n", nil)
	if a, err := dialNode(t, n).try("sim_restart", ""); err == nil {
		t.Fatalf("answered %+v", a)
	}
	eventually(t, "the process is back", n.Running)
	dialNode(t, n).ok("spdk_get_version", "")
}
