package controller

import (
	"strings"
	"sync"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// swept is what the last sweep has read. It is replaced as a whole, and nothing in it changes.
type swept struct {
	mu sync.Mutex
	// at is when the last sweep that could read all records ended.
	at time.Time
	sweep
}

// sweep is what one sweep has read, the records of volumes before the lvols and those of snapshots after them.
type sweep struct {
	begin     time.Time
	volumes   []*volume.Volume
	stocks    map[string]lvolStock
	snapshots []*volume.Snapshot
}

func (s *swept) keep(read sweep, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at, s.sweep = at, read
}

func (s *swept) last() (time.Time, sweep) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at, s.sweep
}

// Status is how things were when the last sweep read the records and the lvols.
type Status struct {
	// SweptAt is when the last sweep that could read all records ended; when the controller began before the first.
	SweptAt time.Time
	Volumes []VolumeStatus
	// Snapshots are all records of snapshots, hidden ones of clones included. They must not be changed.
	Snapshots []*volume.Snapshot
	LvStores  []LvStoreStatus
	// SPDKNodes says of each SPDK node whether it answered; before the first sweep it is empty.
	SPDKNodes map[string]bool
	// Orphans counts, by SPDK nodes that answered, the lvols that have a name of ours and that no record speaks of. For as long as a sweep takes,
	// that can be one that is only just being made or deleted.
	Orphans map[string]int
}

// VolumeStatus is one volume.
type VolumeStatus struct {
	// Record must not be changed.
	Record *volume.Volume
	// State is by the record and by which lvols were seen. It is rebuilding where the record says that a replica is being rebuilt.
	State condition.State
}

// LvStoreStatus is one lvstore that may be used.
type LvStoreStatus struct {
	Node, Name           string
	SizeBytes, FreeBytes int64
	// CommittedBytes is what is promised: the full size of each replica, thin or not, and what each lvol of a snapshot holds.
	CommittedBytes int64
}

// Status is put together from what the last sweep has read; it asks nobody.
func (s *Server) Status() Status {
	at, read := s.swept.last()
	status := Status{SweptAt: at, Snapshots: read.snapshots, SPDKNodes: map[string]bool{}, Orphans: read.orphans()}
	sight := condition.Sight{}
	for name, st := range read.stocks {
		status.SPDKNodes[name] = st.err == nil
		sight[name] = condition.NodeSight{Err: st.err}
		if st.err == nil {
			sight[name] = condition.NodeSight{Stock: &condition.Stock{At: read.begin, LvStores: st.lvstores, Lvols: st.lvols}}
		}
	}
	for _, v := range read.volumes {
		state := condition.Assess(v, sight).State
		if state == condition.StateDegraded && len(v.InState(volume.ReplicaRebuilding)) > 0 {
			state = condition.StateRebuilding
		}
		status.Volumes = append(status.Volumes, VolumeStatus{Record: v, State: state})
	}
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	for name, st := range read.stocks {
		node, err := s.cluster.Node(name)
		for _, l := range st.pools {
			if err == nil && node.MayUse(l.Name) {
				status.LvStores = append(status.LvStores, LvStoreStatus{
					Node: name, Name: l.Name, SizeBytes: l.TotalBytes, FreeBytes: l.FreeBytes, CommittedBytes: s.ledger.promised[place{name, l.Name}],
				})
			}
		}
	}
	return status
}

// orphans counts the lvols that no record speaks of.
func (r sweep) orphans() map[string]int {
	named := volume.NamedLvols(r.volumes, r.snapshots)
	orphans := map[string]int{}
	for node, st := range r.stocks {
		if st.err != nil {
			continue
		}
		orphans[node] = 0
		for lvol := range st.lvols {
			if lvstore, name, _ := strings.Cut(lvol, "/"); named.Orphan(node, lvstore, name) {
				orphans[node]++
			}
		}
	}
	return orphans
}
