package stack

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Inventory lists what the driver could have made on the targets, a line an object.
func (s *Stack) Inventory(ctx context.Context) (string, error) {
	var all []string
	for _, t := range s.Targets {
		err := t.Do(func(node *spdk.Node) error {
			found, err := inventory(ctx, node)
			all = append(all, found...)
			return err
		})
		if err != nil {
			return "", err
		}
		keys, err := spdk.KeyringGetKeys(ctx, t)
		if err != nil {
			return "", err
		}
		for _, k := range keys {
			all = append(all, t.Name+" key "+k.Name)
		}
	}
	return strings.Join(all, "\n"), nil
}

func inventory(ctx context.Context, node *spdk.Node) ([]string, error) {
	var all []string
	add := func(kind, name string) { all = append(all, node.Name()+" "+kind+" "+name) }
	lvols, err := node.Lvols(ctx)
	if err != nil {
		return nil, err
	}
	for _, l := range lvols {
		add("lvol", l.Name)
	}
	raids, err := node.Raids(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range raids {
		add("raid", r.Name)
	}
	legs, err := node.Legs(ctx)
	if err != nil {
		return nil, err
	}
	for _, l := range legs {
		add("controller", l.Controller)
	}
	exports, err := node.Exports(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range exports {
		add("subsystem", e.NQN)
	}
	return all, nil
}

// Leftovers says what is on the targets that was not there at first.
func (s *Stack) Leftovers(ctx context.Context) error {
	now, err := s.Inventory(ctx)
	if err == nil && now != s.before {
		err = fmt.Errorf("on the targets is\n%s\nat first there was\n%s", now, s.before)
	}
	return err
}

// auditNQN starts the names of what reads replicas; none of them is the driver's.
const auditNQN = "nqn.2026-11.dev.holdfast.test:"

// chunk is how much of each replica is compared at a time.
const chunk = 1 << 20

// CompareReplicas reads the in-sync replicas of a volume that runs nowhere, each through an export of its own, and returns how many
// bytes of the volume are not the same on all of them.
func (s *Stack) CompareReplicas(ctx context.Context, v *volume.Volume) (differing int64, err error) {
	var readers []*reader
	defer func() {
		for _, r := range readers {
			r.close()
		}
	}()
	for _, replica := range v.InState(volume.ReplicaInSync) {
		r, err := s.openReplica(ctx, v, replica)
		if err != nil {
			return 0, fmt.Errorf("read replica %s on %s: %w", replica.ID, replica.Node, err)
		}
		readers = append(readers, r)
	}
	if len(readers) < 2 {
		return 0, nil
	}
	first, other := make([]byte, chunk), make([]byte, chunk)
	for off := int64(0); off < v.SizeBytes; off += chunk {
		n := min(chunk, v.SizeBytes-off)
		if err := readers[0].Read(ctx, 1, first[:n], off); err != nil {
			return 0, fmt.Errorf("read a replica at %d: %w", off, err)
		}
		bad := make([]bool, n)
		for _, r := range readers[1:] {
			if err := r.Read(ctx, 1, other[:n], off); err != nil {
				return 0, fmt.Errorf("read a replica at %d: %w", off, err)
			}
			for i := range bad {
				bad[i] = bad[i] || first[i] != other[i]
			}
		}
		for _, b := range bad {
			if b {
				differing++
			}
		}
	}
	return differing, nil
}

// ReplicasWith reads the in-sync replicas of a volume that runs nowhere, each through an export of its own, and returns how many of them
// hold the pattern anywhere, and how many there are.
func (s *Stack) ReplicasWith(ctx context.Context, v *volume.Volume, pattern []byte) (with, all int, err error) {
	for _, replica := range v.InState(volume.ReplicaInSync) {
		found, err := s.replicaHolds(ctx, v, replica, pattern)
		if err != nil {
			return with, all, fmt.Errorf("read replica %s on %s: %w", replica.ID, replica.Node, err)
		}
		all++
		if found {
			with++
		}
	}
	return with, all, nil
}

func (s *Stack) replicaHolds(ctx context.Context, v *volume.Volume, replica volume.Replica, pattern []byte) (bool, error) {
	r, err := s.openReplica(ctx, v, replica)
	if err != nil {
		return false, err
	}
	defer r.close()
	kept := len(pattern) - 1 // of the chunk before, so that a pattern on the edge is found
	buffer := make([]byte, kept+chunk)
	for off := int64(0); off < v.SizeBytes; off += chunk {
		n := min(chunk, v.SizeBytes-off)
		if err := r.Read(ctx, 1, buffer[kept:kept+int(n)], off); err != nil {
			return false, err
		}
		if bytes.Contains(buffer[:kept+int(n)], pattern) {
			return true, nil
		}
		copy(buffer, buffer[n:kept+int(n)])
	}
	return false, nil
}

// reader reads one replica.
type reader struct {
	*nvmetcp.Controller
	close func()
}

func (s *Stack) openReplica(ctx context.Context, v *volume.Volume, replica volume.Replica) (*reader, error) {
	target, err := s.Target(replica.Node)
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(target.NVMf)
	if err != nil {
		return nil, err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	export := spdk.Export{
		NQN: auditNQN + "replica:" + replica.ID, Serial: "HFAUDIT", Model: "Holdfast audit", Bdev: replica.LvStore + "/" + v.LvolName(replica),
		NSUUID: uuid.New(), Listen: spdk.Address{Host: host, Port: uint16(number)}, Hosts: []string{auditNQN + "auditor"},
	}
	if err := target.Do(func(node *spdk.Node) error { return node.Export(ctx, export) }); err != nil {
		return nil, err
	}
	unexport := func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Patience)
		defer cancel()
		_ = target.Do(func(node *spdk.Node) error { return node.Unexport(ctx, export.NQN) }) // Leftovers shows it
	}
	controller, err := nvmetcp.Connect(ctx, nvmetcp.HostConfig{Addr: target.NVMf, SubNQN: export.NQN, HostNQN: export.Hosts[0], HostID: uuid.New()})
	if err != nil {
		unexport()
		return nil, err
	}
	return &reader{Controller: controller, close: func() {
		_ = controller.Close()
		unexport()
	}}, nil
}
