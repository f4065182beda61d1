package coalesce

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestCallersShareACallThatBeganAfterTheyAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Call[int]
		calls := 0
		f := func() int {
			calls++
			n := calls
			time.Sleep(time.Second)
			return n
		}
		var wg sync.WaitGroup
		ask := func(want int) {
			wg.Go(func() {
				if got := c.Do(f); got != want {
					t.Errorf("call %d, want %d", got, want)
				}
			})
			synctest.Wait()
		}
		ask(1)
		for range 5 {
			ask(2) // the first is under way and may know less than they ask for
		}
		wg.Wait()
		ask(3)
		wg.Wait()
		if calls != 3 {
			t.Errorf("%d calls", calls)
		}
	})
}
