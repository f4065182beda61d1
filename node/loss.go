package node

import (
	"slices"
	"time"

	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// loss says that a raid host is to be left, and why. The zero value is none.
//
// It carries what is known of the legs that the raid host may have lost sight of although they are well. It acknowledges nothing without
// them before a fast I/O fail time has passed, so that they are good still if by then this machine's connection to it had ended, and it
// has not come back when its path is deleted (docs/design.md, "The proof").
type loss struct {
	why string
	departure
	// gone: the raid host answers and has no raid of the volume.
	gone bool
	// asked: the raid host works, and may tell which legs it had last when this machine has left it; told: it was asked that.
	asked, told bool
	// works: it serves its hosts as well, and goes on doing so until they have left it.
	works bool
	// to is the node that an operator asked for; "" is any.
	to string

	// number is the assembly that runs there, address the raid host's.
	number  uint32
	address string
	// unproven are the legs in doubt.
	unproven []string
	// paths are this machine's when the connection had ended in time, as far as that was so.
	paths []nvmeof.PathState
	// refuted: a path that was to be deleted had come back, or had never ended.
	refuted bool
}

// ended says whether a path had ended when it counted and has not come back.
func (l loss) ended(p nvmeof.PathState) bool {
	return slices.ContainsFunc(l.paths, func(before nvmeof.PathState) bool {
		return before.Address == p.Address && before.CNTLID == p.CNTLID && before.State != nvmeof.StateLive && p.State != nvmeof.StateLive
	})
}

// proven says, by the paths as they are now, whether the legs in doubt are good.
func (l loss) proven(paths []nvmeof.PathState) bool {
	return !l.refuted && !slices.ContainsFunc(paths, func(p nvmeof.PathState) bool { return p.Address == l.address && !l.ended(p) })
}

// usable returns the legs that an assembly may go on with.
func (l loss) usable(v *volume.Volume, a volume.Assembly, proven bool) []string {
	var legs []string
	for _, id := range a.Legs {
		r, doubted := v.Replica(id), slices.Contains(l.unproven, id)
		if r != nil && (!doubted && r.State == volume.ReplicaInSync || doubted && proven && (r.State == volume.ReplicaInSync || r.State == volume.ReplicaSuspect)) {
			legs = append(legs, id)
		}
	}
	return legs
}

// notice adds to what was concluded now what was known before of the same loss, and remembers it.
//
//   - What was once in doubt stays so as long as the raid host is lost.
//   - The paths as they are count only soon enough after all good legs were last seen to be connected; later those do that were seen then.
//     A process that has only just begun takes them as they are.
//   - A held assembly has taken no write: in doubt is what the raid host before it may have lost sight of, and that is who may still tell.
func (wv *watchedVolume) notice(l loss, v *volume.Volume, now time.Time) loss {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	before := wv.noticed
	if v.Assembly.Held {
		if l.why != "" {
			l.number, l.address, l.unproven, l.paths, l.refuted = v.Assembly.Number, before.address, before.unproven, before.paths, before.refuted
			l.asked, l.told = before.asked || before.why == "", before.told
		}
		return l
	}
	if l.why == "" {
		wv.noticed, wv.departing, wv.seenOff = loss{}, departure{}, 0
		return l
	}
	wv.depart(l.cause, now)
	l.number = v.Assembly.Number
	inTime := wv.wholeLately(v, now)
	if before.why != "" && before.number == l.number {
		l.refuted = before.refuted
		if !inTime || l.gone {
			l.paths = before.paths
		}
		for _, id := range before.unproven {
			if !slices.Contains(l.unproven, id) {
				l.unproven = append(l.unproven, id)
			}
		}
	} else if !inTime && !wv.wholeAt.IsZero() {
		l.paths = nil
	}
	wv.noticed = l
	return l
}

// wholeLately says whether all good legs were seen to be connected so short a time ago that the raid host can't have acknowledged a write
// without one, as far as one cause cut it off from its legs and from its hosts. The caller holds wv.mu.
func (wv *watchedVolume) wholeLately(v *volume.Volume, now time.Time) bool {
	values, err := timeouts.Derive(v.Parameters.Budgets)
	return err == nil && now.Sub(wv.wholeAt) <= values.Leg.FastIOFail+unwatched
}

// mayHaveLost says whether all good legs of an assembly were last seen so long ago that its raid host, if it has been at work, may have acknowledged
// writes without one since. With one leg it acknowledges none without that. One that is left because it had lost sight of all legs is asked
// anyway, and a process that has only just begun asks, too.
func (wv *watchedVolume) mayHaveLost(v *volume.Volume, a volume.Assembly, now time.Time) bool {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	values, err := timeouts.Derive(v.Parameters.Budgets)
	return !wv.wholeAt.IsZero() && !wv.noticed.asked && len(a.Legs) > 1 && (err != nil || now.Sub(wv.wholeAt) >= values.Leg.FastIOFail)
}

// inTime is wholeLately for a caller that doesn't hold wv.mu.
func (wv *watchedVolume) inTime(v *volume.Volume, now time.Time) bool {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	return wv.wholeLately(v, now)
}

// settle forgets a loss whose doubts are on record: every leg that is in-sync by that is connected now.
func (wv *watchedVolume) settle(now time.Time) {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	wv.noticed, wv.wholeAt = loss{}, now
}

// left returns the loss for which the raid host before a held assembly was left, as far as this process knows it.
func (wv *watchedVolume) left() loss {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	return wv.noticed
}

// doubt remembers what the former raid host told when it was left: that it had lost these legs before. It isn't asked again, for from now
// on it loses legs because it is cut off from them.
func (wv *watchedVolume) doubt(lost []string) {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	wv.noticed.told = true
	for _, id := range lost {
		wv.noticed.refuted = true
		if !slices.Contains(wv.noticed.unproven, id) {
			wv.noticed.unproven = append(wv.noticed.unproven, id)
		}
	}
}

// doubtAll remembers that these legs, all that there are, can't be proven good any more.
func (wv *watchedVolume) doubtAll(legs []string) {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	wv.noticed.unproven, wv.noticed.refuted = legs, true
}

// refute remembers that the legs in doubt can't be proven good any more.
func (wv *watchedVolume) refute() {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	wv.noticed.refuted = true
}
