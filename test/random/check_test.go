package random_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

const (
	// hopelessAfter is how long all good replicas may be out of reach before I/O may fail: less than fast_io_fail.
	hopelessAfter = time.Second
	// patience is how long I/O may wait when nothing is wrong any more.
	patience = time.Minute
	// promise is how long I/O may wait when one thing goes wrong and all was well before: a stall budget twice, as the loss of the
	// raid host may be noticed by that of its legs.
	promise = 20 * time.Second
)

// check looks at everything after a step.
func (w *world) check() {
	w.t.Helper()
	w.faults.crashed()
	w.checkHope()
	for _, v := range w.volumes {
		v.collect()
		v.learnHead()
		for _, a := range v.uses {
			a.collect()
			a.collectIO()
		}
		for _, x := range v.io() {
			v.checkWait(x)
		}
	}
	for _, s := range slices.Clone(w.snaps) {
		s.collect()
	}
	w.checkWriters()
}

// checkWait fails the run if a transfer waits for too long.
func (v *vol) checkWait(x *transfer) {
	waited := time.Since(x.begun)
	switch {
	case v.promised() && min(waited, time.Since(v.promisedAt)) > promise:
		v.w.fail("%s: %s has been waiting for %v; all was well until %v ago", v, x, waited, time.Since(v.promisedAt))
	case min(waited, v.w.faults.calmFor(), v.servedFor()) > patience && !v.broken:
		v.w.fail("%s: %s has been waiting for %v, though nothing has been wrong for %v", v, x, waited, v.w.faults.calmFor())
	}
}

func (w *world) checkHope() {
	for _, v := range w.volumes {
		v.checkHope()
		v.checkAbsence()
	}
}

// checkHope notes whether a volume that runs has a good replica in reach, and for how long it has not.
func (v *vol) checkHope() {
	record := v.w.store.peek(v.id())
	if record == nil || record.Assembly == nil || v.highest() < published {
		v.hopelessSince = time.Time{}
		return
	}
	if len(record.InState(volume.ReplicaInSync)) == 0 && v.w.faults.harmful() > 1 {
		v.excused = true // two legs that fail at once are both in doubt, though one of them has everything
	}
	switch {
	case v.w.hasHope(record):
		v.hopelessSince = time.Time{}
	case v.hopelessSince.IsZero():
		v.hopelessSince = time.Now()
	}
	if !v.broken && !v.hopelessSince.IsZero() && time.Since(v.hopelessSince) >= hopelessAfter {
		v.broken = true
		v.excused = v.excused || v.w.faults.harmful() > 1
		v.w.trace.add("%s has had no good replica in reach for %v: I/O may fail", v, time.Since(v.hopelessSince))
	}
}

// hasHope says whether a replica that is good on record and, if there is a raid, a member of it can be used by any raid host. The only one
// of a volume can be used by the raid host alone (docs/limits.md, "Two failures at once").
func (w *world) hasHope(v *volume.Volume) bool {
	members, there := w.members(v)
	for _, r := range v.InState(volume.ReplicaInSync) {
		if len(copies(v)) == 1 && w.faults.areApart(r.Node, v.Assembly.RaidHost) {
			continue
		}
		if !w.faults.harmed(r.Node) && (!there || slices.Contains(members, v.LegController(r)+"n1")) {
			return true
		}
	}
	return false
}

// members are the legs of a volume's raid that it writes to.
func (w *world) members(v *volume.Volume) (names []string, there bool) {
	raids, err := spdk.BdevRaidGetBdevs(context.Background(), inspector{w.sim(v.Assembly.RaidHost)}, spdk.BdevRaidGetBdevsParams{Category: "all"})
	if err != nil {
		return nil, false
	}
	for _, raid := range raids {
		if raid.Name != v.RaidName() || raid.State != "online" {
			continue
		}
		there = true
		for _, base := range raid.BaseBdevsList {
			if base.IsConfigured && base.Name != nil {
				names = append(names, *base.Name)
			}
		}
	}
	return names, there
}

