package nvmetcp

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Subsystem is an NVM subsystem: namespaces, the hosts allowed, the addresses it
// listens on with their ANA states, and the controllers that hosts have.
//
// SPDK pauses a subsystem to change it (spdk_nvmf_subsystem_pause): management
// commands wait, and the I/O of the namespace concerned is drained and held. So
// does this one: a hung device makes the removal of its namespace wait, and with
// it every keep-alive of the subsystem.
type Subsystem struct {
	t         *Target
	cfg       SubsystemConfig
	discovery bool

	changing chan struct{} // holds one token: serialises pauses

	mu         sync.Mutex
	anyHost    bool
	hosts      map[string]struct{}
	keys       map[string]*HostKeys // of hosts that have to authenticate
	sequence   uint32               // of challenges
	listeners  map[string]*subsystemListener
	portID     uint16
	namespaces map[uint32]*namespace
	assocs     map[uint16]*association
	nextCNTLID uint16
	mgmt       int            // management commands that execute
	io         map[uint32]int // I/O commands that execute, by namespace
	paused     bool
	pausedNSID uint32        // 0: no namespace is held
	resumed    chan struct{} // closed when the pause ends
	progress   chan struct{} // tells the pausing caller that a command has ended
}

// subsystemListener is an address that the subsystem listens on.
type subsystemListener struct {
	portID uint16
	state  ANAState            // of groups without their own
	groups map[uint32]ANAState // by ANA group
	count  uint64              // state changes
}

func (l *subsystemListener) ana(group uint32) ANAState {
	if s, ok := l.groups[group]; ok {
		return s
	}
	return l.state
}

type namespace struct {
	NamespaceConfig
	blocks int64 // size last announced, in blocks
}

func newSubsystem(t *Target, cfg SubsystemConfig) *Subsystem {
	if cfg.Serial == "" {
		cfg.Serial = "00000000000000000000"
	}
	if cfg.Model == "" {
		cfg.Model = "SPDK bdev Controller"
	}
	if cfg.MinCNTLID == 0 {
		cfg.MinCNTLID = 1
	}
	if cfg.MaxCNTLID == 0 {
		cfg.MaxCNTLID = 0xffef
	}
	if cfg.MaxNamespaces == 0 {
		cfg.MaxNamespaces = 32
	}
	return &Subsystem{
		t: t, cfg: cfg, changing: make(chan struct{}, 1), anyHost: cfg.AllowAnyHost,
		hosts: map[string]struct{}{}, keys: map[string]*HostKeys{}, listeners: map[string]*subsystemListener{},
		namespaces: map[uint32]*namespace{}, assocs: map[uint16]*association{}, nextCNTLID: cfg.MinCNTLID,
		io: map[uint32]int{}, progress: make(chan struct{}, 1),
	}
}

// NQN is the subsystem's name.
func (s *Subsystem) NQN() string { return s.cfg.NQN }

// Config is what the subsystem was created with, defaults filled in.
func (s *Subsystem) Config() SubsystemConfig { return s.cfg }

// change pauses the subsystem, with nsid's I/O drained unless it is 0, applies f
// under the lock and resumes.
func (s *Subsystem) change(nsid uint32, f func() error) error {
	select {
	case s.changing <- struct{}{}:
	case <-s.t.ctx.Done():
		return errTargetClosed
	}
	defer func() { <-s.changing }()

	s.mu.Lock()
	s.paused, s.pausedNSID, s.resumed = true, nsid, make(chan struct{})
	var err error
	for s.mgmt > 0 || (nsid != 0 && s.io[nsid] > 0) {
		s.mu.Unlock()
		select {
		case <-s.progress:
		case <-s.t.ctx.Done():
			err = errTargetClosed
		}
		s.mu.Lock()
		if err != nil {
			break
		}
	}
	if err == nil {
		err = f()
	}
	s.paused = false
	close(s.resumed)
	s.mu.Unlock()
	return err
}

