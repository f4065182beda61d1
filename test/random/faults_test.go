package random_test

import (
	"context"
	"fmt"
	"slices"
	"testing/synctest"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// fault is something that is wrong for a while.
type fault struct {
	what  string
	until time.Time
	// node is the SPDK node that it is about; "" if none is.
	node string
	// blinds: while it lasts, and shortly after, an ejection may not be on record yet. A raid host that is lost then takes the
	// knowledge of which replicas are good with it (docs/design.md, line 9), so that no second fault may come.
	blinds bool
	// service is that of the host whose node service is down.
	service *host
	// harms: no raid host that a host can use reaches the replicas on the node.
	harms bool
	// hides: no host reaches a raid on the node.
	hides bool
	// apart: the nodes don't reach each other.
	apart      [2]string
	begin, end func()
}

// faults are those of the present.
type faults struct {
	w      *world
	active []*fault
	// calmSince is since when none has been active.
	calmSince time.Time
	// quietUntil is when the next may come.
	quietUntil time.Time
	// badDisks are the nodes whose disks have failed writes. An lvol that is deleted meanwhile is gone as far as SPDK tells, and
	// there again when the process is started again: the blob could not be taken off the disk.
	badDisks map[string]bool
}

// settling is how long after a fault that blinds the next may come: two looks of the watch, and what one may take.
const settling = 5 * time.Second

func (fs *faults) init(w *world) {
	fs.w, fs.calmSince, fs.badDisks = w, time.Now(), map[string]bool{}
}

// faultDurations are drawn from.
var faultDurations = []time.Duration{300 * time.Millisecond, 2 * time.Second, 5 * time.Second, 12 * time.Second, 40 * time.Second, 100 * time.Second}

// inject has a fault begin, if one may now.
func (fs *faults) inject() {
	w, rng := fs.w, fs.w.rng
	if len(fs.active) >= 2 || fs.blind() || time.Now().Before(fs.quietUntil) {
		return
	}
	f := fs.any(w.victim())
	if slices.ContainsFunc(fs.active, func(o *fault) bool {
		return o.node == f.node || o.service != nil && o.service == f.service || fs.blinds(f)
	}) {
		return
	}
	f.until = time.Now().Add(faultDurations[rng.IntN(len(faultDurations))])
	for _, n := range w.sims {
		n.ClearRPCFaults() // one that kills would be a further fault
	}
	w.trace.add("FAULT: %s, for %v", f.what, time.Until(f.until))
	w.makePromises()
	fs.active = append(fs.active, f)
	f.begin()
	synctest.Wait()
	if rng.IntN(2) == 0 {
		w.seePromisesKept()
	}
}

// victim draws a node, half of the time one that runs a volume in use.
func (w *world) victim() *sim.Node {
	n, v := w.sims[w.rng.IntN(len(w.sims))], w.volumes[w.rng.IntN(len(w.volumes))]
	if record := w.store.peek(v.id()); len(v.users()) > 0 && record.Assembly != nil && w.rng.IntN(2) == 0 {
		return w.sim(record.Assembly.RaidHost)
	}
	return n
}

// blinds says whether the fault, while it lasts, may keep an ejection off the record. A node service that looks after no volume puts none there.
func (fs *faults) blinds(f *fault) bool {
	owns := func(v *volume.Volume) bool { return f.service != nil && v.Owner == f.service.name }
	return f.blinds || slices.ContainsFunc(fs.w.store.all(), owns)
}

// blind says whether no further fault may come.
func (fs *faults) blind() bool {
	return slices.ContainsFunc(fs.active, fs.blinds) ||
		slices.ContainsFunc(fs.w.volumes, func(v *vol) bool { return time.Since(v.unwatchedAt) < settling })
}

// expire ends the faults whose time has come, or all.
func (fs *faults) expire(all bool) {
	now := time.Now()
	for _, f := range slices.Clone(fs.active) {
		if !all && now.Before(f.until) {
			continue
		}
		fs.w.trace.add("END of: %s", f.what)
		f.end()
		fs.active = slices.DeleteFunc(fs.active, func(o *fault) bool { return o == f })
		if fs.blinds(f) {
			fs.quietUntil = now.Add(settling)
		}
		fs.calmSince = now
	}
}

// calmFor is how long nothing has been wrong.
func (fs *faults) calmFor() time.Duration {
	if len(fs.active) > 0 {
		return 0
	}
	return time.Since(fs.calmSince)
}

// crashed makes a fault of a process that ended by itself: SPDK dies of some errors, and of calls that it was told to die of.
func (fs *faults) crashed() {
	for _, n := range fs.w.sims {
		if n.Running() || slices.ContainsFunc(fs.active, func(f *fault) bool { return f.node == n.Name() }) {
			continue
		}
		f := fs.killed(n)
		f.what, f.until = n.Name()+" has crashed", time.Now().Add(faultDurations[fs.w.rng.IntN(3)])
		fs.w.trace.add("FAULT: %s, for %v", f.what, time.Until(f.until))
		fs.w.breakPromises()
		fs.active = append(fs.active, f)
	}
}

// harmed says whether the replicas on a node are out of reach.
func (fs *faults) harmed(node string) bool {
	return slices.ContainsFunc(fs.active, func(f *fault) bool { return f.harms && f.node == node })
}

// hidden says whether a raid on a node is out of all hosts' reach.
func (fs *faults) hidden(node string) bool {
	return slices.ContainsFunc(fs.active, func(f *fault) bool { return f.hides && f.node == node })
}

// areApart says whether two nodes don't reach each other, although others reach both.
func (fs *faults) areApart(a, b string) bool {
	return slices.ContainsFunc(fs.active, func(f *fault) bool { return f.apart == [2]string{a, b} || f.apart == [2]string{b, a} })
}

// harmful is how many faults keep replicas out of reach.
func (fs *faults) harmful() int {
	n := 0
	for _, f := range fs.active {
		if f.harms {
			n++
		}
	}
	return n
}

// any returns one of the faults that there are.
func (fs *faults) any(n *sim.Node) *fault {
	switch fs.w.rng.IntN(14) {
	case 0, 1:
		return fs.killed(n)
	case 2, 3:
		return fs.hung(n)
	case 4, 5:
		return fs.isolated(n)
	case 6:
		return fs.apart(n)
	case 7, 8:
		return fs.disk(n)
	case 9:
		return fs.cutOff(n)
	case 10:
		return fs.storeAway()
	case 11, 12:
		return fs.machineLost(n)
	default:
		return fs.serviceDown()
	}
}

func (fs *faults) killed(n *sim.Node) *fault {
	return &fault{what: n.Name() + " is killed", node: n.Name(), harms: true, hides: true, begin: n.Kill, end: func() {
		if !n.Running() {
			fs.w.must(n.Start())
		}
	}}
}

func (fs *faults) hung(n *sim.Node) *fault {
	return &fault{
		what: n.Name() + " hangs", node: n.Name(), harms: true, hides: true,
		begin: func() { n.Hang(true) }, end: func() { n.Hang(false) },
	}
}

// isolated drops all packets between a node and everybody else.
func (fs *faults) isolated(n *sim.Node) *fault {
	cut := func(cut bool) {
		for _, other := range fs.w.sims {
			if other != n {
				fs.w.links.Cut(n.Name(), other.Name(), cut)
			}
		}
		for _, h := range hostNames {
			fs.w.links.Cut(n.Name(), h, cut)
		}
	}
	return &fault{
		what: n.Name() + " is isolated", node: n.Name(), harms: true, hides: true,
		begin: func() { cut(true) }, end: func() { cut(false) },
	}
}

// apart drops all packets between two nodes.
func (fs *faults) apart(n *sim.Node) *fault {
	other := fs.w.sims[fs.w.rng.IntN(len(fs.w.sims))]
	if other == n {
		return fs.isolated(n)
	}
	a, b := n.Name(), other.Name()
	return &fault{
		what: a + " and " + b + " are apart", node: a, apart: [2]string{a, b},
		begin: func() { fs.w.links.Cut(a, b, true) }, end: func() { fs.w.links.Cut(a, b, false) },
	}
}

// disk has a node's disk fail I/O, answer none, or have no room left.
func (fs *faults) disk(n *sim.Node) *fault {
	f := &fault{node: n.Name(), blinds: true, harms: true}
	fs.badDisks[n.Name()] = true
	set := func(d sim.DiskFault) func() { return func() { fs.w.must(n.SetDiskFault(pool, d)) } }
	f.end = set(sim.DiskFault{})
	switch fs.w.rng.IntN(4) {
	case 0:
		f.what, f.begin = "writes fail on the disk of "+n.Name(), set(sim.DiskFault{WriteError: true})
	case 1:
		f.what, f.begin = "reads and writes fail on the disk of "+n.Name(), set(sim.DiskFault{WriteError: true, ReadError: true})
	case 2:
		f.what = "the pool of " + n.Name() + " is full"
		f.begin, f.end = func() { fs.w.must(n.LimitPool(pool, 0)) }, func() { fs.w.must(n.LimitPool(pool, -1)) }
	default:
		f.what, f.begin = "the disk of "+n.Name()+" hangs", set(sim.DiskFault{Hang: true})
	}
	return f
}

// cutOff keeps the driver from a node's RPC.
func (fs *faults) cutOff(n *sim.Node) *fault {
	g := []gateway{gatewayRefuses, gatewaySilent}[fs.w.rng.IntN(2)]
	return &fault{
		what: fmt.Sprintf("the gateway of %s %s", n.Name(), g), node: n.Name(), blinds: true,
		begin: func() { fs.w.setGateway(n.Name(), g) }, end: func() { fs.w.setGateway(n.Name(), gatewayOpen) },
	}
}

func (fs *faults) storeAway() *fault {
	return &fault{
		what: "the store is away", blinds: true,
		begin: func() { fs.w.store.setAway(true) }, end: func() { fs.w.store.setAway(false) },
	}
}

func (fs *faults) serviceDown() *fault {
	h := fs.w.hosts[fs.w.rng.IntN(len(fs.w.hosts))]
	return &fault{what: "the node service of " + h.name + " is down", node: h.name, service: h, begin: h.stop, end: h.start}
}

// hiccup makes one thing fail once, now or soon, or starts a process of the driver again.
func (w *world) hiccup() {
	n, h := w.sims[w.rng.IntN(len(w.sims))], w.hosts[w.rng.IntN(len(w.hosts))]
	soon := 1 + w.rng.IntN(12)
	w.breakPromises()
	switch w.rng.IntN(8) {
	case 0:
		if w.store.isAway() {
			return // it would not come up
		}
		w.trace.add("the controller is started again")
		w.controller.end()
		w.startController()
	case 1:
		if slices.ContainsFunc(w.faults.active, func(f *fault) bool { return f.service == h }) {
			return
		}
		if w.rng.IntN(3) == 0 {
			h.losePower()
			h.boot()
			return
		}
		w.trace.add("the node service of %s is started again", h.name)
		h.stop()
		h.start()
	case 2:
		w.move(w.volumes[w.rng.IntN(len(w.volumes))], n.Name())
	case 3:
		w.trace.add("%s: operation %d from now fails", h.name, soon)
		h.armFault(soon)
	case 4:
		w.trace.add("the store fails after write %d from now", soon)
		w.store.armFailure(soon)
	default:
		kinds := []sim.RPCFaultKind{sim.FailBefore, sim.FailAfter, sim.HangupBefore, sim.HangupAfter, sim.Delayed}
		f := sim.RPCFault{Kind: kinds[w.rng.IntN(len(kinds))], Call: soon, Delay: 300 * time.Millisecond}
		w.trace.add("%s: call %d from now: %s", n.Name(), soon, f.Kind)
		n.AddRPCFault(f)
	}
}

// move puts an operator's wish on record: that a volume run on that node.
func (w *world) move(v *vol, to string) {
	_, err := volume.Modify(context.Background(), w.store, v.id(), func(r *volume.Volume) (bool, error) {
		wish := r.Assembly != nil && !r.Assembly.Stopping && r.Owner != ""
		if wish {
			w.trace.add("%s is to move to %s", v, to)
			r.MoveTo = to
		}
		return wish, nil
	})
	if err != nil {
		w.trace.add("%s can't be moved: %v", v, err)
	}
}
