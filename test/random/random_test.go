package random_test

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "run this seed only; 0 runs all of -seeds")
	firstFlag = flag.Uint64("first", 1, "the first of -seeds")
	seedsFlag = flag.Uint64("seeds", 2, "how many seeds to run, from -first on")
	stepsFlag = flag.Int("steps", 100, "how many steps each seed has")
	logFlag   = flag.Int("log", -1, "verbosity of the driver's log in the trace; -1 leaves it out")
	showFlag  = flag.Bool("show", false, "show the trace of a run that passes, too")
)

// TestRandom runs seeds. A failure says how to run its seed again until it fails again: the order in which goroutines get their turn, and
// timers of one instant fire, is Go's and not the seed's, so that it may take more than one attempt.
func TestRandom(t *testing.T) {
	first, last := *firstFlag, *firstFlag+*seedsFlag-1
	if *seedFlag != 0 {
		first, last = *seedFlag, *seedFlag
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { run(t, seed, *stepsFlag) })
		})
	}
}

// longestRun is more time, of the simulated clock, than any run takes: one that waits for what never comes ends with its trace.
const longestRun = 12 * time.Hour

func run(t *testing.T, seed uint64, steps int) {
	tr := newTrace(*logFlag)
	defer func() {
		if t.Failed() || *showFlag {
			t.Logf("run it again: go test ./test/random -run TestRandom -count=20 -failfast -seed=%d -steps=%d -log=2\n%s", seed, steps, tr)
		}
	}()
	w := newWorld(t, seed, tr)
	defer w.close()
	stuck := time.AfterFunc(longestRun, func() { panic(fmt.Sprintf("seed %d has not ended in %v of its time\n%s", seed, longestRun, tr)) })
	defer stuck.Stop()
	for i := range steps {
		tr.add("step %d", i+1)
		w.step()
		w.check()
	}
	w.wrapUp()
}

// step does one thing at random.
func (w *world) step() {
	w.faults.expire(false)
	v := w.volumes[w.rng.IntN(len(w.volumes))]
	switch n := w.rng.IntN(100); {
	case n < 44 && len(v.users()) > 0:
		v.work()
	case n < 50:
		w.liveSnapshots()
		w.pass([]time.Duration{0, 0, 50 * time.Millisecond, time.Second}[w.rng.IntN(4)])
	case n < 66:
		v.live()
		w.pass([]time.Duration{0, 0, 50 * time.Millisecond, time.Second}[w.rng.IntN(4)])
	case n < 85:
		d := []time.Duration{10 * time.Millisecond, 200 * time.Millisecond, time.Second, 3 * time.Second, 8 * time.Second, 20 * time.Second}[w.rng.IntN(6)]
		w.trace.add("%v pass", d)
		w.pass(d)
	case n < 93:
		w.faults.inject()
	default:
		w.hiccup()
	}
}

// work reads and writes some extents, from any of the machines that use the volume.
func (v *vol) work() {
	rng := v.w.rng
	for range 1 + rng.IntN(8) {
		users := v.users()
		users[rng.IntN(len(users))].transfer(rng.IntN(3) > 0)
	}
	v.w.pass([]time.Duration{0, 0, 0, 0, 100 * time.Millisecond, 2 * time.Second}[rng.IntN(6)])
}

// live takes a volume, or its use by machines, one call further on its way with the CO.
func (v *vol) live() {
	uses := slices.Clone(v.uses)
	v.w.rng.Shuffle(len(uses), func(i, j int) { uses[i], uses[j] = uses[j], uses[i] })
	for _, a := range uses {
		a.live()
	}
}

func (a *attachment) live() {
	v, rng := a.v, a.v.w.rng
	if v.call != nil || a.call != nil {
		return
	}
	if v.stranded() {
		v.aim(absent)
	}
	if v.is(v.goal) && a.is(a.goal) {
		switch {
		case v.stranded():
		case v.done > absent && !v.needed() && rng.IntN(8) == 0:
			a.expand()
			return
		case v.done > absent && rng.IntN(8) == 0:
			v.modify()
			return
		case a.goal < inUse || rng.IntN(6) == 0:
			a.aim([]stage{absent, created, published, staged, inUse, inUse, inUse, inUse}[rng.IntN(8)])
		case v.done > absent && rng.IntN(3) == 0: // what is done may be asked for again
			a.again()
			return
		}
	}
	a.advance()
}
