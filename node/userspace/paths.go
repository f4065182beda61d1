package userspace

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
)

// Paths implements node.Fabrics: the paths of a disk, none if it isn't attached.
func (m *Machine) Paths(_ context.Context, nqn string) ([]nvmeof.PathState, error) {
	d := m.disk(nqn)
	if d == nil {
		return nil, nil
	}
	paths := d.head.Paths()
	states := make([]nvmeof.PathState, 0, len(paths))
	for _, p := range paths {
		states = append(states, pathState(d, p))
	}
	return states, nil
}

// Controllers implements node.Fabrics: the paths of all disks whose NQN begins with prefix.
func (m *Machine) Controllers(prefix string) ([]nvmeof.Controller, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []nvmeof.Controller
	for nqn, d := range m.disks {
		if !strings.HasPrefix(nqn, prefix) {
			continue
		}
		for _, p := range d.head.Paths() {
			s := pathState(d, p)
			all = append(all, nvmeof.Controller{Name: s.Controller, NQN: nqn, Address: s.Address, State: s.State, CNTLID: s.CNTLID})
		}
	}
	return all, nil
}

func (m *Machine) disk(nqn string) *disk {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.disks[nqn]
}

func pathState(d *disk, p nvmetcp.PathInfo) nvmeof.PathState {
	s := nvmeof.PathState{Controller: fmt.Sprintf("%s-%d", d.name, p.CNTLID), Address: p.Addr, State: string(p.State), CNTLID: int(p.CNTLID)}
	if p.NSID != 0 {
		s.ANAState = anaNames[p.ANAState]
	}
	return s
}

// anaNames are the kernel's words for ANA states (drivers/nvme/host/multipath.c, nvme_ana_state_names).
var anaNames = map[nvmetcp.ANAState]string{
	nvmetcp.ANAOptimized: nvmeof.ANAOptimized, nvmetcp.ANANonOptimized: nvmeof.ANANonOptimized, nvmetcp.ANAInaccessible: nvmeof.ANAInaccessible,
	nvmetcp.ANAPersistentLoss: nvmeof.ANAPersistentLoss, nvmetcp.ANAChange: nvmeof.ANAChange,
}

// ConnectPath implements node.Fabrics: it returns when the path is live and has the namespace.
func (m *Machine) ConnectPath(ctx context.Context, t nvmeof.Target, address string) (nvmeof.PathState, error) {
	return do(m, OpConnectPath, func() (nvmeof.PathState, error) {
		t.Paths = []nvmeof.Path{{Address: address}}
		d, err := m.diskFor(t)
		if err != nil {
			return nvmeof.PathState{}, err
		}
		if err := addPaths(ctx, d.head, t); err != nil {
			m.dropDead(d)
			return nvmeof.PathState{}, fmt.Errorf("add path %s to %s: %w", address, t.NQN, err)
		}
		for {
			changed := d.head.Changed()
			at := slices.IndexFunc(d.head.Paths(), func(p nvmetcp.PathInfo) bool { return p.Addr == address })
			if at < 0 || d.head.Gone() {
				m.dropDead(d)
				return nvmeof.PathState{}, fmt.Errorf("add path %s to %s: %w", address, t.NQN, nvmeof.ErrNotConnected)
			}
			p := d.head.Paths()[at]
			if p.State == nvmetcp.PathLive && p.NSID != 0 {
				return pathState(d, p), nil
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return nvmeof.PathState{}, fmt.Errorf("add path %s to %s: it is %s, its namespace %d: %w", address, t.NQN, p.State, p.NSID, context.Cause(ctx))
			}
		}
	})
}

// DisconnectPath implements node.Fabrics. When ctx ends first the removal goes on.
func (m *Machine) DisconnectPath(ctx context.Context, nqn, address string) error {
	return m.perform(OpDisconnectPath, func() error {
		d := m.disk(nqn)
		if d == nil || !slices.ContainsFunc(d.head.Paths(), func(p nvmetcp.PathInfo) bool { return p.Addr == address }) {
			return nil
		}
		if err := d.head.RemovePath(ctx, address); err != nil {
			m.o.Logger.V(4).Info("A path went by itself", "nqn", nqn, "addr", address, "err", err.Error())
		}
		m.dropDead(d)
		return nil
	})
}

// Greet implements node.Fabrics.
func (m *Machine) Greet(ctx context.Context, address string) error {
	return nvmeof.GreetBy(ctx, m.o.Dial, address)
}
