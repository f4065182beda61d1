// Package timeouts owns every duration of the driver. From two budgets that an operator can reason about it derives what each
// layer is told, and refuses budgets under which two layers could declare a loss in the wrong order.
//
// The race that this rules out: a raid host that watches its replicas and a Linux host that watches the raid, both with the same
// loss timeout. One replica's loss and the loss of the whole volume are then declared in the same second, and a volume with good
// replicas fails (longhorn#9874).
package timeouts

import (
	"fmt"
	"math/bits"
	"time"
)

// Budgets are what an operator states.
type Budgets struct {
	// ReplicaStall is the longest that a write may wait for a replica that failed, whatever way it failed.
	ReplicaStall time.Duration `json:"replicaStall"`
	// TargetLoss is how long the host keeps I/O waiting, not failing, while the volume's target is gone.
	TargetLoss time.Duration `json:"targetLoss"`
}

// DefaultBudgets hold on a machine whose SPDK shares its cores: a keep-alive of 4 s does not expire on a starved reactor.
func DefaultBudgets() Budgets {
	return Budgets{ReplicaStall: 20 * time.Second, TargetLoss: 10 * time.Minute}
}

// Node is what belongs to the start-up configuration of an SPDK node: global to the process and refused once it has any NVMe
// controller (bdev_nvme_set_options answers -EPERM).
type Node struct {
	// KeepAlive is K: granted only if the transport's kas and min_kato allow it.
	KeepAlive time.Duration
	// AdminTimeout is A and IOTimeout T: timeout_admin_us and timeout_us.
	AdminTimeout, IOTimeout time.Duration
	// TransportAck is n of transport_ack_timeout: a connection without an ACK is closed after 2^n ms; 0 never.
	TransportAck int
	// KAS is the transport's keep-alive granularity in units of 100 ms, MinKATO its lower bound of a keep-alive.
	KAS     int
	MinKATO time.Duration
}

// Ack returns U, after which a connection without an ACK is closed; 0 is never.
func (n Node) Ack() time.Duration {
	if n.TransportAck <= 0 {
		return 0
	}
	return time.Millisecond << min(n.TransportAck, maxAckExponent)
}

// maxAckExponent is what SPDK cuts transport_ack_timeout to (lib/nvme/nvme_tcp.c, nvme_tcp_ctrlr_construct).
const maxAckExponent = 31

// Leg is what a raid host's attachment of a replica is told (bdev_nvme_attach_controller).
type Leg struct {
	ReconnectDelay, FastIOFail, CtrlrLoss time.Duration
}

// Host is what a Linux host's connection to a target is told (the connect string of /dev/nvme-fabrics).
type Host struct {
	KeepAlive, ReconnectDelay, CtrlLoss time.Duration
}

// Values are all durations that follow from a pair of budgets.
type Values struct {
	Node Node
	Leg  Leg
	Host Host
}

// What the invariant leans on and nobody sets per volume.
const (
	// HostIOTimeout is Q, the kernel's nvme_core.io_timeout: an unanswered I/O then resets the controller
	// (drivers/nvme/host/core.c).
	HostIOTimeout = 30 * time.Second
	// margin is kept between a stall and what must not fire during it.
	margin = 2 * time.Second
	// WatchInterval is how often a node looks at the raids of its volumes, RecordTime what it may take to put a suspect
	// on record.
	WatchInterval = 500 * time.Millisecond
	RecordTime    = 500 * time.Millisecond
	// RPC bounds one call to SPDK, CSI one CSI call's work, and Sidecar is what Kubernetes' sidecars allow (their
	// --timeout in deploy/).
	RPC     = 15 * time.Second
	CSI     = 2 * time.Minute
	Sidecar = 150 * time.Second
)

// Derive returns the values for the budgets, or an error that names the line of the invariant that cannot hold.
//
// A disk that hangs takes two I/O timeouts: a read that has timed out is answered by another leg and then written back to the one that
// failed (module/bdev/raid/raid1.c, raid1_correct_read_error), before the leg is ejected.
//
// CtrlrLoss is little above FastIOFail: the raid has ejected the leg by then, and until then it may hold all writes for the sake of
// one that hangs (terms.losses).
func Derive(b Budgets) (Values, error) {
	s := b.ReplicaStall.Truncate(time.Second)
	fifth := (s / 5).Truncate(time.Second)
	keepAlive := min(fifth, 10*time.Second)
	v := Values{
		Node: Node{
			KeepAlive:    keepAlive,
			AdminTimeout: 2 * keepAlive,
			IOTimeout:    (s - margin) / 2,
			TransportAck: ackExponent(keepAlive / 2),
			KAS:          5,
			MinKATO:      keepAlive,
		},
		Leg:  Leg{ReconnectDelay: time.Second, FastIOFail: fifth, CtrlrLoss: fifth + time.Second},
		Host: Host{KeepAlive: max(time.Second, (fifth / 2).Truncate(time.Second)), ReconnectDelay: time.Second, CtrlLoss: b.TargetLoss.Truncate(time.Second)},
	}
	return v, v.check(b)
}

// ackExponent returns the largest n for which 2^n ms is no longer than d.
func ackExponent(d time.Duration) int { return max(0, bits.Len64(uint64(d.Milliseconds()))-1) }

// check holds the values against the invariant; docs/design.md has its lines and their reasons.
func (v Values) check(b Budgets) error {
	n, l, h := v.Node, v.Leg, v.Host
	lines := []struct {
		holds bool
		line  string
	}{
		{time.Second <= l.ReconnectDelay && l.ReconnectDelay <= l.FastIOFail && l.FastIOFail <= l.CtrlrLoss,
			"1: reconnect delay <= fast I/O fail <= controller loss"},
		{v.Stall() <= b.ReplicaStall, "2: the stall of writes fits the replica stall budget"},
		{3*n.KeepAlive/2 < n.IOTimeout && n.KeepAlive < n.AdminTimeout,
			"3: an unanswered keep-alive is noticed before an I/O timeout (1.5 keep-alive < I/O timeout)"},
		{v.Stall()+margin < HostIOTimeout, fmt.Sprintf("4: the stall and %s are less than the kernel's I/O timeout of %s", margin, HostIOTimeout)},
		{v.Removal() < h.CtrlLoss, "5: a leg is gone before the host gives the target up"},
		{h.CtrlLoss >= b.TargetLoss.Truncate(time.Second) && b.TargetLoss > b.ReplicaStall, "6: the host waits as long as the target loss budget, which is above the replica stall budget and so covers a failover"},
		{RPC < CSI && CSI < Sidecar, "7: one SPDK call < one CSI call < the sidecar's timeout"},
		{l.FastIOFail >= 2*(WatchInterval+RecordTime) && n.Ack() > 0 && n.Ack() < n.KeepAlive,
			"9: fast I/O fail >= 2 x (watch interval + time to record), and a connection without an ACK is closed before the keep-alive gives it up"},
		{3*h.KeepAlive/2 <= n.Ack()+l.FastIOFail,
			"10: the host gives up a raid host that is cut off before that can acknowledge a write without the legs it was cut off from (1.5 keep-alive of the host <= ACK timeout + fast I/O fail)"},
	}
	for _, l := range lines {
		if !l.holds {
			return fmt.Errorf("a replica stall budget of %s with a target loss budget of %s breaks line %s; "+
				"a stall budget from 10s to 29s with a target loss budget above %s holds",
				b.ReplicaStall, b.TargetLoss, l.line, v.Removal().Round(time.Second))
		}
	}
	return nil
}