// enter waits until a management command may execute; leave ends it.
func (s *Subsystem) enter(ctx context.Context) error {
	s.mu.Lock()
	for s.paused {
		if err := s.wait(ctx); err != nil {
			s.mu.Unlock()
			return err
		}
	}
	s.mgmt++
	s.mu.Unlock()
	return nil
}

// wait waits for the end of a pause. The caller holds s.mu.
func (s *Subsystem) wait(ctx context.Context) error {
	resumed := s.resumed
	s.mu.Unlock()
	defer s.mu.Lock()
	select {
	case <-resumed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Subsystem) leave() {
	s.mu.Lock()
	s.mgmt--
	s.mu.Unlock()
	s.signal()
}

func (s *Subsystem) signal() {
	select {
	case s.progress <- struct{}{}:
	default:
	}
}

// enterIO admits an I/O command of a controller to a namespace; leaveIO ends it.
// Without a namespace and an error ctx has ended.
func (s *Subsystem) enterIO(ctx context.Context, a *association, nsid uint32) (*namespace, *StatusError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.paused && s.pausedNSID == nsid && nsid != 0 {
		if s.wait(ctx) != nil {
			return nil, nil
		}
	}
	ns := s.namespaces[nsid]
	if ns == nil {
		return nil, generic(SCInvalidNamespace).dnr()
	}
	if err := s.anaState(a.listen, ns.ANAGroupID).pathError(); err != nil {
		return nil, err
	}
	s.io[nsid]++
	return ns, nil
}

func (s *Subsystem) leaveIO(nsid uint32) {
	s.mu.Lock()
	s.io[nsid]--
	s.mu.Unlock()
	s.signal()
}

// anaState is the state of a group through a listener, as
// nvmf_ctrlr_get_ana_state tells it. The caller holds s.mu.
func (s *Subsystem) anaState(listen string, group uint32) ANAState {
	if !s.cfg.ANAReporting {
		return ANAOptimized
	}
	l := s.listeners[listen]
	if l == nil {
		return ANAInaccessible
	}
	return l.ana(group)
}

// admits checks what a Connect must satisfy: the host is allowed and the
// subsystem listens on the address. The caller holds s.mu.
func (s *Subsystem) admits(host, listen string) bool {
	if s.discovery {
		return true
	}
	if _, ok := s.hosts[host]; !ok && !s.anyHost {
		return false
	}
	return s.listeners[listen] != nil
}

var errNoCNTLID = errors.New("every controller id of the subsystem's range is in use")

// add gives an association a controller id. The caller holds s.mu.
func (s *Subsystem) add(a *association) error {
	for range int(s.cfg.MaxCNTLID) - int(s.cfg.MinCNTLID) + 1 {
		id := s.nextCNTLID
		if s.nextCNTLID == s.cfg.MaxCNTLID {
			s.nextCNTLID = s.cfg.MinCNTLID
		} else {
			s.nextCNTLID++
		}
		if s.assocs[id] == nil {
			a.cntlid = id
			s.assocs[id] = a
			return nil
		}
	}
	return fmt.Errorf("subsystem %s: %w", s.cfg.NQN, errNoCNTLID)
}

// associations are the controllers at present.
func (s *Subsystem) associations() []*association {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*association, 0, len(s.assocs))
	for _, a := range s.assocs {
		all = append(all, a)
	}
	return all
}

// disconnect ends the controllers that match. The returned channel is closed
// when none of them is left, their commands included.
func (s *Subsystem) disconnect(match func(*association) bool, wait bool) <-chan struct{} {
	gone := make(chan struct{})
	var left []*association
	for _, a := range s.associations() {
		if match(a) {
			a.disconnect()
			left = append(left, a)
		}
	}
	if !wait || len(left) == 0 {
		close(gone)
		return gone
	}
	started := s.t.spawn(func() {
		defer close(gone)
		for _, a := range left {
			<-a.gone
		}
	})
	if !started {
		close(gone)
	}
	return gone
}
