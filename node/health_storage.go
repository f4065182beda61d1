package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Reasons of what is wrong with more than one volume.
const (
	// reasonNoPath: no attached volume has a live path.
	reasonNoPath = "NoPath"
	// reasonPathsLost: some paths to targets are down.
	reasonPathsLost = "PathsLost"
	// reasonSPDKNodeSilent: an SPDK node that runs a volume of this node, or its standby, doesn't answer.
	reasonSPDKNodeSilent = "SPDKNodeSilent"
	// reasonStoreSilent: the records can't be read.
	reasonStoreSilent = "StoreSilent"
)

// NodeGetStorageHealth implements csi.NodeServer. It tells how this machine reaches what its volumes run on: its paths to the targets, the SPDK
// nodes that the watcher looks at, and the store. A node that uses no volumes has nothing to tell but of the store.
func (s *Server) NodeGetStorageHealth(ctx context.Context, _ *csi.NodeGetStorageHealthRequest) (*csi.NodeGetStorageHealthResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, healthLimit)
	defer cancel()
	resp := &csi.NodeGetStorageHealthResponse{}
	add := func(status csi.StorageHealthErrorType, reason, message string) {
		resp.BackendHealth = append(resp.BackendHealth, &csi.NodeGetStorageHealthResponse_StorageBackendHealth{Status: status, Reason: reason, Message: message})
	}
	controllers, err := s.fabrics.Controllers(volume.NQNPrefix)
	if err != nil {
		return nil, fmt.Errorf("look at the paths to volumes: %w", err)
	}
	attached, cutOff, down := pathsOf(controllers)
	switch {
	case attached > 0 && cutOff == attached:
		add(csi.StorageHealthErrorType_STORAGE_UNREACHABLE, reasonNoPath, fmt.Sprintf("none of the %d attached volumes has a live path: %s", attached, down))
	case down != "":
		add(csi.StorageHealthErrorType_STORAGE_DEGRADED, reasonPathsLost, fmt.Sprintf("%d of %d attached volumes have no live path; down are %s", cutOff, attached, down))
	}
	if silent := s.watcher.silent(); len(silent) > 0 {
		add(csi.StorageHealthErrorType_STORAGE_DEGRADED, reasonSPDKNodeSilent, strings.Join(silent, "; "))
	}
	asking, cancelAsking := context.WithTimeout(ctx, askLimit)
	defer cancelAsking()
	if _, err := s.store.Host(asking, s.name); err != nil && !errors.Is(err, volume.ErrHostUnknown) {
		add(csi.StorageHealthErrorType_STORAGE_DEGRADED, reasonStoreSilent, fmt.Sprintf(
			"the records can't be read: I/O goes on, but nothing can be staged or unstaged, and no volume can leave a raid host that is lost: %v", err))
	}
	return resp, nil
}

// pathsOf counts the attached volumes and those without a live path, and describes the paths that are down, by the targets' addresses.
func pathsOf(controllers []nvmeof.Controller) (attached, cutOff int, down string) {
	live, lost := map[string]bool{}, map[string]int{}
	for _, c := range controllers {
		live[c.NQN] = live[c.NQN] || c.State == nvmeof.StateLive
		if c.State != nvmeof.StateLive {
			lost[c.Address]++
		}
	}
	for _, ok := range live {
		if !ok {
			cutOff++
		}
	}
	parts := make([]string, 0, len(lost))
	for _, address := range slices.Sorted(maps.Keys(lost)) {
		parts = append(parts, fmt.Sprintf("%d to %s", lost[address], address))
	}
	return len(live), cutOff, strings.Join(parts, ", ")
}

// silent describes the SPDK nodes among those looked at that don't answer.
func (w *watcher) silent() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for _, name := range slices.Sorted(maps.Keys(w.nodes)) {
		n := w.nodes[name]
		if !n.downSince.IsZero() {
			all = append(all, fmt.Sprintf("the JSON-RPC of %s has not answered since %s (%v)", name, n.downSince.UTC().Format(time.RFC3339), n.err))
		}
		if !n.silentSince.IsZero() {
			all = append(all, fmt.Sprintf("the NVMe/TCP target of %s has not answered since %s", name, n.silentSince.UTC().Format(time.RFC3339)))
		}
	}
	return all
}
