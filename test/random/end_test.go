package random_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

const (
	// recovery is how long it may take until a volume can be used, or taken down, when nothing is wrong any more.
	recovery = 10 * time.Minute
	// healing is how long it may take until all replicas of all volumes are good again: more than the longest wait for a rebuild.
	healing = 20 * time.Minute
)

// wrapUp ends all faults; then everything that exists must come into use and heal, hold what was written, and be taken down
// without leaving anything.
func (w *world) wrapUp() {
	w.trace.add("the end: no more faults")
	w.faults.expire(true)
	for _, n := range w.sims {
		n.ClearRPCFaults()
	}
	w.store.armFailure(0)
	for _, h := range w.hosts {
		h.armFault(0)
	}
	w.until("the calls under way end", recovery, func(v *vol) string {
		if v.stranded() || v.stuck() {
			return ""
		}
		return v.pending()
	})
	w.until("volumes can be unpublished after I/O errors, or when they are stranded or stuck", recovery, func(v *vol) string {
		if !v.broken && !v.stranded() && !v.stuck() || v.highest() == created {
			return ""
		}
		return v.towards(created)
	})
	w.until("volumes can be used", recovery, func(v *vol) string {
		if v.reach == absent || v.deleting || v.stranded() {
			return v.towards(absent)
		}
		return v.towards(inUse)
	})
	w.readAll()
	w.untilSnapshots("snapshots are taken or given up", func(s *snap) bool { return s.ready && s.call == nil && !s.deleting }, false)
	w.until("volumes heal", healing, (*vol).unhealed)
	w.until("limits are in force", recovery, (*vol).unlimited)
	w.until("devices have grown", recovery, (*vol).small)
	w.readAll()
	w.until("volumes can be unpublished", recovery, func(v *vol) string {
		if v.reach == absent {
			return v.pending()
		}
		return v.towards(created)
	})
	for _, v := range w.store.all() {
		w.checkAlike(v)
	}
	for _, s := range w.snaps {
		s.check()
	}
	w.until("volumes can be deleted", recovery, func(v *vol) string { return v.towards(absent) })
	w.untilSnapshots("snapshots can be deleted", func(*snap) bool { return false }, true)
	// Each sweep may delete but the uppermost of snapshots that lie on each other.
	w.await("what is left of snapshots is deleted", recovery, func() (all []string) {
		for _, sn := range w.snapshots() {
			all = append(all, fmt.Sprintf("%s (%s)", sn.ID, sn.Phase))
		}
		return all
	})
	w.pass(3 * sweepEvery)
	if left := w.leftovers(); len(left) > 0 {
		w.fail("left behind: %q", left)
	}
}

// until lets time pass until every volume says that nothing is missing any more.
func (w *world) until(what string, limit time.Duration, missing func(v *vol) string) {
	w.t.Helper()
	w.await(what, limit, func() (all []string) {
		for _, v := range w.volumes {
			if m := missing(v); m != "" {
				all = append(all, fmt.Sprintf("%s: %s", v, m))
			}
		}
		return all
	})
}

// untilSnapshots takes every snapshot further, or has it deleted, until it is done or gone.
func (w *world) untilSnapshots(what string, done func(s *snap) bool, remove bool) {
	w.t.Helper()
	w.await(what, recovery, func() (all []string) {
		for _, s := range slices.Clone(w.snaps) {
			if !done(s) {
				s.advance(remove)
				all = append(all, s.name)
			}
		}
		return all
	})
}

func (w *world) await(what string, limit time.Duration, missing func() []string) {
	w.t.Helper()
	for begin := time.Now(); ; w.pass(500 * time.Millisecond) {
		w.check()
		all := missing()
		if len(all) == 0 {
			return
		}
		if time.Since(begin) > limit {
			w.fail("%s: not after %v without faults: %s", what, limit, strings.Join(all, "; "))
		}
	}
}

// pending says what of a volume is under way.
func (v *vol) pending() string {
	if v.call != nil {
		return v.call.what
	}
	for _, a := range v.uses {
		switch {
		case a.call != nil:
			return a.name + ": " + a.call.what
		case len(a.io) > 0:
			return a.name + ": " + a.io[0].String()
		}
	}
	return ""
}

// towards takes the volume and all its uses on their way to a stage, and says where they are if they aren't there.
func (v *vol) towards(goal stage) string {
	v.aim(goal)
	missing := ""
	if !v.is(v.goal) {
		missing = fmt.Sprintf("it is %s (%s) ", v.done, v.pending())
	}
	for _, a := range v.uses {
		if a.call != nil || !a.is(a.goal) {
			missing += fmt.Sprintf("%s is %s (%s) ", a.name, a.done, v.pending())
		}
	}
	if missing != "" {
		for _, a := range v.uses {
			a.advance()
		}
	}
	return missing
}

// readAll reads every extent of every volume in use.
func (w *world) readAll() {
	w.trace.add("all volumes are read")
	for _, v := range w.volumes {
		for _, a := range v.users() {
			for extent := range extents {
				a.transferAt(extent, false)
			}
		}
	}
	w.until("everything can be read", recovery, func(v *vol) string { return v.pending() })
}

// small says which machine has a raw block volume smaller than it is. An encrypted one grows with a call that has its passphrase.
func (v *vol) small() string {
	if !v.block || v.secret != "" {
		return ""
	}
	for _, a := range v.users() {
		f, err := a.host.machine.Open(a.target())
		v.w.must(err)
		if has, want := f.SizeBytes(), v.w.store.peek(v.id()).SizeBytes; has != want {
			return fmt.Sprintf("%s has %d bytes of %d", a.host.name, has, want)
		}
	}
	return ""
}

// unhealed says which replicas of a volume are not good, and what else is unfinished.
func (v *vol) unhealed() string {
	record := v.w.store.peek(v.id())
	switch {
	case record == nil:
		return ""
	case len(record.Retired) > 0:
		return fmt.Sprintf("former assemblies %+v are left", record.Retired)
	case len(record.InState(volume.ReplicaInSync)) != record.Parameters.Replicas || len(record.Replicas) != record.Parameters.Replicas:
		return fmt.Sprintf("it is to have %d replicas and has %+v", record.Parameters.Replicas, record.Replicas)
	case record.GrowingFrom > 0:
		return fmt.Sprintf("it grows from %d to %d bytes", record.GrowingFrom, record.SizeBytes)
	case record.Assembly != nil && record.Parameters.Standby && record.Parameters.Replicas > 1 && record.Standby == nil:
		return "it has no standby"
	case len(record.Wanted()) > 0:
		return fmt.Sprintf("something is wanted of %v", record.Wanted())
	}
	return ""
}
