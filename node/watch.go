package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/holdfast-csi/holdfast/node/coalesce"
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/timeouts"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

const (
	// recordAge is how long a record that nothing contradicts is taken from memory.
	recordAge = 10 * time.Second
	// readLimit bounds the reading of one record that is in memory already: a store that hangs must not slow the watching.
	readLimit = timeouts.WatchInterval / 2
	// storeLimit bounds a use of the store by the watcher.
	storeLimit = 5 * time.Second
	// readers is how many records are read side by side.
	readers = 16
	// lookLimit bounds one look at an SPDK node.
	lookLimit = time.Second
)

// watcher looks at the raids of the volumes that are staged here, puts on record which replicas fail before SPDK can have acknowledged
// a write without them (docs/design.md, line 9), and has a volume tended that needs it. It makes two calls an interval to each SPDK
// node that runs a raid of ours, however many volumes there are.
type watcher struct {
	server    *Server
	clock     clock.WithTicker
	observer  Observer
	converger *converge.Converger
	running   sync.WaitGroup

	// fences, makes and calm bound what is done side by side; leaving is how many volumes leave their raid hosts now.
	fences, makes, calm slots
	// trims lets one file system be trimmed at a time.
	trims   slots
	leaving atomic.Int32
	// wishing: it is being found out what is wanted.
	wishing atomic.Bool

	mu      sync.Mutex
	watched map[string]*watchedVolume
	nodes   map[string]*watchedNode
	// looks and greetings are shared by the volumes on a node, by its name.
	looks     map[string]*coalesce.Call[look]
	greetings map[string]*coalesce.Call[bool]
	// disks are by node and lvstore.
	disks map[string]*coalesce.Call[error]
	// watches read the health of the nodes, by their names.
	watches map[string]*spdk.Watch
	// reachedAt is when this machine's paths were looked at, pathStates how many were in which state then.
	reachedAt  time.Time
	pathStates map[string]int
}

// look is what a look at an SPDK node has shown.
type look struct {
	health spdk.Health
	err    error
}

func newWatcher(s *Server, c clock.WithTicker) *watcher {
	return &watcher{
		server: s, clock: c, observer: unobserved{}, converger: converge.New(s.cluster),
		fences: make(slots, maxFences), makes: make(slots, maxMakes), calm: make(slots, maxCalm), trims: make(slots, 1),
		watched: map[string]*watchedVolume{}, nodes: map[string]*watchedNode{},
		looks: map[string]*coalesce.Call[look]{}, greetings: map[string]*coalesce.Call[bool]{}, disks: map[string]*coalesce.Call[error]{}, watches: map[string]*spdk.Watch{},
	}
}

// watchedVolume is one staged volume.
type watchedVolume struct {
	id string
	// tending is held, by its one token, by whoever works on what runs of the volume.
	tending chan struct{}

	// mu is held while the record is compared and written.
	mu     sync.Mutex
	record *volume.Volume
	readAt time.Time
	// last is the record as it was when it was last known and ours: record is nil whenever it is to be read again, as while a volume can't be mended.
	last   *volume.Volume
	memory map[string]volume.Steady
	// switching: the raid host is being left, so that nothing is concluded from it any more.
	switching bool
	// waiting: it is to be tended when there is a slot for it.
	waiting bool
	// interrupt ends what is done for it calmly now; nil if nothing is.
	interrupt context.CancelFunc
	// seen is the revision of the record when the volume was last tended, next and pause when it is tended again without a new reason.
	seen  uint64
	next  time.Time
	pause time.Duration
	// ready is the number of the standby that is connected.
	ready uint32
	// limits are those that whatever runs of it was last seen with; nil is not known.
	limits *volume.Limits
	// trimAt is when its file system is trimmed next; zero is not decided yet.
	trimAt time.Time
	// wholeAt is when a look began that showed all good legs connected. noticed is why the raid host is being left, until that is done.
	wholeAt time.Time
	noticed loss
	// heard is what the raid host that was left tells, where no leg is surely good.
	heard heard
	// unreachedSince is since when this machine has had no live path to the raid host; zero if it has one.
	unreachedSince time.Time
	// guest is the record of a volume that is another node's, as it was read last; nil of one that is ours.
	guest *volume.Volume
	// seenOff is the number of the assembly that all guests had left while its legs were surely good.
	seenOff uint32
	// waitsSince is since when I/O waits, to an interval of the sweeps of paths; zero if it doesn't. Whatever the reason, it isn't excused.
	waitsSince time.Time
	// cutFrom is the number of the assembly to which the path was down when paths were last looked at; 0 is none.
	cutFrom uint32

	// departing is why the raid host is being left; failovers counts how often one was, since the volume was staged or this process began.
	departing departure
	failovers int

	// idle: this machine has nothing of the volume under way that is not accounted for.
	idle bool
	// resending is since when what was under way at a former raid host may be sent again; zero while nothing is, or can't be.
	resending resending

	// wish: what it wants of this node is being done.
	wish atomic.Bool
}

