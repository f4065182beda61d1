package timeouts

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// started is a node that was started with the values for a stall budget.
func started(t *testing.T, name string, stall time.Duration) InForce {
	t.Helper()
	v, err := Derive(budgets(stall))
	if err != nil {
		t.Fatal(err)
	}
	return InForce{Name: name, Node: v.Node, ActionOnTimeout: ActionReset}
}

func budgets(stall time.Duration) Budgets {
	return Budgets{ReplicaStall: stall, TargetLoss: DefaultBudgets().TargetLoss}
}

// Values for a tighter budget hold a longer one, and the other way round they don't; nodes that were started for different budgets hold
// together what the slackest of them holds, unless the keep-alives that one grants are too slow for the I/O timeout of another.
func TestNodeHoldsItsOwnBudgetAndLongerOnes(t *testing.T) {
	for a := 10 * time.Second; a <= 29*time.Second; a += time.Second {
		for b := 10 * time.Second; b <= 29*time.Second; b += time.Second {
			one, other := started(t, "n1", a), started(t, "n2", b)
			apart := 3*max(one.KeepAlive, other.KeepAlive)/2 >= min(one.IOTimeout, other.IOTimeout)
			if err := one.Joins(budgets(max(a, b)), other); (err != nil) != apart || apart && !strings.Contains(err.Error(), "line 3") {
				t.Errorf("nodes for %s and %s: %v", a, b, err)
			}
			if err := one.Joins(budgets(b)); err == nil && b+margin < a {
				t.Errorf("a node for %s is said to hold %s", a, b)
			}
		}
	}
}

func TestWhatBreaksABudgetIsNamedWithItsNode(t *testing.T) {
	for name, c := range map[string]struct {
		change func(n *InForce)
		want   string
	}{
		"SPDK's defaults": {func(n *InForce) {
			*n = InForce{Name: n.Name, Node: Node{KeepAlive: 10 * time.Second, KAS: 100, MinKATO: 10 * time.Second}, ActionOnTimeout: "none"}
		}, "node n2: timeout_us is 0: a replica that hangs would never be noticed (line 2)"},
		"nothing is done on timeouts": {func(n *InForce) { n.ActionOnTimeout = "none" }, "node n2: action_on_timeout is none"},
		"no keep-alive":               {func(n *InForce) { n.KeepAlive = 0 }, "node n2: keep_alive_timeout_ms is 0"},
		"short admin timeout":         {func(n *InForce) { n.AdminTimeout = 4 * time.Second }, "node n2: timeout_admin_us is 4s"},
		"no ACK timeout":              {func(n *InForce) { n.TransportAck = 0 }, "node n2: transport_ack_timeout is 0"},
		"long ACK timeout":            {func(n *InForce) { n.TransportAck = 12 }, "node n2: transport_ack_timeout is 12, which is 4.096s"},
		"short I/O timeout":           {func(n *InForce) { n.IOTimeout = 6 * time.Second; n.AdminTimeout = 0 }, "freezes the raid host (line 3)"},
		"long I/O timeout":            {func(n *InForce) { n.IOTimeout = time.Minute }, "node n2: timeout_us is 1m0s: writes would stall for 2m0s (replica: disk hung), the budget is 20s (line 2)"},
		"long keep-alive": {func(n *InForce) { n.KeepAlive, n.AdminTimeout = 11*time.Second, 14*time.Second },
			"node n2: keep_alive_timeout_ms is 11000, and 1.5 times that is not below the timeout_us of 9s"},
		"transport's default": {func(n *InForce) { n.KAS, n.MinKATO = 100, 10*time.Second },
			"node n2: its transport (kas 100, min_kato 10000) grants node n2 a keep-alive of 10s where 4s is asked for, and 1.5 times that is not below the timeout_us of 9s"},
		"transport's coarse steps": {func(n *InForce) { n.KAS, n.MinKATO = 110, 100*time.Millisecond }, "grants node n2 a keep-alive of 11s where 4s is asked for, and 1.5 times that is not below the timeout_us of 9s"},
		"no transport":             {func(n *InForce) { n.KAS, n.MinKATO = 0, 0 }, "node n2: it has no NVMe/TCP transport"},
	} {
		t.Run(name, func(t *testing.T) {
			good, bad := started(t, "n1", 20*time.Second), started(t, "n2", 20*time.Second)
			c.change(&bad)
			for way, err := range map[string]error{"alone": bad.Joins(budgets(20 * time.Second)), "with another": bad.Joins(budgets(20*time.Second), good)} {
				if !errors.Is(err, ErrNotHeld) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "holdfast spdk-config --stall 20s") {
					t.Errorf("%s: %v", way, err)
				}
			}
		})
	}
}

// The keep-alive of a leg is asked for by its raid host and granted by its replica's node.
func TestRaidHostIsJudgedByWhatItsReplicasNodesGrant(t *testing.T) {
	host, replica := started(t, "n1", 20*time.Second), started(t, "n2", 20*time.Second)
	replica.IOTimeout = 0 // it attaches nothing here
	if err := host.Runs(budgets(20*time.Second), host, replica); err != nil {
		t.Errorf("a replica's node that is no good raid host: %v", err)
	}
	if err := replica.Runs(budgets(20*time.Second), host); !errors.Is(err, ErrNotHeld) {
		t.Errorf("as raid host: %v", err)
	}
	replica.KAS, replica.MinKATO = 5, 11*time.Second
	if err := host.Runs(budgets(20*time.Second), host, replica); err == nil || !strings.Contains(err.Error(), "node n2: its transport") {
		t.Errorf("a replica's node that grants too long a keep-alive: %v", err)
	}
}

func TestBudgetsThatNobodyCanHoldAreRefusedAsSuch(t *testing.T) {
	n := started(t, "n1", 20*time.Second)
	for _, err := range []error{n.Runs(budgets(5*time.Second), n), n.Joins(budgets(5 * time.Second))} {
		if err == nil || errors.Is(err, ErrNotHeld) || !strings.Contains(err.Error(), "breaks line") {
			t.Errorf("got %v", err)
		}
	}
}
