package nvmetcp

import (
	"fmt"
	"net"
	"sort"
)

// AddNamespace exports a device. Controllers are told (namespace attribute
// changed).
func (s *Subsystem) AddNamespace(cfg NamespaceConfig) error {
	if cfg.NSID == 0 || cfg.NSID > s.cfg.MaxNamespaces {
		return fmt.Errorf("add namespace %d to %s: its id must be 1 to %d", cfg.NSID, s.cfg.NQN, s.cfg.MaxNamespaces)
	}
	if cfg.ANAGroupID == 0 {
		cfg.ANAGroupID = cfg.NSID
	}
	if cfg.ANAGroupID > s.cfg.MaxNamespaces {
		return fmt.Errorf("add namespace %d to %s: ANA group %d is above %d", cfg.NSID, s.cfg.NQN, cfg.ANAGroupID, s.cfg.MaxNamespaces)
	}
	if bs := cfg.Device.BlockSize(); bs != 512 && bs != 4096 {
		return fmt.Errorf("add namespace %d to %s: block size %d is not 512 or 4096", cfg.NSID, s.cfg.NQN, bs)
	}
	err := s.change(cfg.NSID, func() error {
		if s.namespaces[cfg.NSID] != nil {
			return fmt.Errorf("add namespace %d to %s: it exists", cfg.NSID, s.cfg.NQN)
		}
		ns := &namespace{NamespaceConfig: cfg}
		ns.blocks = cfg.Device.SizeBytes() / int64(cfg.Device.BlockSize())
		s.namespaces[cfg.NSID] = ns
		return nil
	})
	if err != nil {
		return err
	}
	s.namespaceChanged(cfg.NSID)
	return nil
}

// RemoveNamespace takes a namespace away. It waits for the I/O that executes on
// its device, new I/O waits meanwhile, and fails afterwards with Invalid
// Namespace.
func (s *Subsystem) RemoveNamespace(nsid uint32) error {
	err := s.change(nsid, func() error {
		if s.namespaces[nsid] == nil {
			return fmt.Errorf("remove namespace %d of %s: there is none", nsid, s.cfg.NQN)
		}
		delete(s.namespaces, nsid)
		return nil
	})
	if err != nil {
		return err
	}
	s.namespaceChanged(nsid)
	return nil
}

// SetANAGroup puts a namespace into an ANA group and tells controllers that the namespace has changed. It waits for the I/O that executes
// on its device, and new I/O waits meanwhile, also where there is nothing to change.
func (s *Subsystem) SetANAGroup(nsid, group uint32) error {
	err := s.change(nsid, func() error {
		ns := s.namespaces[nsid]
		if ns == nil || group == 0 || group > s.cfg.MaxNamespaces {
			return fmt.Errorf("put namespace %d of %s into ANA group %d: there is no such namespace or group", nsid, s.cfg.NQN, group)
		}
		ns.ANAGroupID = group
		return nil
	})
	if err != nil {
		return err
	}
	s.namespaceChanged(nsid)
	return nil
}

// NamespaceResized tells controllers that a device has another size.
func (s *Subsystem) NamespaceResized(nsid uint32) {
	found := false
	err := s.change(0, func() error {
		if ns := s.namespaces[nsid]; ns != nil {
			ns.blocks = ns.Device.SizeBytes() / int64(ns.Device.BlockSize())
			found = true
		}
		return nil
	})
	if err == nil && found {
		s.namespaceChanged(nsid)
	}
}

func (s *Subsystem) namespaceChanged(nsid uint32) {
	for _, a := range s.associations() {
		a.namespaceChanged(nsid)
	}
}

// AllowHost lets a host connect.
func (s *Subsystem) AllowHost(nqn string) {
	s.mu.Lock()
	s.hosts[nqn] = struct{}{}
	s.mu.Unlock()
	s.t.discoveryChanged()
}

// SetAllowAnyHost lets every host connect, or only those allowed by name.
// Established controllers stay.
func (s *Subsystem) SetAllowAnyHost(allow bool) {
	s.mu.Lock()
	s.anyHost = allow
	s.mu.Unlock()
	s.t.discoveryChanged()
}

// Hosts are the names of the hosts allowed, sorted, and whether any host is.
func (s *Subsystem) Hosts() (names []string, anyHost bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range s.hosts {
		names = append(names, n)
	}
	sort.Strings(names)
	return names, s.anyHost
}

