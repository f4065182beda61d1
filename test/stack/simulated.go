package stack

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
)

const (
	pool = "pool"
	// slowBy is how much later everything arrives over a slow link.
	slowBy = 100 * time.Millisecond
)

// groups are what is authenticated with: the arithmetic of the larger ones takes a kernel in software emulation seconds.
var groups = []string{"ffdhe2048"}

// simulated is a target of package sim.
type simulated struct {
	node    *sim.Node
	network *sim.Network
	others  []string // all that it has links to
}

// simulate starts simulated SPDK nodes n1, n2, ... that hold the stall budget.
func (s *Stack) simulate() error {
	v, err := timeouts.Derive(timeouts.Budgets{ReplicaStall: s.options.ReplicaStall, TargetLoss: timeouts.DefaultBudgets().TargetLoss})
	if err != nil {
		return err
	}
	logger, err := s.targetLogger()
	if err != nil {
		return err
	}
	network := sim.NewNetwork(nil)
	names := []string{sim.Outside}
	for i := range s.options.Nodes {
		names = append(names, fmt.Sprintf("n%d", i+1))
	}
	for _, name := range names[1:] {
		node, err := sim.New(sim.Config{
			Name: name, Socket: s.path(name + ".sock"), Network: network, Pools: []sim.PoolConfig{{Name: pool, SizeBytes: s.options.PoolBytes}},
			NVMeOptions: map[string]any{
				"action_on_timeout": "reset", "timeout_us": v.Node.IOTimeout.Microseconds(), "timeout_admin_us": v.Node.AdminTimeout.Microseconds(),
				"keep_alive_timeout_ms": v.Node.KeepAlive.Milliseconds(), "transport_ack_timeout": v.Node.TransportAck, "dhchap_dhgroups": groups,
			},
			NVMf:      map[string]any{"dhchap_dhgroups": groups},
			Transport: map[string]any{"kas": v.Node.KAS, "min_kato": v.Node.MinKATO.Milliseconds()},
			Logger:    logger,
		})
		if err != nil {
			return err
		}
		s.onClose(node.Close)
		if err := node.Start(); err != nil {
			return err
		}
		nvmf, err := freeAddress(s.ip)
		if err != nil {
			return err
		}
		s.Targets = append(s.Targets, &Target{
			Name: name, Socket: node.Socket(), NVMf: nvmf, control: &simulated{node: node, network: network, others: names}, present: map[Fault]bool{},
		})
	}
	return nil
}

// targetLogger logs what SPDK would: to a file, or with klog as the driver does in this process.
func (s *Stack) targetLogger() (logr.Logger, error) {
	if s.options.Logs == "" {
		return klog.Background(), nil
	}
	log, err := s.log("targets")
	if err != nil {
		return logr.Logger{}, err
	}
	return funcr.New(func(prefix, args string) {
		_, _ = fmt.Fprintln(log, prefix, args) // a log that can't be written is no reason to end
	}, funcr.Options{LogTimestamp: true, TimestampFormat: "15:04:05.000000"}), nil
}

func (t *simulated) describe() string { return "simulated (spdk/sim)" }

func (t *simulated) alive(context.Context) bool { return t.node.Running() }

func (t *simulated) set(_ context.Context, f Fault, on bool) error {
	switch {
	case f == Killed && on:
		t.node.Kill()
	case f == Killed:
		if t.node.Running() {
			return nil
		}
		return t.node.Start()
	case f == Hung:
		t.node.Hang(on)
	case f == DiskHung:
		return t.node.SetDiskFault(pool, sim.DiskFault{Hang: on})
	default:
		fault := map[Fault]sim.LinkFault{Cut: {Cut: on}, Slow: {}}[f]
		if f == Slow && on {
			fault.Delay = slowBy
		}
		t.setLinks(fault)
	}
	return nil
}

// setLinks sets the fault of all links of the node, both ways. What it has from itself to itself stays well.
func (t *simulated) setLinks(f sim.LinkFault) {
	for _, other := range t.others {
		if other != t.node.Name() {
			t.network.SetLink(t.node.Name(), other, f)
			t.network.SetLink(other, t.node.Name(), f)
		}
	}
}
