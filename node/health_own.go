package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk/condition"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Reasons of what this machine sees itself, beside those of package condition.
const (
	// reasonIOWaiting: no path can take I/O now. It doesn't fail before the target loss budget is over.
	reasonIOWaiting condition.Reason = "IOWaiting"
	// reasonPathLost: I/O has a path, but another, or that to the standby, is down.
	reasonPathLost condition.Reason = "PathLost"
	// reasonDeviceGone: what is mounted or published has no block device any more; I/O fails.
	reasonDeviceGone condition.Reason = "DeviceGone"
	// reasonNotStaged: the volume isn't attached or mounted here, or not yet.
	reasonNotStaged condition.Reason = "NotStaged"
	// reasonFileSystemReadOnly: the file system refuses writes although it was mounted for writing.
	reasonFileSystemReadOnly condition.Reason = "FileSystemReadOnly"
)

// seen says what is wrong with a volume by what this machine has of it. v may be nil, and st, of a volume that isn't staged here.
func (s *Server) seen(ctx context.Context, st *staged, v *volume.Volume) ([]condition.Finding, error) {
	if st == nil {
		return []condition.Finding{notStaged("no call to stage it has come so far")}, nil
	}
	mounted, err := s.inUseAt(st)
	if err != nil {
		return nil, err
	}
	device, err := s.fabrics.Device(ctx, st.NQN, st.UUID)
	switch {
	case errors.Is(err, nvmeof.ErrNotConnected) && mounted != "":
		return []condition.Finding{deviceGone(mounted)}, nil
	case errors.Is(err, nvmeof.ErrNotConnected):
		return []condition.Finding{notStaged("it has no block device here")}, nil
	case err != nil:
		return nil, err
	}
	if st.Encrypted {
		at, open, err := s.encryption.Mapping(volume.MappingName(st.UUID))
		switch {
		case err != nil:
			return nil, err
		case !open:
			return []condition.Finding{notStaged("its block device is attached, but its encryption is not open")}, nil
		case at.Below != device.Name && mounted != "":
			return []condition.Finding{deviceGone(mounted)}, nil
		}
	}
	paths, err := s.fabrics.Paths(ctx, st.NQN)
	if err != nil {
		return nil, err
	}
	findings := s.judgePaths(st.VolumeID, v, paths)
	if st.Block {
		return findings, nil
	}
	more, err := s.judgeFileSystem(st)
	return append(findings, more...), err
}

func notStaged(what string) condition.Finding {
	return condition.Finding{Severity: condition.Inaccessible, Reason: reasonNotStaged, Message: fmt.Sprintf(
		"the volume is not staged on this node: %s; it is being staged, or that has failed, and then the events of the pod say why", what)}
}

func deviceGone(mounted string) condition.Finding {
	return condition.Finding{Severity: condition.Inaccessible, Reason: reasonDeviceGone, Message: fmt.Sprintf(
		"the block device under %s is gone, and I/O fails: the kernel has given the target up after the target loss budget, or its namespace was taken away; end the pods that use the volume, so that it is unstaged and staged anew", mounted)}
}

// inUseAt returns where a volume is mounted or, as raw block, published; "" if nowhere.
func (s *Server) inUseAt(st *staged) (string, error) {
	for _, path := range append([]string{st.Path}, st.Targets...) {
		at, err := s.mounts.Mounts(path)
		if err != nil {
			return "", err
		}
		if len(at) > 0 {
			return path, nil
		}
	}
	return "", nil
}

// usable says whether a path takes I/O now.
func usable(p nvmeof.PathState) bool {
	return p.State == nvmeof.StateLive && (p.ANAState == nvmeof.ANAOptimized || p.ANAState == nvmeof.ANANonOptimized)
}

// judgePaths says whether I/O waits, and what paths are down. A switch, or a target that is started again, makes I/O wait for moments:
// the volume counts as inaccessible when that lasts for longer than a replica that fails may cost.
func (s *Server) judgePaths(id string, v *volume.Volume, paths []nvmeof.PathState) []condition.Finding {
	if slices.ContainsFunc(paths, usable) {
		return lostPaths(s.downPaths(v, paths))
	}
	f := condition.Finding{Severity: condition.Degraded, Reason: reasonIOWaiting, Message: "I/O waits: " + describePaths(paths)}
	if v != nil && v.Assembly != nil && v.Assembly.Held {
		f.Message += fmt.Sprintf("; %s is taking the volume over", v.Assembly.RaidHost)
	}
	if since := s.watcher.waitingSince(id); !since.IsZero() {
		f.Message += ", since " + since.UTC().Format(time.RFC3339)
		if v != nil && s.watcher.clock.Since(since) >= v.Parameters.Budgets.ReplicaStall {
			f.Severity = condition.Inaccessible
		}
	}
	if v != nil {
		f.Message += fmt.Sprintf("; it fails when no target has been there for %s", v.Parameters.Budgets.TargetLoss)
	}
	return []condition.Finding{f}
}

func describePaths(paths []nvmeof.PathState) string {
	if len(paths) == 0 {
		return "there is no path to a target"
	}
	all := make([]string, 0, len(paths))
	for _, p := range paths {
		text := "the path to " + p.Address + " is " + p.State
		if p.State == nvmeof.StateLive && p.ANAState == "" {
			text += " without the namespace"
		} else if p.State == nvmeof.StateLive {
			text += " and ANA " + p.ANAState
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// downPaths describes the paths that are down although I/O has another, and that to the standby if it is missing.
func (s *Server) downPaths(v *volume.Volume, paths []nvmeof.PathState) []string {
	var down []string
	for _, p := range paths {
		if p.State != nvmeof.StateLive {
			down = append(down, "that to "+p.Address+" is "+p.State)
		}
	}
	if v != nil && v.Assembly != nil && v.Standby != nil && v.Standby.Running {
		node, err := s.cluster.Node(v.Standby.RaidHost)
		if err == nil && !slices.ContainsFunc(paths, func(p nvmeof.PathState) bool { return p.Address == node.NVMf.String() }) {
			down = append(down, fmt.Sprintf("that to the standby on %s (%s) is missing", node.Name, node.NVMf))
		}
	}
	return down
}

func lostPaths(down []string) []condition.Finding {
	if len(down) == 0 {
		return nil
	}
	return []condition.Finding{{Severity: condition.Degraded, Reason: reasonPathLost, Message: "I/O goes on, but not all paths are up: " + strings.Join(down, ", ")}}
}

// judgeFileSystem looks in mountinfo and sysfs, never at the file system itself.
func (s *Server) judgeFileSystem(st *staged) ([]condition.Finding, error) {
	at, err := s.mounts.Mounts(st.Path)
	switch {
	case err != nil:
		return nil, err
	case len(at) == 0:
		return []condition.Finding{notStaged("its block device is attached, but nothing is mounted at " + st.Path)}, nil
	case at[len(at)-1].ReadOnly:
		return nil, nil // mounted so
	}
	readOnly, err := s.mounts.ReadOnly(st.Path)
	if err != nil || !readOnly {
		return nil, err
	}
	return []condition.Finding{{Severity: condition.Degraded, Reason: reasonFileSystemReadOnly, Message: fmt.Sprintf(
		"the file system at %s refuses writes since it met an error (the kernel's log says which); end the pods that use the volume, so that it is checked when it is staged anew", st.Path)}}, nil
}
