package controller

import (
	"sync"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// place is an lvstore of a node.
type place struct{ node, lvstore string }

// ledger counts what is promised on each lvstore: the full size of each replica on record, thin or not.
type ledger struct {
	overcommit float64

	mu       sync.Mutex
	promised map[place]int64
	volumes  map[string][]promise
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

// drop forgets a volume.
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

// roomLocked returns how many bytes a new replica may have on an lvstore. Thin replicas are bounded by what may be promised, others also by what is
// free now.
func (l *ledger) roomLocked(p pool, thin bool) int64 {
	room := int64(l.overcommit*float64(p.TotalBytes)) - l.promised[place{p.node.Name, p.Name}]
	if !thin {
		room = min(room, p.FreeBytes)
	}
	return max(0, room/p.ClusterBytes*p.ClusterBytes)
}
