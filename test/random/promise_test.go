package random_test

import (
	"slices"
	"time"
)

// seePromisesKept uses the volumes that are to go on, and leaves all else alone for as long as that may take.
func (w *world) seePromisesKept() {
	w.pass([]time.Duration{0, 0, 1500 * time.Millisecond, 3 * time.Second}[w.rng.IntN(4)]) // a volume that isn't used notices less
	for _, v := range w.volumes {
		if v.promised() {
			v.work()
		}
	}
	w.check()
	w.pass(promise + time.Second)
}

// makePromises notes which volumes are to go on without a long wait if one thing goes wrong now, and nothing else before it is over.
func (w *world) makePromises() {
	calm := w.faults.calmFor() >= settling && time.Since(w.hiccupAt) >= settling
	for _, v := range w.volumes {
		v.promisedAt = time.Time{}
		if calm && v.promisable() {
			v.promisedAt = time.Now()
		}
	}
}

// promisable says whether all is well with a volume that is in use.
func (v *vol) promisable() bool {
	record := v.w.store.peek(v.id())
	busy := slices.ContainsFunc(v.uses, func(a *attachment) bool { return a.call != nil || a.done != a.reach || len(a.io) > 0 })
	if busy || len(v.users()) == 0 || v.broken || time.Since(v.usedSince) < settling || len(v.windows) > 0 {
		return false
	}
	return len(copies(record)) > 1 && v.unhealed() == "" && len(v.absentees(record)) == 0
}

// breakPromises notes that something else happens, too.
func (w *world) breakPromises() {
	w.hiccupAt = time.Now()
	for _, v := range w.volumes {
		v.promisedAt = time.Time{}
	}
}
