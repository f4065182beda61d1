package timeouts

import "time"

// Fault is a way in which a volume loses a replica or its raid host.
type Fault string

// Faults of a replica, as its raid host sees them, and of the raid host, as the volume's host sees them.
const (
	// ReplicaKilled: its SPDK process ended, its port is closed, or the raid host is fenced off it.
	ReplicaKilled Fault = "replica: process killed or fenced off"
	// ReplicaCutOff: its machine or the network is gone; packets are dropped.
	ReplicaCutOff Fault = "replica: packets dropped"
	// ReplicaHung: its SPDK process hangs, and the kernel under it goes on answering TCP.
	ReplicaHung Fault = "replica: process hung"
	// ReplicaDiskHung: its disk answers no more behind a target that does.
	ReplicaDiskHung Fault = "replica: disk hung"
	// RaidHostKilled: its SPDK process ended.
	RaidHostKilled Fault = "raid host: process killed"
	// RaidHostHung: its SPDK process hangs, or packets are dropped.
	RaidHostHung Fault = "raid host: process hung or packets dropped"
)

// Loss is what a fault costs at the worst. All times but Warning count from the fault.
type Loss struct {
	Fault Fault
	// Detection is how long the layer above takes to notice.
	Detection time.Duration
	// Stall is how long until I/O goes on for good; in between some writes may get through. Of a raid host it is how long I/O waits
	// at the most instead of failing: it goes on as soon as another assembly is in use.
	Stall time.Duration
	// Removal is how long until the layer above has given up what was lost; 0 is never.
	Removal time.Duration
	// Warning is how long, after the raid host has noticed, it still acknowledges no write without the replica. While it lasts the
	// replica's controller reads another state than enabled. 0 is no time at all: writes in flight are acknowledged in the same
	// moment, and what is in sync is on record a look late.
	Warning time.Duration
}

// What SPDK and Linux do in constant times.
const (
	// greetingLimit is how long SPDK waits for a peer that takes the TCP connection and says nothing (lib/nvme/nvme_tcp.c,
	// ICREQ_TIMEOUT_ASYNC).
	greetingLimit = 10 * time.Second
	// retryInterval is how often SPDK tries again I/O that no path could take (module/bdev/nvme/bdev_nvme.c, bdev_nvme_io_complete).
	retryInterval = time.Second
	// firstSYNRetry is when Linux first looks whether a connection in the making has run out of time (TCP_TIMEOUT_INIT).
	firstSYNRetry = time.Second
)

// terms decide how long the loss of one leg takes: what its raid host's process and the transport of its replica's node have in
// force, and how it is attached. A time of 0 is off.
type terms struct {
	keepAlive, ioTimeout, ack, connect time.Duration
	leg                                Leg
}

// losses returns what each fault of a replica costs. Time-outs off count as never: then the result is not to be used.
//
// A time-out of a command resets the controller in such a way that its writes in flight fail at once and for good, so that the raid
// acknowledges them without the leg; a connection that ends makes them wait for FastIOFail (bdev_nvme.c, bdev_nvme_reset_ctrlr and
// bdev_nvme_failover_ctrlr). The first write that fails makes the raid eject the leg, and hold all others until an attempt to
// reconnect that is under way has ended (bdev_raid.c, raid_bdev_remove_base_bdev_cont), which a peer that hangs draws out to
// greetingLimit, and nothing beyond CtrlrLoss.
func (t terms) losses() []Loss {
	noticed := t.keepAlive + t.keepAlive/2 // one is sent every half of the time that each has
	cut, reconnect := noticed, t.leg.CtrlrLoss
	warning := time.Duration(0)
	if t.ack > 0 {
		cut, reconnect = min(cut, t.ack+t.keepAlive/2), max(t.ack, firstSYNRetry)
	}
	if t.connect > 0 {
		reconnect = min(reconnect, t.connect)
	}
	if t.ack > 0 && t.ack < t.keepAlive {
		warning = t.leg.FastIOFail
	}
	remove := t.leg.CtrlrLoss + t.leg.ReconnectDelay
	return []Loss{
		{ReplicaKilled, 0, t.ejected(0), remove, t.leg.FastIOFail},
		{ReplicaCutOff, cut, cut + t.ejected(reconnect), cut + remove, warning},
		{ReplicaHung, noticed, noticed + t.ejected(greetingLimit), noticed + remove, 0},
		{ReplicaDiskHung, t.ioTimeout, 2 * t.ioTimeout, 0, 0}, // a write waits once, a read twice (Derive)
	}
}

// ejected returns how long after its loss was noticed a leg is out of its raid at the latest, if each attempt to reconnect takes so
// long: the first attempt that ends when FastIOFail is over marks it as failed, the next retry of a write finds that, and one more
// attempt is waited for.
func (t terms) ejected(attempt time.Duration) time.Duration {
	end := attempt
	for end < t.leg.FastIOFail {
		end += t.leg.ReconnectDelay + attempt
	}
	return min(end+attempt, t.leg.CtrlrLoss) + retryInterval
}

// stall returns the longest of the stalls, removal how long after its failure a leg's controller is gone for good, whatever the fault.
func (t terms) stall() (longest time.Duration) {
	for _, l := range t.losses() {
		longest = max(longest, l.Stall)
	}
	return longest
}

func (t terms) removal() (longest time.Duration) {
	for _, l := range t.losses() {
		longest = max(longest, l.Detection)
	}
	return longest + t.leg.CtrlrLoss + t.leg.ReconnectDelay
}

func (v Values) terms() terms {
	return terms{keepAlive: v.Node.KeepAlive, ioTimeout: v.Node.IOTimeout, ack: v.Node.Ack(), leg: v.Leg}
}

// Losses returns what each fault costs at the worst where all layers were told these values.
func (v Values) Losses() []Loss {
	h := v.Host
	return append(v.terms().losses(),
		Loss{RaidHostKilled, WatchInterval, h.CtrlLoss, h.CtrlLoss + h.ReconnectDelay, 0},
		Loss{RaidHostHung, h.KeepAlive + h.KeepAlive/2, h.CtrlLoss, h.KeepAlive + h.KeepAlive/2 + h.CtrlLoss + h.ReconnectDelay, 0})
}

// Stall returns how long writes wait at the most until they go on for good without a replica that failed, whatever way it did.
func (v Values) Stall() time.Duration { return v.terms().stall() }

// Removal returns how long after its failure a leg's controller is gone for good.
func (v Values) Removal() time.Duration { return v.terms().removal() }

// Warning returns how long after a raid host lost the connection to a leg it acknowledges no write without it. It counts from when
// the connection was still seen to be there, and is a promise for connections that ended or were closed for want of an ACK; a
// replica that hangs, or whose disk does, gives none (Loss.Warning).
func (v Values) Warning() time.Duration { return v.Leg.FastIOFail }
