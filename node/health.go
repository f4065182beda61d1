package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/driver/health"
	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

const (
	// healthLimit bounds one look at a volume's health, all of which is in memory, on the node's disk, or in sysfs.
	healthLimit = 5 * time.Second
	// askLimit bounds a question to the store that the answer can do without.
	askLimit = time.Second
)

// NodeGetVolumeHealth implements csi.NodeServer. It tells how this machine sees a volume that is staged here: its paths, its block device and
// its file system, and what the watcher knows of its replicas. It works from what the node has in memory, on its disk and in sysfs and
// mountinfo, so that it goes on while the store is away, and touches no file system, so that a dead one doesn't keep it.
//
// Of a volume that is published to this node and not staged it tells what its record says.
func (s *Server) NodeGetVolumeHealth(ctx context.Context, req *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	id := req.GetVolumeId()
	if id == "" {
		return nil, invalid("volume_id is empty")
	}
	for field, path := range map[string]string{"volume_publish_path": req.GetVolumePublishPath(), "staging_target_path": req.GetStagingTargetPath()} {
		if path != "" && !filepath.IsAbs(path) {
			return nil, invalid("%s %q must be absolute", field, path)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, healthLimit)
	defer cancel()
	st, err := s.state.load(id)
	if err != nil {
		return nil, err
	}
	v, err := s.known(ctx, id)
	switch {
	case st != nil: // what this machine sees is told without the record, too
	case err != nil:
		return nil, fmt.Errorf("health of volume %s: %w", id, err)
	case v.Publication(s.name) == nil:
		return nil, fmt.Errorf("%w: volume %s is neither staged on nor published to node %s", volume.ErrNotFound, id, s.name)
	}
	var findings []condition.Finding
	if v != nil {
		findings = condition.Findings(v, s.watcher.sight(v))
	}
	own, err := s.seen(ctx, st, v)
	if err != nil {
		return nil, fmt.Errorf("health of volume %s: %w", id, err)
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: health.Of(id, merge(own, findings))}, nil
}

// merge puts what this machine sees before what follows from the record. That I/O waits for a switch is the machine's to tell: it knows for
// how long.
func merge(own, others []condition.Finding) []condition.Finding {
	for _, f := range others {
		if f.Reason != condition.ReasonSwitchingOver {
			own = append(own, f)
		}
	}
	return own
}

// known returns a volume's record: from the watcher's memory, else from the store. A store that doesn't answer is an error.
func (s *Server) known(ctx context.Context, id string) (*volume.Volume, error) {
	if v := s.watcher.remembered(id); v != nil {
		return v, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	return s.get(ctx, id)
}

// watchedOne returns what is remembered of a staged volume, or nil.
func (w *watcher) watchedOne(id string) *watchedVolume {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.watched[id]
}

// remembered returns a copy of the record that is in memory; nil if none is.
func (w *watcher) remembered(id string) *volume.Volume {
	wv := w.watchedOne(id)
	if wv == nil {
		return nil
	}
	wv.mu.Lock()
	defer wv.mu.Unlock()
	if wv.record == nil {
		return nil
	}
	return wv.record.Clone()
}

// waitingSince is since when I/O of a staged volume has been seen to wait, to an interval of the sweeps of paths; zero if it wasn't yet.
func (w *watcher) waitingSince(id string) time.Time {
	wv := w.watchedOne(id)
	if wv == nil {
		return time.Time{}
	}
	wv.mu.Lock()
	defer wv.mu.Unlock()
	return wv.waitsSince
}

// noteWaiting notes since when I/O waits: this machine has no live path to the raid host, or a switch holds I/O. It says whether the path to the
// same raid host is back. The caller holds wv.mu.
func (wv *watchedVolume) noteWaiting(now time.Time, reached bool) (back bool) {
	v := wv.last
	if v == nil || reached && !v.Assembly.Held {
		back = v != nil && wv.cutFrom == v.Assembly.Number
		wv.waitsSince, wv.cutFrom = time.Time{}, 0
		return back
	}
	if wv.waitsSince.IsZero() {
		wv.waitsSince = now
	}
	if !v.Assembly.Held {
		wv.cutFrom = v.Assembly.Number
	}
	return false
}

// sight is what the watcher has seen of the SPDK nodes that a record names. Those that it doesn't look at, which run nothing of ours, are
// in it as nodes against which nothing is known: what the record says of their replicas holds.
func (w *watcher) sight(v *volume.Volume) condition.Sight {
	w.mu.Lock()
	defer w.mu.Unlock()
	sight := condition.Sight{}
	for _, name := range v.Nodes() {
		if n := w.nodes[name]; n != nil {
			sight[name] = condition.NodeSight{Err: n.err, Health: n.health}
		} else if _, err := w.server.cluster.Node(name); !errors.Is(err, volume.ErrNodeUnknown) {
			sight[name] = condition.NodeSight{}
		}
	}
	return sight
}