// watchedNode is one SPDK node that runs a raid or a standby of ours.
type watchedNode struct {
	looking bool
	// health is by the last look that was answered, err of the last look.
	health spdk.Health
	err    error
	// downSince is since when it has not answered; zero if it does. silentSince is the same of its NVMe/TCP target.
	downSince, silentSince time.Time
	greetedAt              time.Time
	// lookedAt is when the last look began that was answered, before when the one before it did.
	lookedAt, before time.Time
}

// Watch watches and tends the volumes that are staged here until ctx ends, those first that were staged before this process began.
func (s *Server) Watch(ctx context.Context) error {
	ids, err := s.state.ids()
	if err != nil {
		return err
	}
	for _, id := range ids {
		s.watcher.add(id)
	}
	ticker := s.watcher.clock.NewTicker(timeouts.WatchInterval)
	defer ticker.Stop()
	defer s.watcher.running.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
			s.watcher.look(ctx)
		}
	}
}

func (w *watcher) add(id string) *watchedVolume {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watched[id] == nil {
		w.watched[id] = &watchedVolume{id: id, tending: make(chan struct{}, 1), memory: map[string]volume.Steady{}}
	}
	return w.watched[id]
}

func (w *watcher) remove(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.watched, id)
}

// look begins a look at every SPDK node that runs a staged volume or its standby and isn't being looked at. It waits for none: one that
// hangs delays nobody.
func (w *watcher) look(ctx context.Context) {
	w.carryOutWishes(ctx)
	nodes := w.refreshAll(ctx)
	w.reach(ctx)
	w.forgetNodes(nodes)
	w.trimNext(ctx)
	for name, runs := range nodes {
		if n, ok := w.begin(name); ok {
			w.running.Go(func() { w.lookAt(ctx, name, n, *runs) })
		}
	}
}

// forgetNodes forgets what was seen of nodes that run nothing of ours any more.
func (w *watcher) forgetNodes(nodes map[string]*onNode) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, n := range w.nodes {
		if _, runs := nodes[name]; !runs && !n.looking {
			delete(w.nodes, name)
		}
	}
}

// begin notes that a node is being looked at, unless it is already.
func (w *watcher) begin(name string) (*watchedNode, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.nodes[name]
	if n == nil {
		n = &watchedNode{}
		w.nodes[name] = n
	}
	if n.looking {
		return nil, false
	}
	n.looking = true
	return n, true
}

// all returns the volumes that are staged here.
func (w *watcher) all() []*watchedVolume {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Values(w.watched))
}

// onNode is what runs on an SPDK node of ours.
type onNode struct{ volumes, standbys []*watchedVolume }

