package nvmetcp

import (
	"strings"
	"testing"
	"time"
)

func ended(t *testing.T, c *Controller) {
	t.Helper()
	select {
	case <-c.Done():
	case <-patient(t).Done():
		t.Fatal("the association goes on")
	}
}

func event(t *testing.T, c *Controller, want EventType) {
	t.Helper()
	select {
	case e := <-c.Events():
		if e.Type != want {
			t.Fatalf("got event %v, want %v", e.Type, want)
		}
	case <-c.Done():
		t.Fatalf("the association ended: %v", c.Err())
	case <-patient(t).Done():
		t.Fatal("no event")
	}
}

func TestConnectIsCheckedAsSPDKDoes(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	f.must(f.tgt.Listen("127.0.0.2:0"))
	elsewhere := f.tgt.Addrs()[1]
	for _, tc := range []struct {
		name    string
		change  func(*HostConfig)
		sct, sc uint8
	}{
		{"host that is not allowed", func(c *HostConfig) { c.HostNQN = "nqn.2024-01.io.example:stranger" }, SCTCommand, SCConnectInvalidHost},
		{"address without a listener", func(c *HostConfig) { c.Addr = elsewhere }, SCTCommand, SCConnectInvalidHost},
		{"unknown subsystem", func(c *HostConfig) { c.SubNQN = "nqn.2024-01.io.example:absent" }, SCTCommand, SCConnectInvalidParameters},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := f.hostConfig()
			tc.change(&cfg)
			_, err := Connect(patient(t), cfg)
			wantStatus(t, err, tc.sct, tc.sc)
		})
	}
}

func TestControllerIDsComeFromTheRangeUntilItIsExhausted(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{MinCNTLID: 100, MaxCNTLID: 101})
	a, b := f.connect(f.hostConfig()), f.connect(f.hostConfig())
	if a.CNTLID() != 100 || b.CNTLID() != 101 {
		t.Errorf("controller ids %d and %d, want 100 and 101", a.CNTLID(), b.CNTLID())
	}
	_, err := Connect(patient(t), f.hostConfig())
	wantStatus(t, err, SCTGeneric, SCInternalError)
	f.must(a.Shutdown(patient(t)))
	awaitControllers(t, f.sub, 1)
	if c := f.connect(f.hostConfig()); c.CNTLID() != 100 {
		t.Errorf("controller id %d, want the freed 100", c.CNTLID())
	}
}

// awaitControllers waits until a subsystem has n controllers.
func awaitControllers(t *testing.T, s *Subsystem, n int) {
	t.Helper()
	ctx := patient(t)
	for len(s.Controllers()) != n {
		select {
		case <-ctx.Done():
			t.Fatalf("%d controllers, want %d", len(s.Controllers()), n)
		case <-time.After(time.Millisecond):
		}
	}
}

func TestKeepAliveTimeoutIsRoundedAsSPDKDoes(t *testing.T) {
	for _, tc := range []struct {
		units      int
		minKATO    time.Duration
		want, kato time.Duration
	}{
		{100, 0, 2 * time.Second, 10 * time.Second},
		{5, 0, 2 * time.Second, 10 * time.Second},
		{5, 2 * time.Second, time.Second, 2 * time.Second},
		{5, 2 * time.Second, 2100 * time.Millisecond, 2500 * time.Millisecond},
		{100, 2 * time.Second, 2 * time.Second, 10 * time.Second},
		{5, 2 * time.Second, 0, 0},
	} {
		f := newFixture(t, TargetConfig{KeepAliveUnits: tc.units, MinKATO: tc.minKATO}, SubsystemConfig{})
		cfg := f.hostConfig()
		cfg.KATO = tc.want
		c := f.connect(cfg)
		if got := f.sub.Controllers()[0].KATO; c.GrantedKATO() != tc.kato || got != tc.kato {
			t.Errorf("kas %d, min %v, asked %v: granted %v, the target says %v, want %v", tc.units, tc.minKATO, tc.want, c.GrantedKATO(), got, tc.kato)
		}
	}
}

func TestKeepAlivesKeepAnAssociation(t *testing.T) {
	f := newFixture(t, TargetConfig{MinKATO: time.Second, KeepAliveUnits: 1}, SubsystemConfig{})
	cfg := f.hostConfig()
	cfg.KATO, cfg.KeepAlive = time.Second, KeepAliveAuto
	c := f.connect(cfg)
	select {
	case <-c.Done():
		t.Fatal(c.Err())
	case <-time.After(3 * time.Second): // the thing under test is that nothing happens
	}
}

func TestNamespaceChangesAreAnnounced(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	c := f.connect(f.hostConfig())
	ctx := patient(t)
	second := newMemDisk(4096, 1<<20)
	f.must(f.sub.AddNamespace(NamespaceConfig{NSID: 7, Device: second, ANAGroupID: 3}))
	event(t, c, EventNamespaceChanged)
	all, err := c.Namespaces(ctx)
	f.must(err)
	if len(all) != 2 || all[1].NSID != 7 || all[1].BlockSize != 4096 || all[1].ANAGroup != 3 || all[0].UUID != testUUID {
		t.Errorf("namespaces %+v", all)
	}
	second.grow(2 << 20)
	f.sub.NamespaceResized(7)
	event(t, c, EventNamespaceChanged)
	if all, err = c.Namespaces(ctx); err != nil || all[1].SizeBytes != 2<<20 {
		t.Errorf("after the resize %+v, %v", all, err)
	}
	f.must(f.sub.RemoveNamespace(7))
	event(t, c, EventNamespaceChanged)
	wantStatus(t, c.Read(ctx, 7, make([]byte, 4096), 0), SCTGeneric, SCInvalidNamespace)
}

