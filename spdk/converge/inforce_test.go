package converge_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/google/uuid"
	"k8s.io/klog/v2"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// counted counts the calls that it passes on, and fails them all while deaf.
type counted struct {
	spdk.Caller
	calls atomic.Int32
	deaf  atomic.Bool
}

func (c *counted) Call(ctx context.Context, method string, params, result any) error {
	c.calls.Add(1)
	if c.deaf.Load() {
		return spdk.ErrUnreachable
	}
	return c.Caller.Call(ctx, method, params, result)
}

// lone is one simulated node and what is known of its values.
type lone struct {
	*converge.InForce
	t     *testing.T
	sim   *sim.Node
	node  *spdk.Node
	rpc   *counted
	clock *testingclock.FakePassiveClock
}

// startLone starts a node with the given parameters of bdev_nvme_set_options and nvmf_create_transport; nil is neither call.
func startLone(t *testing.T, options, transport map[string]any) *lone {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "n1.sock")
	s, err := sim.New(sim.Config{Name: "n1", Socket: socket, NVMeOptions: options, Transport: transport, Pools: []sim.PoolConfig{{Name: "pool", SizeBytes: 64 << 20}}})
	must(t, err)
	t.Cleanup(s.Close)
	must(t, s.Start())
	client, err := spdk.Dial("unix://"+socket, spdk.Options{CallTimeout: timeouts.RPC})
	must(t, err)
	t.Cleanup(func() { _ = client.Close() })
	l := &lone{t: t, sim: s, rpc: &counted{Caller: client}, clock: testingclock.NewFakePassiveClock(time.Now())}
	l.node = spdk.NewNode("n1", l.rpc)
	l.InForce = converge.NewInForce(converge.NewCluster([]*converge.Node{{Node: l.node, Name: "n1"}}), l.clock)
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (l *lone) of(stall time.Duration) timeouts.InForce {
	l.t.Helper()
	values, err := l.Of(ctx(l.t), "n1", stallBudget(stall))
	must(l.t, err)
	return values
}

func stallBudget(stall time.Duration) timeouts.Budgets {
	return timeouts.Budgets{ReplicaStall: stall, TargetLoss: timeouts.DefaultBudgets().TargetLoss}
}

// ctx logs to the test.
func ctx(t *testing.T) context.Context { return klog.NewContext(t.Context(), testr.New(t)) }

// attach attaches the node's own replica, so that the process has an NVMe controller.
func (l *lone) attach() {
	l.t.Helper()
	ctx := ctx(l.t)
	_, err := l.node.CreateLvol(ctx, spdk.LvolSpec{LvStore: "pool", Name: "disk", SizeBytes: 8 << 20, Thin: true})
	must(l.t, err)
	const nqn, host = "nqn.2026-11.dev.holdfast:disk", "nqn.2026-11.dev.holdfast:n1"
	address := spdk.Address{Host: "127.77.1.1", Port: 4420}
	must(l.t, l.node.Export(ctx, spdk.Export{NQN: nqn, Serial: "1", Model: "disk", Bdev: "pool/disk", NSUUID: uuid.New(), Listen: address, Hosts: []string{host}}))
	_, err = l.node.AttachLeg(ctx, spdk.Leg{Controller: "disk", NQN: nqn, Address: address, HostNQN: host, CtrlrLossSec: 6, ReconnectDelaySec: 1, FastIOFailSec: 2})
	must(l.t, err)
}

// options are parameters of bdev_nvme_set_options that hold a stall budget.
func options(t *testing.T, stall time.Duration) map[string]any {
	t.Helper()
	v, err := timeouts.Derive(stallBudget(stall))
	must(t, err)
	p := converge.NVMeOptions(v.Node).Params()
	return map[string]any{
		"action_on_timeout": p.ActionOnTimeout, "timeout_us": p.TimeoutUS, "timeout_admin_us": p.TimeoutAdminUS,
		"keep_alive_timeout_ms": p.KeepAliveTimeoutMS, "transport_ack_timeout": p.TransportAckTimeout,
	}
}