// RemoveHost bars a host and disconnects its controllers at once: nothing that
// they send from now on executes. The returned channel is closed when what was
// executing has ended and the controllers are gone, which is when SPDK answers
// nvmf_subsystem_remove_host.
func (s *Subsystem) RemoveHost(nqn string) <-chan struct{} {
	s.mu.Lock()
	delete(s.hosts, nqn)
	delete(s.keys, nqn)
	s.mu.Unlock()
	gone := s.disconnect(func(a *association) bool { return a.hostNQN == nqn }, true)
	s.t.discoveryChanged()
	return gone
}

// AddListener lets hosts reach the subsystem through an address that the target
// listens on. Its ANA groups are optimized.
func (s *Subsystem) AddListener(addr string) error {
	s.t.mu.Lock()
	_, ok := s.t.listeners[addr]
	s.t.mu.Unlock()
	if !ok {
		return fmt.Errorf("add listener %s to %s: the target does not listen there", addr, s.cfg.NQN)
	}
	err := s.change(0, func() error {
		if s.listeners[addr] != nil {
			return fmt.Errorf("add listener %s to %s: it exists", addr, s.cfg.NQN)
		}
		s.portID++
		s.listeners[addr] = &subsystemListener{portID: s.portID, state: ANAOptimized, groups: map[uint32]ANAState{}}
		return nil
	})
	if err != nil {
		return err
	}
	s.t.discoveryChanged()
	return nil
}

// RemoveListener takes an address away and disconnects the controllers that came
// through it.
func (s *Subsystem) RemoveListener(addr string) {
	err := s.change(0, func() error {
		delete(s.listeners, addr)
		return nil
	})
	if err != nil {
		return // the target is closed, and with it every listener
	}
	s.disconnect(func(a *association) bool { return a.listen == addr }, false)
	s.t.discoveryChanged()
}

// Listeners are the addresses that the subsystem listens on, sorted.
func (s *Subsystem) Listeners() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sortedListeners()
}

// sortedListeners is Listeners for a caller that holds s.mu.
func (s *Subsystem) sortedListeners() []string {
	all := make([]string, 0, len(s.listeners))
	for a := range s.listeners {
		all = append(all, a)
	}
	sort.Strings(all)
	return all
}

// SetANAState sets the state of an ANA group, or of all (0), as seen through one
// listener, and tells its controllers. New I/O in a state that is not accessible
// fails with the path's status. I/O that executes is not waited for: SPDK pauses
// only management commands here (nvmf_rpc.c, rpc_nvmf_subsystem_listener_set_ana_state).
func (s *Subsystem) SetANAState(addr string, anagrpid uint32, state ANAState) error {
	changed := true
	err := s.change(0, func() error {
		l := s.listeners[addr]
		switch {
		case !s.cfg.ANAReporting:
			return fmt.Errorf("set ANA state of %s: the subsystem was created without ana_reporting", s.cfg.NQN)
		case state != ANAOptimized && state != ANANonOptimized && state != ANAInaccessible:
			return fmt.Errorf("set ANA state of %s: SPDK does not support %v", s.cfg.NQN, state)
		case anagrpid > s.cfg.MaxNamespaces:
			return fmt.Errorf("set ANA state of %s: group %d is above %d", s.cfg.NQN, anagrpid, s.cfg.MaxNamespaces)
		case l == nil:
			return fmt.Errorf("set ANA state of %s: it does not listen on %s", s.cfg.NQN, addr)
		case anagrpid == 0:
			l.state = state
			clear(l.groups)
		case l.ana(anagrpid) == state:
			changed = false
			return nil
		default:
			l.groups[anagrpid] = state
		}
		l.count++
		return nil
	})
	if err != nil || !changed {
		return err
	}
	for _, a := range s.associations() {
		if a.listen == addr {
			a.notify(aenANAChanged, aecANA)
		}
	}
	return nil
}

// ANAState is the state of an ANA group as seen through a listener.
func (s *Subsystem) ANAState(addr string, anagrpid uint32) (ANAState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.listeners[addr]
	if l == nil {
		return 0, fmt.Errorf("ANA state of %s: it does not listen on %s", s.cfg.NQN, addr)
	}
	return l.ana(anagrpid), nil
}

// Controllers are the associations at present, by controller id.
func (s *Subsystem) Controllers() []ControllerInfo {
	var all []ControllerInfo
	for _, a := range s.associations() {
		all = append(all, a.info())
	}
	sort.Slice(all, func(i, j int) bool { return all[i].CNTLID < all[j].CNTLID })
	return all
}

// splitAddr is host and port of a listener's address, for the discovery log.
func splitAddr(addr string) (host, port string) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr, ""
	}
	return host, port
}
