package spdk

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Export makes an export, or corrects one: its hosts, namespace, listener and ANA state,
// in this order. Nobody can connect before the host list is right, and a listener is never
// optimized for a moment when another state was asked for.
//
// What SPDK fixes when it makes a subsystem (serial, model, controller ids, ANA reporting)
// is corrected by making it again if it has no listener, and is ErrConflict otherwise. A
// missing bdev is ErrNotFound; one that something else holds, or a raid that is not
// online, makes SPDK refuse the namespace.
func (n *Node) Export(ctx context.Context, want Export) error {
	if err := want.check(); err != nil {
		return n.wrap(err, "export %s", want.NQN)
	}
	want = want.withDefaults()
	have, err := n.preparedSubsystem(ctx, want)
	if err != nil {
		return err
	}
	listening, err := n.quietListener(ctx, want, have)
	if err != nil {
		return err
	}
	if err := n.setHosts(ctx, want, have); err != nil {
		return err
	}
	if err := n.setNamespace(ctx, want, have); err != nil {
		return err
	}
	return n.listen(ctx, want, listening)
}

// preparedSubsystem returns the subsystem with everything right that cannot be changed.
func (n *Node) preparedSubsystem(ctx context.Context, want Export) (SubsystemInfo, error) {
	have, err := n.subsystem(ctx, want.NQN)
	if err != nil && !isNotFound(err) {
		return SubsystemInfo{}, err
	}
	if err == nil {
		differs, err := n.fixedDiffers(ctx, want, have)
		switch {
		case err != nil:
			return SubsystemInfo{}, err
		case differs == "":
			return have, nil
		case len(have.ListenAddresses) > 0:
			return SubsystemInfo{}, n.wrap(fmt.Errorf("%w: %s; unexport it first", ErrConflict, differs), "export %s", want.NQN)
		}
		if err := n.Unexport(ctx, want.NQN); err != nil {
			return SubsystemInfo{}, err
		}
	}
	err = NVMfCreateSubsystem(ctx, n.rpc, NVMfCreateSubsystemParams{
		NQN:           want.NQN,
		SerialNumber:  want.Serial,
		ModelNumber:   want.Model,
		MaxNamespaces: nsid,
		ANAReporting:  want.ANAReporting,
		MinCntlid:     int(want.MinCNTLID),
		MaxCntlid:     int(want.MaxCNTLID),
	})
	if err != nil {
		return SubsystemInfo{}, n.wrap(err, "make subsystem %s", want.NQN)
	}
	return n.subsystem(ctx, want.NQN)
}

// fixedDiffers names what differs that SPDK cannot change, or nothing. Whether a subsystem
// without a namespace and without a listener reports ANA cannot be read; it is made again.
func (n *Node) fixedDiffers(ctx context.Context, want Export, have SubsystemInfo) (string, error) {
	e := exportOf(have)
	switch {
	case want.Serial != "" && e.Serial != want.Serial:
		return fmt.Sprintf("its serial number is %q, not %q", e.Serial, want.Serial), nil
	case want.Model != "" && e.Model != want.Model:
		return fmt.Sprintf("its model number is %q, not %q", e.Model, want.Model), nil
	case e.MinCNTLID != want.MinCNTLID || e.MaxCNTLID != want.MaxCNTLID:
		return fmt.Sprintf("its controller ids are %d to %d, not %d to %d", e.MinCNTLID, e.MaxCNTLID, want.MinCNTLID, want.MaxCNTLID), nil
	case len(have.Namespaces) == 0 && len(have.ListenAddresses) == 0:
		return "it has neither namespace nor listener", nil
	}
	reporting := e.ANAReporting
	if len(have.Namespaces) == 0 {
		listeners, err := n.listeners(ctx, want.NQN)
		if err != nil {
			return "", err
		}
		reporting = slices.ContainsFunc(listeners, func(l ListenerInfo) bool { return l.ANAStates != nil })
	}
	if reporting != want.ANAReporting {
		return fmt.Sprintf("it reports ANA: %t, not %t", reporting, want.ANAReporting), nil
	}
	return "", nil
}

// quietListener removes listeners at other addresses and takes the one that is wanted out
// of the optimized state, if another is wanted, before hosts and namespace can change. It
// reports whether the wanted one is there.
func (n *Node) quietListener(ctx context.Context, want Export, have SubsystemInfo) (bool, error) {
	if len(have.ListenAddresses) == 0 {
		return false, nil
	}
	listeners, err := n.listeners(ctx, want.NQN)
	if err != nil {
		return false, err
	}
	listening := false
	for _, l := range listeners {
		if addressOf(l.Address.Traddr, l.Address.Trsvcid) != want.Listen {
			if err := NVMfSubsystemRemoveListener(ctx, n.rpc, NVMfListenerParams{NQN: want.NQN, ListenAddress: l.Address}); err != nil {
				return false, n.wrap(err, "remove listener %s:%s of %s", l.Address.Traddr, l.Address.Trsvcid, want.NQN)
			}
			continue
		}
		listening = true
		if want.ANAReporting && want.ANAState != ANAOptimized {
			if err := n.setANAState(ctx, want.NQN, l, want.ANAState); err != nil {
				return false, err
			}
		}
	}
	return listening, nil
}

