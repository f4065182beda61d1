package node_test

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// errCut cuts a switch short.
var errCut = errors.New("the service crashes here")

// trouble is why a raid host is left. Each brings a volume that is whole, with its raid host on n1 and replicas on n1, n2 and n3, to the
// point where the switch begins.
type trouble struct {
	name  string
	begin func(s *switchBench)
	// hangs: the raid host is to go on when the switch is at some point.
	hangs bool
}

var troubles = []trouble{
	{name: "an operator asks for it", begin: func(s *switchBench) {
		s.modify(func(v *volume.Volume) { v.MoveTo = v.Standby.RaidHost })
	}},
	// The replica that is neither on the old nor on the new raid host can't be cut off from the old one.
	{name: "it hangs, and a replica's RPC is away", hangs: true, begin: func(s *switchBench) {
		s.Sim(s.third()).AddRPCFault(sim.RPCFault{Kind: sim.HangupBefore})
		s.Sim("n1").Hang(true)
	}},
	{name: "it is killed, and the standby has lost a leg", begin: func(s *switchBench) {
		v := s.Record(s.id)
		at := slices.IndexFunc(v.Replicas, func(r volume.Replica) bool { return r.Node == s.third() })
		standby, err := s.Node(v.Standby.RaidHost)
		s.must(err)
		s.must(standby.RemoveRaidLeg(s.ctx, v.RaidName(), v.LegController(v.Replicas[at])+"n1"))
		s.Sim("n1").Kill()
	}},
	// The leg is no longer one of the standby's on record, and its raid has it still.
	{name: "it is killed when a replica has just been lost", begin: func(s *switchBench) {
		s.modify(func(v *volume.Volume) {
			at := slices.IndexFunc(v.Replicas, func(r volume.Replica) bool { return r.Node == s.third() })
			v.SetReplicaState(v.Replicas[at].ID, volume.ReplicaOutOfSync, time.Now())
		})
		s.Sim("n1").Kill()
	}},
}

// attempt is one switch: the trouble, the order of its steps, and at which boundary between steps the raid host that hangs goes on and
// the service crashes, if it does.
type attempt struct {
	trouble
	order   []string
	at      int
	crashes bool
}

func (a attempt) String() string {
	return fmt.Sprintf("%s; %s; it goes on after %d steps, crash %t", a.name, strings.Join(a.order, ", "), a.at, a.crashes)
}

// attempts are all that can happen to a switch of that order.
func attempts(order []string) []attempt {
	var all []attempt
	for _, why := range troubles {
		for at := range len(order) + 1 {
			for _, crashes := range []bool{false, true} {
				all = append(all, attempt{why, order, at, crashes})
			}
		}
	}
	return all
}

// run says what is wrong in the course of an attempt or after it.
func (a attempt) run(t *testing.T) (violation error) {
	synctest.Test(t, func(t *testing.T) {
		s := newSwitchBench(t)
		c := &course{attempt: a, s: s}
		restore := node.SwitchInOrder(a.order, c.boundary)
		defer restore()
		defer s.end() // before the steps are put back in order
		a.begin(s)
		violation = c.watch()
	})
	return violation
}

// course is an attempt on its way.
type course struct {
	attempt
	s *switchBench

	mu        sync.Mutex
	crashed   bool
	violation error
}

// boundary is between two steps, before the first and after the last: time passes, the raid host goes on, the service crashes.
func (c *course) boundary(taken int) error {
	err := c.s.check(300 * time.Millisecond)
	if err == nil && c.hangs && taken == c.at {
		c.s.Sim("n1").Hang(false)
		err = c.s.check(time.Second)
	}
	if err == nil && taken == len(c.order) {
		err = c.s.served()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.violation == nil {
		c.violation = err
	}
	if c.violation == nil && c.crashes && taken == c.at && !c.crashed {
		c.crashed = true
		return errCut
	}
	return c.violation
}

func (c *course) found() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.violation
}

// watch waits for the end of the switch and looks at the volume for a while longer.
func (c *course) watch() error {
	for end := time.Now().Add(time.Minute); c.s.served() != nil; time.Sleep(100 * time.Millisecond) {
		if c.found() != nil || time.Now().After(end) {
			return cmp.Or(c.found(), c.s.served())
		}
	}
	return cmp.Or(c.s.check(2*time.Second), c.found())
}

// A short run takes one attempt of seven.
func TestSwitchLosesNothingWhereverTheRaidHostComesBackOrTheServiceCrashes(t *testing.T) {
	for i, a := range attempts(node.SwitchSteps()) {
		if testing.Short() && i%7 != 0 {
			continue
		}
		if err := a.run(t); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
}

// If this finds nothing wrong with an order that is, the test above proves nothing. A short run leaves steps out and swaps none.
func TestSwitchInAnyOtherOrderIsCaught(t *testing.T) {
	right := node.SwitchSteps()
	for i := range right {
		wantCaught(t, "without "+right[i], slices.Delete(slices.Clone(right), i, i+1))
		for j := range i {
			if testing.Short() {
				break
			}
			swapped := slices.Clone(right)
			swapped[i], swapped[j] = swapped[j], swapped[i]
			wantCaught(t, right[i]+" and "+right[j]+" swapped", swapped)
		}
	}
}

func wantCaught(t *testing.T, what string, order []string) {
	t.Helper()
	for _, a := range attempts(order) {
		if err := a.run(t); err != nil {
			t.Logf("%s: caught: %s: %v", what, a, err)
			return
		}
	}
	t.Errorf("%s: nothing is wrong with it", what)
}
