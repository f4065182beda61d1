package nvmeof

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/google/uuid"
)

// ANA states as the kernel spells them (drivers/nvme/host/multipath.c).
const (
	ANAOptimized      = "optimized"
	ANANonOptimized   = "non-optimized"
	ANAInaccessible   = "inaccessible"
	ANAPersistentLoss = "persistent-loss"
	ANAChange         = "change"
)

// PathState is one controller of a subsystem and what it says of the namespace.
type PathState struct {
	Controller string // the kernel's name, e.g. nvme3
	Address    string // IP:port
	State      string // see Controller.State
	ANAState   string // of the first namespace; empty while that is not there yet, or without ANA
	CNTLID     int
}

// Paths lists the controllers of subsystem nqn; none is no error. A subsystem of
// ours has one namespace, whose ANA state is given.
func (h *Host) Paths(_ context.Context, nqn string) ([]PathState, error) {
	ctrls, _, err := h.byNQN(nqn)
	if err != nil {
		return nil, err
	}
	var states []PathState
	for _, c := range ctrls {
		s := PathState{Controller: c.Name, Address: c.Address, State: c.State, CNTLID: c.CNTLID}
		p, err := h.namespacePath(c, uuid.Nil)
		if err != nil {
			return nil, err
		}
		if p != nil {
			s.ANAState = p.ana
		}
		states = append(states, s)
	}
	return states, nil
}

// path is a namespace's path device, nvmeXcYnZ.
type path struct {
	namespace
	ana string
}

// namespacePath finds c's path device of a namespace, of the first one for
// uuid.Nil. It answers nil where the device is absent or its ANA state can't be
// read.
func (h *Host) namespacePath(c Controller, nsUUID uuid.UUID) (*path, error) {
	all, err := h.namespaces(h.controllerDir(c.Name), pathName, c.Name)
	if err != nil {
		return nil, err
	}
	for _, ns := range all {
		if nsUUID != uuid.Nil && ns.uuid != nsUUID {
			continue
		}
		ana, err := readAttr(filepath.Join(ns.dir, "ana_state"))
		if vanished(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read ANA state of %s: %w", ns.name, err)
		}
		switch ana {
		case ANAOptimized, ANANonOptimized, ANAInaccessible, ANAPersistentLoss, ANAChange:
			return &path{namespace: ns, ana: ana}, nil
		}
	}
	return nil, nil
}

// ConnectPath adds the path at address to t, whose other paths are left as they
// are, and returns when I/O could move onto it: its controller is live and its
// path device of the same namespace is there with a readable ANA state, whatever
// that is. A live controller alone does not count: when it is the last one left
// without its namespace, the kernel fails all I/O. Idempotent.
func (h *Host) ConnectPath(ctx context.Context, t Target, address string) (PathState, error) {
	t.Paths = []Path{{Address: address}}
	if err := t.validate(); err != nil {
		return PathState{}, err
	}
	if h.multipathOff() {
		return PathState{}, fmt.Errorf("%w: add a path to %s: NVMe multipath is off: boot with nvme_core.multipath=Y", ErrUnsupported, t.NQN)
	}
	if err := h.ensureController(ctx, t, address); err != nil {
		return PathState{}, err
	}
	var state PathState
	err := h.poller(ctx, func() (bool, string, error) {
		ctrls, complete, err := h.byNQN(t.NQN)
		if err != nil {
			return false, "", err
		}
		for _, c := range ctrls {
			if !sameAddress(c.Address, address) {
				continue
			}
			state = PathState{Controller: c.Name, Address: c.Address, State: c.State, CNTLID: c.CNTLID}
			if c.State != StateLive {
				return false, fmt.Sprintf("%s is %s", c.Name, c.State), nil
			}
			p, err := h.namespacePath(c, t.NSUUID)
			if err != nil || p == nil {
				return false, c.Name + " is live, but namespace " + t.NSUUID.String() + " has no path through it", err
			}
			state.ANAState = p.ana
			return true, "", nil
		}
		if complete {
			return false, "", ErrNotConnected
		}
		return false, "its controller is just coming", nil
	})
	if err != nil {
		return state, fmt.Errorf("add path %s to %s: %w", address, t.NQN, err)
	}
	return state, nil
}