// refreshAll reads the records that are due and returns what runs where by them.
func (w *watcher) refreshAll(ctx context.Context) map[string]*onNode {
	var mu sync.Mutex
	nodes := map[string]*onNode{}
	on := func(name string) *onNode {
		if nodes[name] == nil {
			nodes[name] = &onNode{}
		}
		return nodes[name]
	}
	var group errgroup.Group
	group.SetLimit(readers)
	for _, wv := range w.all() {
		group.Go(func() error {
			v, err := w.refresh(ctx, wv)
			if err != nil {
				klog.FromContext(ctx).V(2).Info("Record of a staged volume can't be read", "volumeID", wv.id, "err", err)
			}
			if v == nil {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			host := on(v.Assembly.RaidHost)
			host.volumes = append(host.volumes, wv)
			if v.Standby != nil {
				standby := on(v.Standby.RaidHost)
				standby.standbys = append(standby.standbys, wv)
			}
			return nil
		})
	}
	_ = group.Wait() // no function of it fails
	return nodes
}

// refresh reads a volume's record if it was not read lately; nil if the volume runs nowhere or isn't ours. A record in memory counts
// on while the store doesn't answer.
func (w *watcher) refresh(ctx context.Context, wv *watchedVolume) (*volume.Volume, error) {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	var err error
	if wv.guest != nil && w.clock.Since(wv.readAt) < recordAge {
		return nil, nil // a change that matters is a wish
	}
	if now := w.clock.Now(); wv.record == nil || now.Sub(wv.readAt) >= recordAge {
		limit := storeLimit
		if wv.record != nil {
			limit = readLimit
		}
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		var v *volume.Volume
		v, err = w.server.get(ctx, wv.id)
		switch {
		case err == nil:
			wv.record, wv.readAt = v, now
		case notFound(err):
			wv.record, err = nil, nil
		default:
			wv.readAt = now.Add(time.Second - recordAge) // again in a second
		}
	}
	if v := wv.record; v == nil || v.Owner != w.server.name || v.Assembly == nil || v.Assembly.Stopping {
		wv.record, wv.guest = nil, nil // ours soon, or no longer: read it again
		if v != nil || err == nil {
			wv.last = nil
		}
		if v != nil && v.Owner != "" && v.Owner != w.server.name {
			wv.guest = v
		}
		return nil, err
	}
	wv.guest, wv.last = nil, wv.record
	return wv.record, err
}

// lookAt looks at one SPDK node, compares its raids with the records, and has tended what needs it.
func (w *watcher) lookAt(ctx context.Context, name string, n *watchedNode, runs onNode) {
	began := w.clock.Now()
	health, err := w.ask(ctx, name)
	now := w.clock.Now()
	w.mu.Lock()
	n.err = err
	switch {
	case err == nil:
		n.health, n.downSince, n.before, n.lookedAt = health, time.Time{}, n.lookedAt, began
	case n.downSince.IsZero():
		n.downSince = now
		klog.FromContext(ctx).Info("SPDK node doesn't answer", "node", name, "err", err)
	}
	w.mu.Unlock()
	for _, wv := range runs.standbys {
		w.checkStandby(wv, name)
	}
	if len(runs.volumes) > 0 {
		w.greet(ctx, name, n, err != nil)
	}
	var wg sync.WaitGroup
	for _, wv := range runs.volumes {
		if !w.unremarkable(wv, name, n) {
			wg.Go(func() { w.consider(ctx, wv, name, n) })
		}
	}
	wg.Wait()
	w.mu.Lock()
	n.looking = false
	w.mu.Unlock()
}

// ask returns how the raids of an SPDK node are now.
func (w *watcher) ask(ctx context.Context, name string) (spdk.Health, error) {
	node, err := w.server.cluster.Node(name)
	if err != nil {
		return spdk.Health{}, err
	}
	seen := sharedOf(w, w.looks, name).Do(func() look {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookLimit)
		defer cancel()
		health, err := w.watch(node).Health(ctx)
		return look{health, err}
	})
	return seen.health, seen.err
}

