package node

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Observer is told of what happens to the volumes that are staged here. Its methods return at once, and many goroutines call them.
type Observer interface {
	// ReplicaChanged: the node service has put another state of a replica on record.
	ReplicaChanged(change volume.ReplicaChange)
	// FailoverBegan: it is on record that a volume leaves its raid host, or its raid is made again there.
	FailoverBegan(cause Cause)
	// FailoverEnded: its target is ANA optimized. pause is the time since the cause was noticed; since the switch began where nothing was wrong.
	FailoverEnded(cause Cause, pause time.Duration)
	// SnapshotPaused: I/O of a volume was paused for a snapshot; taken says whether its lvols were taken in the pause.
	SnapshotPaused(pause time.Duration, taken bool)
	// PathReconnected: this machine's path to a raid host is up that a sweep had found down.
	PathReconnected()
}

// Cause is why a volume leaves its raid host.
type Cause string

// Causes.
const (
	// CauseKilled: connections to the raid host's JSON-RPC are closed or refused, and this machine's path to it has ended: its process is gone.
	CauseKilled Cause = "killed"
	// CauseHung: JSON-RPC is silent, and NVMe/TCP is, or this machine's path has ended: its process hangs, its machine is down, or the network.
	CauseHung Cause = "hung"
	// CauseCutOff: neither this machine nor the legs are reached by it, the standby reaches one.
	CauseCutOff Cause = "cut-off"
	// CauseTargetSilent: it answers JSON-RPC, and its NVMe/TCP target doesn't answer this machine.
	CauseTargetSilent Cause = "target-silent"
	// CauseUnwatched: its JSON-RPC has been silent for a whole stall budget.
	CauseUnwatched Cause = "unwatched"
	// CauseRefused: its target answers and lets this machine in no more.
	CauseRefused Cause = "refused"
	// CauseLegsLost: it has lost sight of every good leg, the standby has not.
	CauseLegsLost Cause = "legs-lost"
	// CauseRestarted: it has no raid of the volume, as when its process was started again.
	CauseRestarted Cause = "restarted"
	// CauseResize: its raid has missed the volume's new size.
	CauseResize Cause = "resize"
	// CauseWiden: its raid has no slot for another replica.
	CauseWiden Cause = "widen"
	// CausePlanned: an operator asked for it.
	CausePlanned Cause = "planned"
	// CauseResumed: a switch was found under way that another life of the node service has begun.
	CauseResumed Cause = "resumed"
)

// Causes returns all causes.
func Causes() []Cause {
	return []Cause{
		CauseKilled, CauseHung, CauseCutOff, CauseTargetSilent, CauseUnwatched, CauseRefused, CauseLegsLost, CauseRestarted, CauseResize, CauseWiden,
		CausePlanned, CauseResumed,
	}
}

// silence tells a process that hangs, or can't be reached, from one that is gone, by the error of a call to it.
func silence(err error) Cause {
	if errors.Is(err, context.DeadlineExceeded) {
		return CauseHung
	}
	return CauseKilled
}

// unobserved is an Observer that nobody listens to.
type unobserved struct{}

func (unobserved) ReplicaChanged(volume.ReplicaChange) {}
func (unobserved) FailoverBegan(Cause)                 {}
func (unobserved) FailoverEnded(Cause, time.Duration)  {}
func (unobserved) SnapshotPaused(time.Duration, bool)  {}
func (unobserved) PathReconnected()                    {}

// departure is why a raid host is being left and since when that was known; the zero value is that none is.
type departure struct {
	cause Cause
	since time.Time
}

// depart notes that the raid host is to be left, unless that is known already. The caller holds wv.mu.
func (wv *watchedVolume) depart(cause Cause, now time.Time) {
	if wv.departing.since.IsZero() {
		wv.departing = departure{cause, now}
	}
}

// beginFailover tells that a failover has begun, and returns since when it was to be and why.
func (w *watcher) beginFailover(wv *watchedVolume, cause Cause, noticed time.Time) departure {
	wv.mu.Lock()
	wv.depart(cause, noticed)
	wv.failovers++
	d := wv.departing
	wv.mu.Unlock()
	w.observer.FailoverBegan(d.cause)
	return d
}

// endFailover tells that a failover has ended.
func (w *watcher) endFailover(wv *watchedVolume, d departure) {
	wv.mu.Lock()
	wv.departing = departure{}
	wv.mu.Unlock()
	w.observer.FailoverEnded(d.cause, w.clock.Since(d.since))
}

// underWay returns the failover that this process has begun and not ended, or is about to begin.
func (wv *watchedVolume) underWay() departure {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	return wv.departing
}

// tell tells what a write of a record has changed.
func (w *watcher) tell(before, after *volume.Volume) {
	for _, change := range volume.ReplicaChanges(before, after) {
		w.observer.ReplicaChanged(change)
	}
}
