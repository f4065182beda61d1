package timeouts

import (
	"testing"
	"time"
)

func TestDeepestQueueAtTheLowestLimitIsAnsweredBeforeTheKernelResetsItsPath(t *testing.T) {
	for s := 10 * time.Second; s <= 27*time.Second; s += time.Second {
		b := Budgets{ReplicaStall: s, TargetLoss: 10 * time.Minute}
		iops, bytes, err := LeastRates(b)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		const commands = HostQueues * queueDepth
		second := float64(time.Second)
		for what, wait := range map[string]float64{"I/O": commands * second / float64(iops), "bytes": commands * maxIOBytes * second / float64(bytes)} {
			if s+time.Duration(wait)+margin > HostIOTimeout {
				t.Errorf("%s: %s wait %s", s, what, time.Duration(wait))
			}
		}
		if iops%RateUnitIOPS != 0 || bytes%RateUnitBytes != 0 {
			t.Errorf("%s: %d and %d are no whole units", s, iops, bytes)
		}
	}
}

func TestStallBudgetThatFillsTheKernelsTimeoutAllowsNoLimit(t *testing.T) {
	if _, _, err := LeastRates(Budgets{ReplicaStall: 28 * time.Second, TargetLoss: 10 * time.Minute}); err == nil {
		t.Error("there is a lowest limit")
	}
}
