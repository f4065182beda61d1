package spdk

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// ANAState is how a path offers its namespace (NVM Express Base specification,
// "Asymmetric Namespace Access States").
type ANAState string

// The ANA states that SPDK can set.
const (
	ANAOptimized    ANAState = "optimized"
	ANANonOptimized ANAState = "non_optimized"
	ANAInaccessible ANAState = "inaccessible"
)

// Export is a subsystem with one namespace and one listener. Hosts that are not listed can
// never connect.
type Export struct {
	NQN string
	// Serial has at most 20, Model at most 40 printable ASCII characters.
	Serial, Model string
	// Bdev is a name or an alias; read back, it is the canonical name, an lvol's UUID.
	Bdev string
	// NSUUID is the UUID of the namespace. It must not be the bdev's own.
	NSUUID uuid.UUID
	// NGUID is 32 hexadecimal digits; empty means the digits of NSUUID.
	NGUID  string
	Listen Address
	// Hosts is the exact set of host NQNs that may connect; read back, it is sorted.
	Hosts []string
	// KeepHosts: hosts that are allowed already stay, listed or not.
	KeepHosts bool
	// HostKeys are the keys of hosts that have to authenticate. Exports does not read them.
	HostKeys map[string]Keys
	// MinCNTLID and MaxCNTLID are the controller ids to give; 0 and 0 mean SPDK's own
	// range, 1 to 0xffef. Two subsystems of one NQN need ranges that do not meet.
	MinCNTLID, MaxCNTLID uint16
	// ANAReporting makes the paths of two subsystems of one NQN tell their states.
	ANAReporting bool
	// ANAState is the state of the listener, empty unless ANAReporting. Exports does not
	// read it.
	ANAState ANAState
}

// nsid is the id of the one namespace of an export.
const nsid = 1

// Controller ids that SPDK gives by itself (lib/nvmf/nvmf_internal.h).
const (
	minCntlid = 1
	maxCntlid = 0xffef
)

// withDefaults fills in what may be left out, in the form in which it is read back.
func (e Export) withDefaults() Export {
	if e.NGUID == "" {
		e.NGUID = strings.ReplaceAll(e.NSUUID.String(), "-", "")
	}
	e.NGUID = strings.ToLower(e.NGUID)
	if e.MinCNTLID == 0 && e.MaxCNTLID == 0 {
		e.MinCNTLID, e.MaxCNTLID = minCntlid, maxCntlid
	}
	e.Hosts = slices.Compact(slices.Sorted(slices.Values(e.Hosts)))
	return e
}

func (e Export) check() error {
	switch {
	case e.NQN == "" || e.Bdev == "" || e.Listen.Host == "" || e.Listen.Port == 0:
		return fmt.Errorf("an export needs an NQN, a bdev and an address to listen on")
	case e.NSUUID == uuid.Nil:
		return fmt.Errorf("an export needs a namespace UUID")
	case e.ANAReporting != (e.ANAState != ""):
		return fmt.Errorf("an ANA state (%q) goes with ANA reporting (%t)", e.ANAState, e.ANAReporting)
	}
	return nil
}

// exportOf reads a subsystem.
func exportOf(s SubsystemInfo) Export {
	e := Export{
		NQN: s.NQN, Serial: s.SerialNumber, Model: s.ModelNumber,
		MinCNTLID: uint16(s.MinCntlid), MaxCNTLID: uint16(s.MaxCntlid),
	}
	for _, h := range s.Hosts {
		e.Hosts = append(e.Hosts, h.NQN)
	}
	slices.Sort(e.Hosts)
	if len(s.Namespaces) > 0 {
		ns := s.Namespaces[0]
		e.Bdev, e.NGUID, e.ANAReporting = ns.BdevName, strings.ToLower(ns.NGUID), ns.ANAGrpID != nil
		if id, err := uuid.Parse(ns.UUID); err == nil {
			e.NSUUID = id
		}
	}
	if len(s.ListenAddresses) > 0 {
		e.Listen = addressOf(s.ListenAddresses[0].Traddr, s.ListenAddresses[0].Trsvcid)
	}
	return e
}

// subsystems lists the subsystems of the node that can have namespaces.
func (n *Node) subsystems(ctx context.Context) ([]SubsystemInfo, error) {
	all, err := NVMfGetSubsystems(ctx, n.rpc, NVMfGetSubsystemsParams{})
	if err != nil {
		return nil, n.wrap(err, "list subsystems")
	}
	return slices.DeleteFunc(all, func(s SubsystemInfo) bool { return s.Subtype != "NVMe" }), nil
}

