package timeouts

import (
	"strings"
	"testing"
	"time"
)

// For every pair of budgets either all lines of the invariant hold for the derived values, or the budgets are refused. The lines
// are written out here once more, independently of check.
func TestBudgetsEitherHoldTheInvariantOrAreRefused(t *testing.T) {
	accepted, refused := 0, 0
	for s := time.Duration(0); s <= 60*time.Second; s += time.Second {
		for h := time.Duration(0); h <= 700*time.Second; h += 7 * time.Second {
			b := Budgets{ReplicaStall: s, TargetLoss: h}
			v, err := Derive(b)
			if err != nil {
				refused++
				if !strings.Contains(err.Error(), "breaks line") {
					t.Fatalf("%v: the error does not name the line: %v", b, err)
				}
				continue
			}
			accepted++
			r, f, l := v.Leg.ReconnectDelay, v.Leg.FastIOFail, v.Leg.CtrlrLoss
			k, ioT := v.Node.KeepAlive, v.Node.IOTimeout
			ack := time.Duration(1<<v.Node.TransportAck) * time.Millisecond
			hung := k/2 + k + l + time.Second // an attempt to reconnect may take 10 s, and no leg outlives its loss timeout
			cut := ack + k/2 + l + time.Second
			stall := max(min(hung, cut), hung, f+time.Second, 2*ioT)
			removal := max(k/2+k, ack+k/2, ioT) + l + r
			for line, holds := range map[string]bool{
				"1":       r >= time.Second && r <= f && f <= l,
				"2":       stall <= s,
				"3":       k+k/2 < ioT && k < v.Node.AdminTimeout && k <= ioT,
				"4":       stall+2*time.Second < 30*time.Second,
				"5":       removal < v.Host.CtrlLoss,
				"6":       v.Host.CtrlLoss >= h && h > s,
				"9":       f >= 2*(WatchInterval+RecordTime) && ack < k,
				"seconds": r%time.Second == 0 && f%time.Second == 0 && l%time.Second == 0 && k%time.Second == 0 && v.Host.CtrlLoss%time.Second == 0,
			} {
				if !holds {
					t.Errorf("%v was accepted though line %s does not hold: %+v", b, line, v)
				}
			}
		}
	}
	if accepted == 0 || refused == 0 {
		t.Fatalf("%d pairs accepted, %d refused: the test looks at nothing", accepted, refused)
	}
}

func TestDefaultBudgetsHold(t *testing.T) {
	if _, err := Derive(DefaultBudgets()); err != nil {
		t.Fatal(err)
	}
}

func TestEqualLossTimeoutsAreRefused(t *testing.T) {
	_, err := Derive(Budgets{ReplicaStall: 10 * time.Second, TargetLoss: 10 * time.Second})
	if err == nil || !strings.Contains(err.Error(), "line 6") {
		t.Fatalf("want line 6 broken, got %v", err)
	}
}

func TestDocumentedStallBudgetsAreAcceptedAndNoOthers(t *testing.T) {
	for s := time.Second; s <= time.Minute; s += time.Second {
		_, err := Derive(Budgets{ReplicaStall: s, TargetLoss: DefaultBudgets().TargetLoss})
		if accepted := err == nil; accepted != (s >= 10*time.Second && s <= 29*time.Second) {
			t.Errorf("%s: %v", s, err)
		}
	}
}