// watch returns what reads the health of a node.
func (w *watcher) watch(node *converge.Node) *spdk.Watch {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watches[node.Name] == nil {
		w.watches[node.Name] = spdk.NewWatch(node.Node)
	}
	return w.watches[node.Name]
}

// sharedOf returns what is shared of a node.
func sharedOf[T any](w *watcher, all map[string]*coalesce.Call[T], name string) *coalesce.Call[T] {
	w.mu.Lock()
	defer w.mu.Unlock()
	if all[name] == nil {
		all[name] = &coalesce.Call[T]{}
	}
	return all[name]
}

// record puts what was seen of the legs on record, as far as the record still speaks of the same assembly. It says whether a replica is
// rebuilt by that.
func (w *watcher) record(ctx context.Context, wv *watchedVolume, health spdk.Health) (rebuilt bool, err error) {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	if wv.record == nil || wv.switching {
		return false, nil // given back, or its raid host left, meanwhile
	}
	number := wv.record.Assembly.Number
	ctx, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	var before *volume.Volume
	v, err := volume.Modify(ctx, w.server.store, wv.id, func(v *volume.Volume) (bool, error) {
		if v.Owner != w.server.name || v.Assembly == nil || v.Assembly.Number != number {
			return false, nil
		}
		before = v.Clone()
		changes := w.judge(wv, v, health)
		for id, state := range changes {
			klog.FromContext(ctx).Info("Replica changes its state", "volumeID", v.ID, "replica", id, "node", v.Replica(id).Node, "from", v.Replica(id).State, "to", state)
			rebuilt = rebuilt || v.Replica(id).State == volume.ReplicaRebuilding && state == volume.ReplicaInSync
			v.SetReplicaState(id, state, w.clock.Now().UTC())
		}
		return len(changes) > 0, nil
	})
	if err != nil {
		return false, fmt.Errorf("put the state of the replicas of volume %s on record: %w", wv.id, err)
	}
	wv.record, wv.readAt = v, w.clock.Now()
	w.tell(before, v)
	return rebuilt && v.Parameters.Thin, nil
}

// judge says which replicas are to change their state by what was seen of the raid host. The caller holds wv.mu.
func (w *watcher) judge(wv *watchedVolume, v *volume.Volume, health spdk.Health) map[string]volume.ReplicaState {
	legs, ok := converge.LegHealth(v, *v.Assembly, health)
	if !ok || v.Assembly.Held {
		return nil
	}
	return volume.Judge(v, legs, wv.memory, v.Parameters.Budgets.ReplicaStall, w.clock.Now())
}

// last looks at one volume after its host has let go of it: what was ejected since the look before goes on record while the raid
// still tells, and a suspect that is a connected member is given the time to settle, for without writes nothing else clears it. A
// raid host that doesn't answer is left to the controller.
func (w *watcher) last(ctx context.Context, wv *watchedVolume) error {
	ticker := w.clock.NewTicker(timeouts.WatchInterval)
	defer ticker.Stop()
	for {
		v, err := w.refresh(ctx, wv)
		if err != nil || v == nil {
			return err
		}
		if v.Assembly.Held {
			return w.hearLast(ctx, wv, v)
		}
		health, err := w.ask(ctx, v.Assembly.RaidHost)
		if errors.Is(err, spdk.ErrUnreachable) || errors.Is(err, spdk.ErrUnknownOutcome) {
			klog.FromContext(ctx).Info("Raid host doesn't answer at the end of a volume's use", "volumeID", wv.id, "node", v.Assembly.RaidHost, "err", err)
			return nil
		}
		if err == nil {
			_, err = w.record(ctx, wv, health)
		}
		if err != nil || !wv.unsettled() {
			return err
		}
		select {
		case <-ticker.C():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// unsettled says whether a suspect may soon be in-sync again or, where no replica is, one that was rebuilt.
func (wv *watchedVolume) unsettled() bool {
	wv.mu.Lock()
	defer wv.mu.Unlock()
	return wv.record != nil && volume.Unsettled(wv.record, wv.memory)
}
