package metrics

import (
	"math"
	"testing"

	"github.com/holdfast-csi/holdfast/controller"
)

func TestThinPressureIsWhatIsStillDueRelativeToWhatIsFree(t *testing.T) {
	for name, c := range map[string]struct {
		size, free, committed int64
		want                  float64
	}{
		"nothing is promised":              {100, 100, 0, 0},
		"half of what is free is promised": {100, 60, 70, 0.5},
		"all is taken that was promised":   {100, 30, 70, 0},
		"more is taken than was promised":  {100, 20, 70, 0},
		"twice as much as there is":        {100, 50, 200, 3},
		"full, and more is due":            {100, 0, 101, math.Inf(1)},
		"full":                             {100, 0, 100, 0},
	} {
		if got := pressure(controller.LvStoreStatus{SizeBytes: c.size, FreeBytes: c.free, CommittedBytes: c.committed}); got != c.want {
			t.Errorf("%s: %g, want %g", name, got, c.want)
		}
	}
}
