package spdk

import (
	"context"
	"errors"
	"fmt"
)

// Pause holds back the I/O of a subsystem's hosts for a moment. What it needs to know is read before, so that each of its steps is one call or
// two.
type Pause struct {
	node     *Node
	nqn      string
	address  Address
	listener ListenerInfo
	ns       NamespaceInfo
}

// PreparePause reads what a Pause of an export needs. An absent subsystem or listener is ErrNotFound, one that doesn't report ANA ErrConflict.
func (n *Node) PreparePause(ctx context.Context, nqn string, address Address) (*Pause, error) {
	s, err := n.subsystem(ctx, nqn)
	if err != nil {
		return nil, err
	}
	if len(s.Namespaces) == 0 || s.Namespaces[0].ANAGrpID == nil {
		return nil, n.wrap(fmt.Errorf("%w: it has no namespace that reports ANA", ErrConflict), "pause subsystem %s", nqn)
	}
	p := &Pause{node: n, nqn: nqn, address: address, ns: s.Namespaces[0]}
	listeners, err := n.listeners(ctx, nqn)
	if err != nil {
		return nil, err
	}
	for _, l := range listeners {
		if addressOf(l.Address.Traddr, l.Address.Trsvcid) == address {
			p.listener = l
			return p, nil
		}
	}
	return nil, n.wrap(ErrNotFound, "listener %s of %s", address, nqn)
}

// Begin has commands refused that come from now on: the listener is ANA inaccessible. Those that execute go on.
func (p *Pause) Begin(ctx context.Context) error { return p.set(ctx, ANAInaccessible) }

// Drain waits until no command of the namespace executes any more. It changes nothing: the namespace is put into the ANA group in which it
// is. Admin commands wait meanwhile.
func (p *Pause) Drain(ctx context.Context) error {
	err := NVMfSubsystemSetNSANAGroup(ctx, p.node.rpc, NVMfSetNSANAGroupParams{NQN: p.nqn, NSID: p.ns.NSID, ANAGrpID: *p.ns.ANAGrpID})
	return p.node.wrap(err, "drain subsystem %s", p.nqn)
}

// End lets the hosts' I/O go on. held says that it was held back until now: nobody else has ended the pause before.
func (p *Pause) End(ctx context.Context) (held bool, err error) {
	state, readErr := p.node.ANAState(ctx, p.nqn, p.address)
	held = readErr == nil && state == ANAInaccessible
	if err := p.set(ctx, ANAOptimized); err != nil {
		return held, errors.Join(err, readErr)
	}
	return held, nil
}

func (p *Pause) set(ctx context.Context, state ANAState) error {
	err := NVMfSubsystemListenerSetANAState(ctx, p.node.rpc, NVMfSetANAStateParams{NQN: p.nqn, ListenAddress: p.listener.Address, ANAState: state})
	return p.node.wrap(err, "set ANA state of %s to %s", p.nqn, state)
}