// subsystem returns one subsystem, or ErrNotFound. Of a call with nothing but an NQN, SPDK refuses no other parameter than one
// that names no subsystem (lib/nvmf/nvmf_rpc.c, rpc_nvmf_get_subsystems).
func (n *Node) subsystem(ctx context.Context, nqn string) (SubsystemInfo, error) {
	found, err := NVMfGetSubsystems(ctx, n.rpc, NVMfGetSubsystemsParams{NQN: nqn})
	if IsCode(err, CodeInvalidParams) || err == nil && len(found) == 0 {
		return SubsystemInfo{}, n.wrap(ErrNotFound, "subsystem %s", nqn)
	}
	if err != nil {
		return SubsystemInfo{}, n.wrap(err, "look up subsystem %s", nqn)
	}
	return found[0], nil
}

// Exports lists the exports of the node in one call. ANAState is not read, and
// ANAReporting reads false of an export that has lost its namespace.
func (n *Node) Exports(ctx context.Context) ([]Export, error) {
	all, err := n.subsystems(ctx)
	if err != nil {
		return nil, err
	}
	exports := make([]Export, 0, len(all))
	for _, s := range all {
		exports = append(exports, exportOf(s))
	}
	return exports, nil
}

// Exported returns one export with its ANA state, or ErrNotFound.
func (n *Node) Exported(ctx context.Context, nqn string) (Export, error) {
	s, err := n.subsystem(ctx, nqn)
	if err != nil {
		return Export{}, err
	}
	e := exportOf(s)
	if len(s.ListenAddresses) == 0 {
		return e, nil
	}
	listeners, err := n.listeners(ctx, nqn)
	if err != nil {
		return Export{}, err
	}
	for _, l := range listeners {
		if addressOf(l.Address.Traddr, l.Address.Trsvcid) == e.Listen && len(l.ANAStates) > 0 {
			e.ANAReporting, e.ANAState = true, l.ANAStates[0].ANAState
		}
	}
	return e, nil
}

func (n *Node) listeners(ctx context.Context, nqn string) ([]ListenerInfo, error) {
	listeners, err := NVMfSubsystemGetListeners(ctx, n.rpc, NVMfSubsystemParams{NQN: nqn})
	return listeners, n.wrap(err, "list listeners of %s", nqn)
}

// Unexport deletes a subsystem and so disconnects its hosts; an absent one is success.
func (n *Node) Unexport(ctx context.Context, nqn string) error {
	if _, err := n.subsystem(ctx, nqn); err != nil {
		if isNotFound(err) {
			return nil
		}
		return err
	}
	err := NVMfDeleteSubsystem(ctx, n.rpc, NVMfSubsystemParams{NQN: nqn})
	if err != nil && answered(err) {
		if _, readErr := n.subsystem(ctx, nqn); isNotFound(readErr) {
			return nil
		}
	}
	return n.wrap(err, "delete subsystem %s", nqn)
}

// SetANAState sets the ANA state of a listener, if it is not so already. An absent
// subsystem or listener is ErrNotFound.
func (n *Node) SetANAState(ctx context.Context, nqn string, address Address, state ANAState) error {
	if _, err := n.subsystem(ctx, nqn); err != nil {
		return err
	}
	listeners, err := n.listeners(ctx, nqn)
	if err != nil {
		return err
	}
	for _, l := range listeners {
		if addressOf(l.Address.Traddr, l.Address.Trsvcid) == address {
			return n.setANAState(ctx, nqn, l, state)
		}
	}
	return n.wrap(ErrNotFound, "listener %s of %s", address, nqn)
}

// ANAState returns the state of the listener at address, the first that is not optimized if its groups differ; "" if the subsystem
// doesn't report ANA, ErrNotFound without the listener.
func (n *Node) ANAState(ctx context.Context, nqn string, address Address) (ANAState, error) {
	listeners, err := n.listeners(ctx, nqn)
	if err != nil {
		return "", err
	}
	for _, l := range listeners {
		if addressOf(l.Address.Traddr, l.Address.Trsvcid) != address {
			continue
		}
		var state ANAState
		for _, group := range l.ANAStates {
			if state == "" || state == ANAOptimized {
				state = group.ANAState
			}
		}
		return state, nil
	}
	return "", n.wrap(ErrNotFound, "listener %s of %s", address, nqn)
}

func (n *Node) setANAState(ctx context.Context, nqn string, l ListenerInfo, state ANAState) error {
	if len(l.ANAStates) == 0 {
		return n.wrap(fmt.Errorf("%w: it does not report ANA", ErrConflict), "set ANA state of %s", nqn)
	}
	same := true
	for _, group := range l.ANAStates {
		same = same && group.ANAState == state
	}
	if same {
		return nil
	}
	err := NVMfSubsystemListenerSetANAState(ctx, n.rpc, NVMfSetANAStateParams{NQN: nqn, ListenAddress: l.Address, ANAState: state})
	return n.wrap(err, "set ANA state of %s to %s", nqn, state)
}