func TestNodeStartedWithoutValuesIsGivenThem(t *testing.T) {
	l := startLone(t, nil, nil)
	if err := l.of(20 * time.Second).Joins(stallBudget(20 * time.Second)); err != nil {
		t.Errorf("for 20s: %v", err)
	}
	have, err := l.node.InForce(t.Context())
	must(t, err)
	if want := l.of(20 * time.Second); have.Transport == nil || uint64(want.IOTimeout.Microseconds()) != have.NVMe.TimeoutUS {
		t.Errorf("in force are %+v and %+v, known is %+v", have.NVMe, have.Transport, want)
	}
}

func TestTighterBudgetIsBroughtIntoForceWhileTheProcessHasNoController(t *testing.T) {
	l := startLone(t, options(t, 25*time.Second), map[string]any{"kas": 5, "min_kato": 1000})
	for _, stall := range []time.Duration{25 * time.Second, 10 * time.Second, 20 * time.Second} {
		if err := l.of(stall).Joins(stallBudget(stall)); err != nil {
			t.Errorf("for %s: %v", stall, err)
		}
	}
	if got := l.of(20 * time.Second).IOTimeout; got != 4*time.Second {
		t.Errorf("values that hold a budget were replaced: the I/O timeout is %s", got)
	}
}

func TestWhatCannotBeChangedIsLeftAndNamed(t *testing.T) {
	l := startLone(t, nil, map[string]any{"kas": 5, "min_kato": 1000})
	l.attach()
	for range 2 {
		err := l.of(20 * time.Second).Joins(stallBudget(20 * time.Second))
		if !errors.Is(err, timeouts.ErrNotHeld) || !strings.Contains(err.Error(), "node n1: timeout_us is 0") {
			t.Errorf("got %v", err)
		}
	}
	must(t, l.node.DetachLeg(t.Context(), "disk"))
	l.clock.SetTime(l.clock.Now().Add(time.Minute))
	if err := l.of(20 * time.Second).Joins(stallBudget(20 * time.Second)); err != nil {
		t.Errorf("once the controller is gone: %v", err)
	}
}

func TestOptionsThatTheTransportWouldDefeatAreNotSet(t *testing.T) {
	l := startLone(t, nil, map[string]any{})
	before, err := l.node.InForce(t.Context())
	must(t, err)
	if err := l.of(20 * time.Second).Joins(stallBudget(20 * time.Second)); err == nil {
		t.Error("a transport with keep-alives of 10 s is said to hold 20s")
	}
	if after, err := l.node.InForce(t.Context()); err != nil || after.NVMe != before.NVMe {
		t.Errorf("in force are %+v, were %+v: %v", after.NVMe, before.NVMe, err)
	}
}

func TestWhatANodeRunsWithIsReadOnceAMinute(t *testing.T) {
	l := startLone(t, options(t, 20*time.Second), map[string]any{"kas": 5, "min_kato": 4000})
	l.of(20 * time.Second)
	first := l.rpc.calls.Load()
	l.clock.SetTime(l.clock.Now().Add(59 * time.Second))
	l.of(25 * time.Second)
	if n := l.rpc.calls.Load(); n != first {
		t.Errorf("%d calls within the minute, %d at first", n-first, first)
	}
	_, err := l.Now(t.Context(), "n1", stallBudget(20*time.Second))
	must(t, err)
	now := l.rpc.calls.Load()
	if now == first {
		t.Error("Now didn't ask")
	}
	l.clock.SetTime(l.clock.Now().Add(time.Minute))
	l.of(20 * time.Second)
	if l.rpc.calls.Load() == now {
		t.Error("after a minute the node was not asked")
	}
}

// Whoever waited for the answer shares it; who comes later gets another.
func TestNodeThatDidNotAnswerIsAskedAgain(t *testing.T) {
	l := startLone(t, options(t, 20*time.Second), map[string]any{"kas": 5, "min_kato": 4000})
	l.rpc.deaf.Store(true)
	for range 3 { // at the same time, by the clock
		if _, err := l.Of(t.Context(), "n1", stallBudget(20*time.Second)); !errors.Is(err, spdk.ErrUnreachable) {
			t.Errorf("got %v", err)
		}
	}
	if n := l.rpc.calls.Load(); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
	l.rpc.deaf.Store(false)
	l.clock.SetTime(l.clock.Now().Add(time.Millisecond))
	l.of(20 * time.Second)
	if _, err := l.Of(t.Context(), "n2", stallBudget(20*time.Second)); !errors.Is(err, volume.ErrNodeUnknown) {
		t.Errorf("a node that there is not: %v", err)
	}
}
