package controller

import (
	"fmt"
	"sync"

	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// place is an lvstore of a node.
type place struct{ node, lvstore string }

// ledger counts what is promised on each lvstore: the full size of each replica on record, thin or not, and what each lvol of a snapshot holds.
type ledger struct {
	overcommit float64

	mu       sync.Mutex
	promised map[place]int64
	// volumes has the promises by the IDs of volumes and snapshots.
	volumes map[string][]promise
}

type promise struct {
	place
	bytes int64
}

func newLedger(overcommit float64) *ledger {
	return &ledger{overcommit: overcommit, promised: map[place]int64{}, volumes: map[string][]promise{}}
}

// set enters a volume as it is on record, in place of what was entered for it.
func (l *ledger) set(v *volume.Volume) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.setLocked(v)
}

func (l *ledger) setLocked(v *volume.Volume) {
	l.dropLocked(v.ID)
	promises := make([]promise, 0, len(v.Replicas))
	for _, r := range v.Replicas {
		p := promise{place{r.Node, r.LvStore}, v.SizeBytes}
		l.promised[p.place] += p.bytes
		promises = append(promises, p)
	}
	l.volumes[v.ID] = promises
}

// setSnapshot enters a snapshot as it is on record: what each of its lvols holds.
func (l *ledger) setSnapshot(sn *volume.Snapshot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropLocked(sn.ID)
	promises := make([]promise, 0, len(sn.Replicas))
	for _, r := range sn.Replicas {
		p := promise{place{r.Node, r.LvStore}, r.Bytes}
		l.promised[p.place] += p.bytes
		promises = append(promises, p)
	}
	l.volumes[sn.ID] = promises
}

// admits says whether lvstores, of these sizes in bytes, may be promised what the lvols of a snapshot will hold.
func (l *ledger) admits(lvols []volume.SnapshotReplica, totals map[place]int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range lvols {
		at := place{r.Node, r.LvStore}
		total, known := totals[at]
		if room := int64(l.overcommit*float64(total)) - l.promised[at]; known && room < r.Bytes {
			return fmt.Errorf("%w: a snapshot takes over the %d bytes that the replica on %s holds, and lvstore %s there may be promised %d more (each may be promised %g times its size)",
				volume.ErrNoSpace, r.Bytes, r.Node, r.LvStore, max(0, room), l.overcommit)
		}
	}
	return nil
}

// drop forgets a volume or a snapshot.
func (l *ledger) drop(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropLocked(id)
}

func (l *ledger) dropLocked(id string) {
	for _, p := range l.volumes[id] {
		l.promised[p.place] -= p.bytes
	}
	delete(l.volumes, id)
}

// roomLocked returns how many bytes a new replica may have on an lvstore. Thin replicas are bounded by what may be promised, and have no place
// where an lvstore is full but for a rest that the volumes there need; others are bounded also by what is free now.
func (l *ledger) roomLocked(p pool, thin bool) int64 {
	room := int64(l.overcommit*float64(p.TotalBytes)) - l.promised[place{p.node.Name, p.Name}]
	switch {
	case !thin:
		room = min(room, p.FreeBytes)
	case (condition.Pool{TotalBytes: p.TotalBytes, FreeBytes: p.FreeBytes}).Less(condition.FullPercent):
		return 0
	}
	return max(0, room/p.ClusterBytes*p.ClusterBytes)
}
