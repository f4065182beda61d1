package timeouts

import (
	"testing"
	"time"
)

// polling is what a real target took beyond its timers when the stalls below were measured.
const polling = 200 * time.Millisecond

// Measured on SPDK 26.09-pre with a keep-alive of 2 s, an ACK timeout of 2^10 ms and a reconnect delay of 1 s: how long until writes went
// on for good (docs/spdk.md).
func TestWorstCasesCoverWhatWasMeasured(t *testing.T) {
	for _, c := range []struct {
		fault                       Fault
		fastFail, loss, ioTimeout   time.Duration
		measured, expectedNoMoreBut time.Duration
	}{
		{ReplicaKilled, 2 * time.Second, 6 * time.Second, time.Minute, 3100 * time.Millisecond, 3 * time.Second},
		{ReplicaKilled, 4 * time.Second, 12 * time.Second, time.Minute, 5 * time.Second, 5 * time.Second},
		{ReplicaCutOff, 2 * time.Second, 6 * time.Second, time.Minute, 5500 * time.Millisecond, 8 * time.Second},
		{ReplicaHung, 2 * time.Second, 6 * time.Second, time.Minute, 8300 * time.Millisecond, 10 * time.Second},
		{ReplicaHung, 2 * time.Second, 8 * time.Second, time.Minute, 10800 * time.Millisecond, 12 * time.Second},
		{ReplicaHung, 4 * time.Second, 14 * time.Second, time.Minute, 12800 * time.Millisecond, 18 * time.Second},
		{ReplicaHung, 4 * time.Second, 5 * time.Second, time.Minute, 7700 * time.Millisecond, 9 * time.Second},
		{ReplicaDiskHung, 2 * time.Second, 8 * time.Second, 8 * time.Second, 8 * time.Second, 16 * time.Second},
	} {
		v := Values{
			Node: Node{KeepAlive: 2 * time.Second, IOTimeout: c.ioTimeout, TransportAck: 10},
			Leg:  Leg{ReconnectDelay: time.Second, FastIOFail: c.fastFail, CtrlrLoss: c.loss},
		}
		got := lossOf(t, v, c.fault).Stall
		if got+polling < c.measured || got > c.expectedNoMoreBut {
			t.Errorf("%s with fast I/O fail %s and loss %s: computed %s, measured %s", c.fault, c.fastFail, c.loss, got, c.measured)
		}
	}
}

func lossOf(t *testing.T, v Values, f Fault) Loss {
	t.Helper()
	for _, l := range v.Losses() {
		if l.Fault == f {
			return l
		}
	}
	t.Fatalf("%s is missing", f)
	return Loss{}
}

// What closes a connection decides whether writes in flight wait: an ACK timeout makes them, a keep-alive's doesn't.
func TestCutNetworkWarnsOnlyIfTheACKTimeoutComesBeforeTheKeepAlive(t *testing.T) {
	v, err := Derive(DefaultBudgets())
	if err != nil {
		t.Fatal(err)
	}
	if got := lossOf(t, v, ReplicaCutOff).Warning; got != v.Warning() || got == 0 {
		t.Errorf("with the derived values: %s", got)
	}
	for _, n := range []int{0, 12} { // off, and 4.096 s with a keep-alive of 4 s
		v.Node.TransportAck = n
		if got := lossOf(t, v, ReplicaCutOff).Warning; got != 0 {
			t.Errorf("with transport_ack_timeout %d: %s", n, got)
		}
	}
}

func TestNoLegOutlivesItsLossTimeout(t *testing.T) {
	v, err := Derive(DefaultBudgets())
	if err != nil {
		t.Fatal(err)
	}
	v.Node.TransportAck = 0 // an attempt to connect through a cut network has no end of its own
	for _, l := range v.Losses()[:3] {
		if l.Stall-l.Detection > v.Leg.CtrlrLoss+retryInterval || l.Removal-l.Detection > v.Leg.CtrlrLoss+v.Leg.ReconnectDelay {
			t.Errorf("%+v with a loss timeout of %s", l, v.Leg.CtrlrLoss)
		}
	}
}