// checkWriters fails the run if two raid hosts can both write to a replica what hosts send them: both are connected to it, and the
// targets of both are optimized.
func (w *world) checkWriters() {
	w.t.Helper()
	for _, v := range w.store.all() {
		for _, r := range v.InState(volume.ReplicaInSync, volume.ReplicaSuspect, volume.ReplicaRebuilding) {
			var writers []string
			for _, n := range w.connectedTo(v, r) {
				if w.serves(n, v) && !slices.Contains(writers, n.Name()) {
					writers = append(writers, n.Name())
				}
			}
			if len(writers) > 1 {
				w.fail("volume %s: replica %s on %s (%s) is written by the raids on %v, which both serve hosts", v.Name, r.ID, r.Node, r.State, writers)
			}
		}
	}
}

// connectedTo lists the SPDK nodes that are connected to a replica, as its own node has it.
func (w *world) connectedTo(v *volume.Volume, r volume.Replica) []*sim.Node {
	controllers, err := spdk.NVMfSubsystemGetControllers(context.Background(), inspector{w.sim(r.Node)}, spdk.NVMfSubsystemParams{NQN: v.ReplicaNQN(r)})
	if err != nil {
		return nil // no process, no export
	}
	var connected []*sim.Node
	for _, n := range w.sims {
		if slices.ContainsFunc(controllers, func(c spdk.SubsystemControllerInfo) bool { return c.HostNQN == volume.SPDKHostNQN(n.Name()) }) {
			connected = append(connected, n)
		}
	}
	return connected
}

// serves says whether a node's target of a volume is optimized.
func (w *world) serves(n *sim.Node, v *volume.Volume) bool {
	listeners, err := spdk.NVMfSubsystemGetListeners(context.Background(), inspector{n}, spdk.NVMfSubsystemParams{NQN: v.NQN()})
	if err != nil {
		return false
	}
	for _, l := range listeners {
		for _, group := range l.ANAStates {
			if group.ANAState == spdk.ANAOptimized {
				return true
			}
		}
	}
	return false
}

// checkAlike fails the run if the in-sync replicas of a volume that nobody uses differ.
func (w *world) checkAlike(v *volume.Volume) {
	w.t.Helper()
	var first []byte
	var firstID string
	for _, r := range v.InState(volume.ReplicaInSync) {
		content := make([]byte, v.SizeBytes)
		if err := w.sim(r.Node).ReadBdev(context.Background(), r.LvStore+"/"+v.LvolName(r), content, 0); err != nil {
			w.fail("volume %s: read replica %s on %s: %v", v.Name, r.ID, r.Node, err)
		}
		if first == nil {
			first, firstID = content, r.ID
			continue
		}
		if !bytes.Equal(first, content) {
			w.fail("volume %s: in-sync replicas %s and %s differ %s", v.Name, firstID, r.ID, firstDifference(first, content))
		}
	}
}

// firstDifference says where two contents of the same length differ first, and what they hold there.
func firstDifference(a, b []byte) string {
	at := 0
	for a[at] == b[at] {
		at++
	}
	at -= at % blockBytes
	return fmt.Sprintf("at byte %d: %x... and %x...", at, a[at:at+32], b[at:at+32])
}

// inventory lists every object on a node that the driver could have made, and how much of its lvstores is free.
func (w *world) inventory(n *sim.Node) []string {
	w.t.Helper()
	ctx, rpc := context.Background(), inspector{n}
	found := map[string]bool{}
	lvstores, err := spdk.BdevLvolGetLvstores(ctx, rpc)
	w.must(err)
	for _, s := range lvstores {
		found[fmt.Sprintf("lvstore %s with %d free clusters", s.Name, s.FreeClusters)] = true
	}
	bdevs, err := spdk.BdevGetBdevs(ctx, rpc, spdk.BdevGetBdevsParams{})
	w.must(err)
	for _, b := range bdevs {
		name := b.Name
		if b.DriverSpecific.Lvol != nil {
			name = fmt.Sprint(b.Aliases)
		}
		found["bdev "+name] = true
	}
	controllers, err := spdk.BdevNVMeGetControllers(ctx, rpc, spdk.BdevNVMeGetControllersParams{})
	w.must(err)
	for _, c := range controllers {
		found["controller "+c.Name] = true
	}
	subsystems, err := spdk.NVMfGetSubsystems(ctx, rpc, spdk.NVMfGetSubsystemsParams{})
	w.must(err)
	for _, s := range subsystems {
		found["subsystem "+s.NQN] = true
	}
	return slices.Sorted(maps.Keys(found))
}