// setHosts makes the host list the exact set that is wanted, those that must go first, unless they may stay.
func (n *Node) setHosts(ctx context.Context, want Export, have SubsystemInfo) error {
	if have.AllowAnyHost {
		if err := NVMfSubsystemAllowAnyHost(ctx, n.rpc, NVMfAllowAnyHostParams{NQN: want.NQN}); err != nil {
			return n.wrap(err, "close %s to hosts that are not listed", want.NQN)
		}
	}
	hosts := exportOf(have).Hosts
	for _, host := range hosts {
		if !want.KeepHosts && !slices.Contains(want.Hosts, host) {
			if err := n.FenceHost(ctx, want.NQN, host); err != nil {
				return err
			}
		}
	}
	for _, host := range want.Hosts {
		// One that is let in is seen to have its keys: they may have been dropped since.
		keys := want.HostKeys[host]
		if keys == (Keys{}) && slices.Contains(hosts, host) {
			continue
		}
		if err := n.AllowHostWith(ctx, want.NQN, host, keys); err != nil {
			return err
		}
	}
	return nil
}

// setNamespace makes the one namespace the one that is wanted.
func (n *Node) setNamespace(ctx context.Context, want Export, have SubsystemInfo) error {
	bdev, err := n.bdev(ctx, want.Bdev)
	if err != nil {
		return fmt.Errorf("export %s: %w", want.NQN, err)
	}
	for _, ns := range have.Namespaces {
		if ns.NSID == nsid && ns.BdevName == bdev.Name && strings.EqualFold(ns.NGUID, want.NGUID) && strings.EqualFold(ns.UUID, want.NSUUID.String()) {
			return nil
		}
		if err := NVMfSubsystemRemoveNS(ctx, n.rpc, NVMfSubsystemRemoveNSParams{NQN: want.NQN, NSID: ns.NSID}); err != nil {
			return n.wrap(err, "remove namespace %d of %s", ns.NSID, want.NQN)
		}
	}
	_, err = NVMfSubsystemAddNS(ctx, n.rpc, NVMfSubsystemAddNSParams{
		NQN:       want.NQN,
		Namespace: NVMfNamespace{NSID: nsid, BdevName: bdev.Name, NGUID: strings.ToUpper(want.NGUID), UUID: want.NSUUID.String()},
	})
	return n.wrap(err, "add bdev %s as namespace of %s", want.Bdev, want.NQN)
}

// listen adds the listener, or brings the one that is there to the wanted ANA state.
func (n *Node) listen(ctx context.Context, want Export, listening bool) error {
	if !listening {
		err := NVMfSubsystemAddListener(ctx, n.rpc, NVMfAddListenerParams{NQN: want.NQN, ListenAddress: want.Listen.listen(), ANAState: want.ANAState})
		return n.wrap(err, "listen on %s for %s", want.Listen, want.NQN)
	}
	if want.ANAReporting {
		return n.SetANAState(ctx, want.NQN, want.Listen, want.ANAState)
	}
	return nil
}

// AllowHost lets a host connect to a subsystem, if it is not allowed already.
func (n *Node) AllowHost(ctx context.Context, nqn, hostNQN string) error {
	return n.AllowHostWith(ctx, nqn, hostNQN, Keys{})
}

// AllowHostWith does the same for a host that has to authenticate with these keys, which one that is allowed already is given.
func (n *Node) AllowHostWith(ctx context.Context, nqn, hostNQN string, keys Keys) error {
	s, err := n.subsystem(ctx, nqn)
	if err != nil {
		return err
	}
	if err := n.PutKeys(ctx, keys); err != nil {
		return err
	}
	p := NVMfHostKeysParams{NQN: nqn, Host: hostNQN, DHCHAPKey: keys.Host.Name, DHCHAPCtrlrKey: keys.Controller.Name}
	switch allowed := slices.Contains(exportOf(s).Hosts, hostNQN); {
	case !allowed:
		return n.wrap(NVMfSubsystemAddHost(ctx, n.rpc, p), "allow host %s on %s", hostNQN, nqn)
	case keys != (Keys{}):
		return n.wrap(NVMfSubsystemSetKeys(ctx, n.rpc, p), "set the keys of host %s on %s", hostNQN, nqn)
	}
	return nil
}

// FenceHost keeps a host out of a subsystem, disconnects it, and waits, within ctx, until
// no controller of it is left: from then on nothing that it sent can still arrive. An
// absent subsystem is success.
//
// A raid host that is cut off a leg while it rebuilds any leg and is written to crashes
// (raid1.c, raid1_write_bdev_io_completion): where it can still be asked, take the leg out
// of the raid first.
func (n *Node) FenceHost(ctx context.Context, nqn, hostNQN string) error {
	s, err := n.subsystem(ctx, nqn)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if s.AllowAnyHost {
		return n.wrap(fmt.Errorf("%w: it allows any host", ErrConflict), "fence host %s off %s", hostNQN, nqn)
	}
	if slices.Contains(exportOf(s).Hosts, hostNQN) {
		err := NVMfSubsystemRemoveHost(ctx, n.rpc, NVMfHostParams{NQN: nqn, Host: hostNQN})
		if err != nil && !answered(err) {
			return n.wrap(err, "fence host %s off %s", hostNQN, nqn)
		}
		now, readErr := n.subsystem(ctx, nqn)
		switch {
		case isNotFound(readErr):
			return nil
		case readErr != nil:
			return readErr
		case err != nil && slices.Contains(exportOf(now).Hosts, hostNQN):
			return n.wrap(err, "fence host %s off %s", hostNQN, nqn)
		}
	}
	err = until(ctx, func() (bool, error) {
		connected, err := NVMfSubsystemGetControllers(ctx, n.rpc, NVMfSubsystemParams{NQN: nqn})
		if err != nil {
			return false, err
		}
		return !slices.ContainsFunc(connected, func(c SubsystemControllerInfo) bool { return c.HostNQN == hostNQN }), nil
	})
	return n.wrap(err, "fence host %s off %s", hostNQN, nqn)
}