func TestANAChangesAreAnnouncedAndEnforcedPerListener(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	f.must(f.tgt.Listen("127.0.0.2:0"))
	other := f.tgt.Addrs()[1]
	f.must(f.sub.AddListener(other))
	cfg := f.hostConfig()
	a := f.connect(cfg)
	cfg.Addr = other
	b := f.connect(cfg)
	for _, state := range []ANAState{ANAInaccessible, ANANonOptimized} {
		f.must(f.sub.SetANAState(f.addr, 0, state))
		event(t, a, EventANAChanged)
		states, err := a.ANAStates(patient(t))
		f.must(err)
		if states[1] != state {
			t.Errorf("states %v, want %v", states, state)
		}
		err = a.Read(patient(t), 1, make([]byte, 512), 0)
		if state == ANAInaccessible {
			wantStatus(t, err, SCTPath, SCANAInaccessible)
		} else {
			f.must(err)
		}
		f.must(b.Read(patient(t), 1, make([]byte, 512), 0))
	}
	if states, err := b.ANAStates(patient(t)); err != nil || states[1] != ANAOptimized {
		t.Errorf("the other listener's states %v, %v", states, err)
	}
	if err := f.sub.SetANAState(f.addr, 0, ANAPersistentLoss); err == nil {
		t.Error("persistent loss is accepted, SPDK does not support it")
	}
}

// The kernel and the initiator rely on an event being announced once until its
// log page is read, and again afterwards.
func TestEventIsAnnouncedOnceUntilItsLogIsRead(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	c := f.connect(f.hostConfig())
	for _, state := range []ANAState{ANAInaccessible, ANAOptimized, ANAInaccessible} {
		f.must(f.sub.SetANAState(f.addr, 0, state))
	}
	event(t, c, EventANAChanged)
	f.must(c.KeepAlive(patient(t))) // an event raised before would have been delivered
	select {
	case e := <-c.Events():
		t.Fatalf("event %v before the log was read", e)
	default:
	}
	if _, err := c.ANAStates(patient(t)); err != nil {
		t.Fatal(err)
	}
	f.must(f.sub.SetANAState(f.addr, 0, ANAOptimized))
	event(t, c, EventANAChanged)
}

func TestRemovedListenerDisconnectsItsControllersOnly(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	f.must(f.tgt.Listen("127.0.0.2:0"))
	other := f.tgt.Addrs()[1]
	f.must(f.sub.AddListener(other))
	cfg := f.hostConfig()
	a := f.connect(cfg)
	cfg.Addr = other
	b := f.connect(cfg)
	f.sub.RemoveListener(f.addr)
	ended(t, a)
	f.must(b.KeepAlive(patient(t)))
	f.must(f.tgt.RemoveSubsystem(testNQN))
	ended(t, b)
}

func TestShutdownEndsTheControllerInOrder(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	f.must(f.connect(f.hostConfig()).Shutdown(patient(t)))
	awaitControllers(t, f.sub, 0)
}

func TestDiscoveryListsWhatTheHostMayConnect(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	cfg := f.hostConfig()
	cfg.SubNQN = DiscoveryNQN
	read := func(host string) []byte {
		cfg.HostNQN = host
		c := f.connect(cfg)
		page, err := c.logPage(patient(t), logDiscovery, 0, 2*discoveryEntry)
		f.must(err)
		return page
	}
	page := read(testHost)
	e := page[discoveryEntry:]
	host, port := splitAddr(f.addr)
	if le.Uint64(page[8:]) != 1 || cString(e[256:512]) != testNQN || strings.TrimRight(string(e[512:768]), " ") != host ||
		strings.TrimRight(string(e[32:64]), " ") != port {
		t.Errorf("%d records, first %q at %q port %q", le.Uint64(page[8:]), e[256:300], e[512:540], e[32:64])
	}
	if page := read("nqn.2024-01.io.example:stranger"); le.Uint64(page[8:]) != 0 {
		t.Errorf("a stranger sees %d records", le.Uint64(page[8:]))
	}
}

func TestAbortEndsAHeldEventRequestAndLeavesIOAlone(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	c := f.connect(f.hostConfig())
	a := f.sub.associations()[0]
	for held := 0; held == 0; time.Sleep(time.Millisecond) {
		a.mu.Lock()
		held = len(a.aers)
		a.mu.Unlock()
	}
	// Three more than the controller's own; the fifth is one too many.
	results := make(chan error, 4)
	for range 4 {
		go func() {
			_, err := c.adminCommand(patient(t), opAsyncEvent, 0, nil)
			results <- err
		}()
	}
	wantStatus(t, <-results, SCTCommand, SCAsyncEventLimit)
	aborted := 0
	for cid := range uint32(hostAdminDepth) {
		v, err := c.adminCommand(patient(t), opAbort, 0, nil, cid<<16)
		f.must(err)
		if v == 0 {
			aborted++
		}
	}
	if aborted != 4 {
		t.Errorf("%d commands aborted, want the 4 held event requests", aborted)
	}
	for range 3 {
		wantStatus(t, <-results, SCTGeneric, SCAbortRequested)
	}
}
