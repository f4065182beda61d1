package timeouts

import (
	"errors"
	"fmt"
	"time"
)

// ErrNotHeld says that an SPDK node runs with values under which budgets don't hold.
var ErrNotHeld = errors.New("the budgets are not held")

// ActionReset is the only action_on_timeout with which what hangs is given up.
const ActionReset = "reset"

// InForce is what an SPDK node runs with, as it was read back (framework_get_config for bdev, nvmf_get_transports).
type InForce struct {
	// Name is the SPDK node's, for messages.
	Name string
	// Node are the values in force. KAS is 0 while there is no NVMe/TCP transport. An AdminTimeout of 0 is the IOTimeout.
	Node
	// ActionOnTimeout is none, reset or abort.
	ActionOnTimeout string
	// ConnectTimeout is tcp_connect_timeout_ms; 0 is off.
	ConnectTimeout time.Duration
}

// grants returns the keep-alive that the node's transport makes of one that is asked for (lib/nvmf/ctrlr.c,
// nvmf_ctrlr_set_features_keep_alive_timer).
func (n InForce) grants(asked time.Duration) time.Duration {
	unit := time.Duration(n.KAS) * 100 * time.Millisecond
	if asked <= n.MinKATO || unit == 0 {
		return n.MinKATO
	}
	return (asked + unit - 1) / unit * unit
}

// Runs says whether the budgets hold for a volume whose raid host is this node and whose replicas are on the others, with what is
// in force there. An error that wraps ErrNotHeld names the node, the value and the line of the invariant that breaks, and what to do.
func (n InForce) Runs(b Budgets, replicas ...InForce) error {
	v, err := Derive(b)
	if err != nil {
		return err
	}
	err = n.attaches()
	for _, r := range replicas {
		if err == nil {
			err = n.leg(b, v, r)
		}
	}
	return advise(b, err)
}

// Joins says whether the budgets hold for a volume with a replica on this node and others on the others, whichever of them is the raid
// host. Errors are those of Runs.
func (n InForce) Joins(b Budgets, others ...InForce) error {
	v, err := Derive(b)
	if err != nil {
		return err
	}
	if err = n.attaches(); err == nil {
		err = n.leg(b, v, n)
	}
	for _, o := range others {
		if err == nil {
			err = n.leg(b, v, o)
		}
		if err == nil {
			err = o.leg(b, v, n)
		}
	}
	return advise(b, err)
}

func advise(b Budgets, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w; start SPDK there with the output of `holdfast spdk-config --stall %s`", ErrNotHeld, err, b.ReplicaStall)
}

// breaks is one line of the invariant that a node breaks.
func (n InForce) breaks(line int, format string, args ...any) error {
	return fmt.Errorf("node %s: %s (line %d)", n.Name, fmt.Sprintf(format, args...), line)
}

// attaches judges what a node has in force for the legs that it attaches, whatever the budgets.
func (n InForce) attaches() error {
	admin := n.AdminTimeout
	if admin == 0 {
		admin = n.IOTimeout
	}
	switch {
	case n.IOTimeout == 0:
		return n.breaks(2, "timeout_us is 0: a replica that hangs would never be noticed")
	case n.ActionOnTimeout != ActionReset:
		return n.breaks(2, "action_on_timeout is %s: a replica that hangs would not be given up, it has to be %s", n.ActionOnTimeout, ActionReset)
	case n.KeepAlive == 0:
		return n.breaks(2, "keep_alive_timeout_ms is 0: a replica that hangs would not be noticed by its keep-alive")
	case admin <= n.KeepAlive:
		return n.breaks(3, "timeout_admin_us is %s, which has to be above the keep-alive of %s", admin, n.KeepAlive)
	case n.Ack() == 0:
		return n.breaks(9, "transport_ack_timeout is 0: writes could be acknowledged without a replica behind a cut network before that is on record")
	}
	return nil
}

// leg judges a leg that this node attaches of a replica on another, or on itself.
func (n InForce) leg(b Budgets, v Values, replica InForce) error {
	if replica.KAS == 0 {
		return replica.breaks(2, "it has no NVMe/TCP transport")
	}
	granted := replica.grants(n.KeepAlive)
	because, blame := fmt.Sprintf("keep_alive_timeout_ms is %d", n.KeepAlive.Milliseconds()), n
	if granted > n.KeepAlive {
		because = fmt.Sprintf("its transport (kas %d, min_kato %d) grants node %s a keep-alive of %s where %s is asked for",
			replica.KAS, replica.MinKATO.Milliseconds(), n.Name, granted, n.KeepAlive)
		blame = replica
	}
	t := terms{keepAlive: granted, ioTimeout: n.IOTimeout, ack: n.Ack(), connect: n.ConnectTimeout, leg: v.Leg}
	if 3*granted/2 >= n.IOTimeout {
		return blame.breaks(3, "%s, and 1.5 times that is not below the timeout_us of %s: an I/O timeout on a hung replica freezes the raid host", because, n.IOTimeout)
	}
	if t.ack >= granted {
		return n.breaks(9, "transport_ack_timeout is %d, which is %s and not below the keep-alive of %s: "+
			"writes could be acknowledged without a replica behind a cut network before that is on record", n.TransportAck, t.ack, granted)
	}
	for _, loss := range t.losses() {
		if loss.Stall <= b.ReplicaStall && loss.Stall+margin < HostIOTimeout {
			continue
		}
		switch loss.Fault {
		case ReplicaDiskHung:
			because, blame = fmt.Sprintf("timeout_us is %s", n.IOTimeout), n
		case ReplicaCutOff:
			because, blame = fmt.Sprintf("transport_ack_timeout is %d and tcp_connect_timeout_ms %d", n.TransportAck, n.ConnectTimeout.Milliseconds()), n
		}
		return blame.breaks(2, "%s: writes would stall for %s (%s), the budget is %s", because, loss.Stall, loss.Fault, b.ReplicaStall)
	}
	if removal := t.removal(); removal >= v.Host.CtrlLoss {
		return blame.breaks(5, "%s: a leg would be gone after %s only, and the host gives the target up after %s", because, removal, v.Host.CtrlLoss)
	}
	return nil
}
