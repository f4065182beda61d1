package node

import (
	"maps"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Status is what the node service has in memory of the volumes that are staged here.
type Status struct {
	Volumes []VolumeStatus
	// SPDKNodes says of each SPDK node that runs a volume of this machine, or a standby, whether it answered the last look.
	SPDKNodes map[string]bool
	// Paths counts this machine's paths by their state in sysfs, at the last sweep, which is 4 s ago at the most.
	Paths map[string]int
}

// VolumeStatus is one staged volume.
type VolumeStatus struct {
	ID string
	// Guest: another node, which has it staged as well, looks after it.
	Guest bool
	// Record is nil of a guest's volume, and of one whose record isn't known: not read yet, or being staged or unstaged. The rest then says nothing.
	Record    *volume.Volume
	Condition condition.Condition
	// Legs are the replicas that are to be members of the raid, as the raid host was last seen to have them.
	Legs []condition.Leg
	// WithoutStandby: it is to have a standby, and none is ready.
	WithoutStandby bool
	// Waiting is how long I/O has been seen to wait; 0 is not.
	Waiting time.Duration
	// Failovers counts how often its raid host was left since it was staged, or since this process began.
	Failovers int
}

// Status reads from memory alone.
func (s *Server) Status() Status { return s.watcher.status() }

func (w *watcher) status() Status {
	w.mu.Lock()
	status := Status{SPDKNodes: map[string]bool{}, Paths: maps.Clone(w.pathStates)}
	sight := condition.Sight{}
	for _, node := range w.server.cluster.Names() {
		sight[node] = condition.NodeSight{}
	}
	for name, n := range w.nodes {
		if n.err != nil || !n.lookedAt.IsZero() {
			status.SPDKNodes[name] = n.err == nil
			sight[name] = condition.NodeSight{Err: n.err, Health: n.health}
		}
	}
	w.mu.Unlock()
	for _, wv := range w.all() {
		status.Volumes = append(status.Volumes, w.statusOf(wv, sight))
	}
	return status
}

func (w *watcher) statusOf(wv *watchedVolume, sight condition.Sight) VolumeStatus {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	status := VolumeStatus{ID: wv.id, Guest: wv.guest != nil, Failovers: wv.failovers}
	if wv.last == nil {
		return status
	}
	v := wv.last.Clone()
	status.Record, status.Condition = v, condition.Assess(v, sight)
	for _, id := range v.Assembly.Legs {
		if r := v.Replica(id); r != nil {
			leg, _ := sight.Leg(v, *r)
			status.Legs = append(status.Legs, leg)
		}
	}
	status.WithoutStandby = v.WantsStandby() && (v.Standby == nil || wv.ready != v.Standby.Number)
	if !wv.waitsSince.IsZero() {
		status.Waiting = w.clock.Since(wv.waitsSince)
	}
	return status
}
