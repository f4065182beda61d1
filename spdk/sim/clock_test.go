package sim

import (
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

func TestTimersFollowTheInjectedClock(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Unix(1700000000, 0))
	n := newNode(t, "n", func(c *Config) { c.Clock, c.Pools[0].SizeBytes = clk, 16*mib })
	c := dialNode(t, n)
	answer := make(chan testAnswer, 1)
	go func() {
		a, _ := c.try("bdev_get_bdevs", `{"name":"absent","timeout":60000}`)
		answer <- a
	}()
	eventually(t, "the call waits", clk.HasWaiters)
	select {
	case a := <-answer:
		t.Fatalf("answered before its time: %+v", a)
	default:
	}
	clk.Step(time.Minute)
	if a := <-answer; a.Error == nil || a.Error.Code != -110 {
		t.Errorf("after the time-out: %+v", a)
	}
}

func TestReconnectsAndControllerLossFollowTheInjectedClock(t *testing.T) {
	clk := clocktesting.NewFakeClock(time.Unix(1700000000, 0))
	c := newCluster(t, func(cfg *Config) { cfg.Clock = clk })
	c.attach(1)
	c.nodes[1].Kill()
	eventually(t, "the controller waits to reconnect", func() bool { return c.ctrlrState(1) == "reconnect_is_delayed" })
	for range 3 {
		if got := c.ctrlrState(1); got == "" {
			t.Fatal("the controller was given up before its time")
		}
		clk.Step(time.Second)
	}
	eventually(t, "the controller is given up", func() bool {
		clk.Step(time.Second)
		return c.ctrlrState(1) == ""
	})
}
