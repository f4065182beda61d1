package contract

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/holdfast-csi/holdfast/spdk"
)

// takeSnapshot takes a snapshot that is deleted at the end.
func takeSnapshot(t *testing.T, tg *target, l spdk.Lvol) string {
	t.Helper()
	name := unique()
	atEnd(t, "delete snapshot", func(ctx context.Context) error { return tg.DeleteSnapshot(ctx, l.LvStore, name) })
	ok(t, tg.TakeSnapshot(t.Context(), l.LvStore, l.Name, name))
	return name
}

// clone makes an lvol of a snapshot.
func clone(t *testing.T, tg *target, snapshot string, size int64) spdk.Lvol {
	t.Helper()
	spec := spdk.CloneSpec{LvStore: tg.lvs.Name, Snapshot: snapshot, Name: unique(), SizeBytes: size, ClearMethod: spdk.ClearWriteZeroes}
	atEnd(t, "delete clone", func(ctx context.Context) error { return tg.DeleteClone(ctx, spec.LvStore, spec.Name) })
	l, err := tg.CloneLvol(t.Context(), spec)
	ok(t, err)
	return l
}

// use connects a host to an lvol.
func use(t *testing.T, tg *target, l spdk.Lvol) *host {
	t.Helper()
	e := exportLvol(t, l, userNQN)
	export(t, tg, e)
	return mustConnect(t, e, userNQN)
}

func readLvol(t *testing.T, tg *target, name string) spdk.Lvol {
	t.Helper()
	l, err := tg.Lvol(t.Context(), tg.lvs.Name, name)
	ok(t, err)
	return l
}

func TestSnapshotKeepsWhatTheLvolHeldAndTheLvolGoesOn(t *testing.T) {
	tg := targets(t, 1)[0]
	l := newLvol(t, tg, volumeSize)
	h := use(t, tg, l)
	h.write(1)
	name := takeSnapshot(t, tg, l)
	h.write(1 + 16) // the same place
	s := readLvol(t, tg, name)
	if !s.Snapshot || s.Clones != 1 || s.SizeBytes != l.SizeBytes || s.AllocatedBytes != tg.lvs.ClusterBytes || s.Base != "" {
		t.Errorf("the snapshot is %+v", s)
	}
	if now := readLvol(t, tg, l.Name); now.Base != name || !now.Thin || now.AllocatedBytes != tg.lvs.ClusterBytes {
		t.Errorf("the lvol is %+v", now)
	}
	use(t, tg, clone(t, tg, name, l.SizeBytes)).check(1)
	h.check(1 + 16)
}

func TestSnapshotOfAThickLvolMakesItThin(t *testing.T) {
	tg := targets(t, 1)[0]
	spec := spdk.LvolSpec{LvStore: tg.lvs.Name, Name: unique(), SizeBytes: 4 * tg.lvs.ClusterBytes}
	atEnd(t, "delete lvol", func(ctx context.Context) error { return tg.DeleteLvol(ctx, spec.LvStore, spec.Name) })
	l, err := tg.CreateLvol(t.Context(), spec)
	ok(t, err)
	name := takeSnapshot(t, tg, l)
	if s := readLvol(t, tg, name); s.AllocatedBytes != spec.SizeBytes {
		t.Errorf("the snapshot holds %d bytes", s.AllocatedBytes)
	}
	if now := readLvol(t, tg, l.Name); !now.Thin || now.AllocatedBytes != 0 {
		t.Errorf("the lvol is %+v", now)
	}
}

func TestSnapshotNameThatExistsAndLvolThatDoesNotAreRefused(t *testing.T) {
	tg := targets(t, 1)[0]
	l := newLvol(t, tg, volumeSize)
	name := takeSnapshot(t, tg, l)
	if err := tg.TakeSnapshot(t.Context(), l.LvStore, l.Name, name); err == nil {
		t.Error("a second snapshot of the same name was taken")
	}
	if err := tg.TakeSnapshot(t.Context(), l.LvStore, unique(), unique()); err == nil {
		t.Error("a snapshot of nothing was taken")
	}
	if err := tg.TakeSnapshot(t.Context(), l.LvStore, name, unique()); err == nil {
		t.Error("a snapshot of a snapshot was taken")
	}
}

func TestSnapshotOutlivesItsLvol(t *testing.T) {
	tg := targets(t, 1)[0]
	l := newLvol(t, tg, volumeSize)
	e := exportLvol(t, l, userNQN)
	export(t, tg, e)
	h := mustConnect(t, e, userNQN)
	h.write(1)
	name := takeSnapshot(t, tg, l)
	ok(t, h.Close())
	ok(t, tg.Unexport(t.Context(), e.NQN))
	ok(t, tg.DeleteLvol(t.Context(), l.LvStore, l.Name))
	if s := readLvol(t, tg, name); s.Clones != 0 {
		t.Errorf("the snapshot is %+v", s)
	}
	use(t, tg, clone(t, tg, name, l.SizeBytes)).check(1)
}

// With one lvol on it a snapshot's clusters go to that; with two it is refused and stays what it is.
func TestSnapshotIsDeletedIntoItsOneCloneAndRefusedWithTwo(t *testing.T) {
	tg := targets(t, 1)[0]
	l := newLvol(t, tg, volumeSize)
	h := use(t, tg, l)
	h.write(1)
	name := takeSnapshot(t, tg, l)
	h.write(2)
	c := clone(t, tg, name, l.SizeBytes)
	e := exportLvol(t, c, userNQN)
	export(t, tg, e)
	user := mustConnect(t, e, userNQN)
	user.write(3)
	if s := readLvol(t, tg, name); s.Clones != 2 {
		t.Errorf("the snapshot is %+v", s)
	}
	if err := tg.DeleteSnapshot(t.Context(), l.LvStore, name); !errors.Is(err, spdk.ErrBusy) {
		t.Fatalf("delete with two clones: %v, want busy", err)
	}
	if err := spdk.BdevLvolDelete(t.Context(), tg.rpc, spdk.BdevLvolDeleteParams{Name: l.LvStore + "/" + name}); err == nil {
		t.Fatal("SPDK deletes a snapshot with two clones")
	}
	user.check(1)
	user.check(3)
	h.check(2)
	ok(t, user.Close())
	ok(t, tg.Unexport(t.Context(), e.NQN))
	ok(t, tg.DeleteLvol(t.Context(), c.LvStore, c.Name))
	ok(t, tg.DeleteSnapshot(t.Context(), l.LvStore, name))
	if now := readLvol(t, tg, l.Name); now.Base != "" || now.AllocatedBytes != min(2, volumeSize/tg.lvs.ClusterBytes)*tg.lvs.ClusterBytes && now.AllocatedBytes != tg.lvs.ClusterBytes {
		t.Errorf("the lvol is %+v", now)
	}
	h.check(1)
	h.check(2)
}

// A chain of snapshots: the one in the middle gives its clusters to the next.
func TestSnapshotInTheMiddleOfAChainIsDeleted(t *testing.T) {
	tg := targets(t, 1)[0]
	l := newLvol(t, tg, volumeSize)
	h := use(t, tg, l)
	var names []string
	for seed := range uint64(3) {
		h.write(4 * seed)
		names = append(names, takeSnapshot(t, tg, l))
	}
	if s := readLvol(t, tg, names[1]); s.Base != names[0] || s.Clones != 1 {
		t.Errorf("the snapshot in the middle is %+v", s)
	}
	ok(t, tg.DeleteSnapshot(t.Context(), l.LvStore, names[1]))
	if s := readLvol(t, tg, names[2]); s.Base != names[0] {
		t.Errorf("the last snapshot is %+v", s)
	}
	user := use(t, tg, clone(t, tg, names[2], l.SizeBytes))
	for seed := range uint64(3) {
		user.check(4 * seed)
		h.check(4 * seed)
	}
}

func TestCloneIsMadeOnceAndGrows(t *testing.T) {
	tg := targets(t, 1)[0]
	l := newLvol(t, tg, volumeSize)
	use(t, tg, l).write(1)
	name := takeSnapshot(t, tg, l)
	c := clone(t, tg, name, 2*volumeSize)
	if c.SizeBytes != 2*volumeSize || c.Base != name || c.AllocatedBytes != 0 || !c.Thin {
		t.Errorf("the clone is %+v", c)
	}
	spec := spdk.CloneSpec{LvStore: c.LvStore, Snapshot: name, Name: c.Name, SizeBytes: c.SizeBytes}
	if again, err := tg.CloneLvol(t.Context(), spec); err != nil || again != c {
		t.Errorf("again: %+v, %v", again, err)
	}
	smaller, other, absent := spec, spec, spec
	smaller.SizeBytes = volumeSize
	other.Snapshot = l.Name
	absent.Snapshot, absent.Name = unique(), unique()
	for want, spec := range map[error][]spdk.CloneSpec{spdk.ErrConflict: {smaller, other}, spdk.ErrNotFound: {absent}} {
		for _, s := range spec {
			if _, err := tg.CloneLvol(t.Context(), s); !errors.Is(err, want) {
				t.Errorf("%+v: %v, want %v", s, err, want)
			}
		}
	}
	h := use(t, tg, c)
	h.check(1)
	h.write(2)
	wrong := spdk.CloneSpec{LvStore: l.LvStore, Snapshot: l.Name, Name: unique(), SizeBytes: volumeSize}
	if _, err := tg.CloneLvol(t.Context(), wrong); err == nil {
		t.Error("an lvol that is no snapshot was cloned")
	}
	ok(t, tg.DeleteClone(t.Context(), wrong.LvStore, wrong.Name))
}

func TestCloneOperationsSurviveAFaultInEveryCall(t *testing.T) {
	tg, ctx := targets(t, 1)[0], t.Context()
	l := newLvol(t, tg, volumeSize)
	name := takeSnapshot(t, tg, l)
	spec := spdk.CloneSpec{LvStore: l.LvStore, Snapshot: name, Name: unique(), SizeBytes: 2 * volumeSize}
	atEnd(t, "delete clone", func(ctx context.Context) error { return tg.DeleteLvol(ctx, spec.LvStore, spec.Name) })
	bothWays(t, tg,
		func(n *spdk.Node) error { _, err := n.CloneLvol(ctx, spec); return err },
		func(n *spdk.Node) error { return n.DeleteClone(ctx, spec.LvStore, spec.Name) },
		func() {
			t.Helper()
			if c, err := tg.Lvol(ctx, spec.LvStore, spec.Name); err != nil || c.SizeBytes != spec.SizeBytes || c.Base != name {
				t.Errorf("%+v, %v", c, err)
			}
		},
		func() {
			t.Helper()
			if s := readLvol(t, tg, name); s.Clones != 1 {
				t.Errorf("the snapshot is %+v", s)
			}
		})
	t.Run("of a snapshot that nothing lies on", func(t *testing.T) {
		ok(t, tg.DeleteLvol(ctx, l.LvStore, l.Name))
		everyFault(t, tg,
			func(n *spdk.Node) error { _, err := n.CloneLvol(ctx, spec); return err },
			func() {
				t.Helper()
				if c, err := tg.Lvol(ctx, spec.LvStore, spec.Name); err != nil || c.SizeBytes != spec.SizeBytes || c.Base != name {
					t.Errorf("%+v, %v", c, err)
				}
			},
			func(n *spdk.Node) error { return n.DeleteClone(ctx, spec.LvStore, spec.Name) })
	})
	l = newLvol(t, tg, volumeSize)
	name = takeSnapshot(t, tg, l)
	everyFault(t, tg,
		func(n *spdk.Node) error { return n.DeleteSnapshot(ctx, l.LvStore, name) },
		func() {
			t.Helper()
			if _, err := tg.Lvol(ctx, l.LvStore, name); !errors.Is(err, spdk.ErrNotFound) {
				t.Errorf("still there: %v", err)
			}
		},
		func(n *spdk.Node) error { return n.TakeSnapshot(ctx, l.LvStore, l.Name, name) })
}

// errorBdev makes a bdev on which commands can be made to hang.
func errorBdev(t *testing.T, tg *target) string {
	t.Helper()
	base := unique()
	call := func(ctx context.Context, method string, params map[string]any) error {
		return tg.rpc.Call(ctx, method, params, nil)
	}
	ok(t, call(t.Context(), "bdev_malloc_create", map[string]any{"name": base, "num_blocks": 2048, "block_size": 4096}))
	atEnd(t, "delete malloc bdev", func(ctx context.Context) error { return call(ctx, "bdev_malloc_delete", map[string]any{"name": base}) })
	ok(t, call(t.Context(), "bdev_error_create", map[string]any{"base_name": base}))
	atEnd(t, "delete error bdev", func(ctx context.Context) error {
		return call(ctx, "bdev_error_delete", map[string]any{"name": "EE_" + base})
	})
	return "EE_" + base
}

// Setting the ANA state doesn't wait for a command that executes; setting the namespace's ANA group, to what it is, does.
func TestDrainWaitsForCommandsThatExecute(t *testing.T) {
	tg := targets(t, 1)[0]
	bdev := errorBdev(t, tg)
	e := spdk.Export{
		NQN: uniqueNQN(), Serial: "HFCT", Model: "contract", Bdev: bdev, NSUUID: uuid.New(), Listen: freeAddress(t),
		Hosts: []string{userNQN}, ANAReporting: true, ANAState: spdk.ANAOptimized,
	}
	export(t, tg, e)
	h := mustConnect(t, e, userNQN)
	ok(t, tg.rpc.Call(t.Context(), "bdev_error_inject_error", map[string]any{"name": bdev, "io_type": "write", "error_type": "pending", "num": 1}, nil))
	p, err := tg.PreparePause(t.Context(), e.NQN, e.Listen)
	ok(t, err)
	wrote := make(chan error, 1)
	go func() { wrote <- h.tryWrite(t.Context(), 1) }()
	<-time.After(chance) // to reach the device
	ok(t, p.Begin(t.Context()))
	drained := make(chan error, 1)
	go func() { drained <- p.Drain(t.Context()) }()
	select {
	case err := <-wrote:
		t.Fatalf("the write ended: %v", err)
	case err := <-drained:
		t.Fatalf("the drain did not wait: %v", err)
	case <-time.After(chance):
	}
	ok(t, tg.rpc.Call(t.Context(), "bdev_error_resume_pending", map[string]any{"name": bdev}, nil))
	ok(t, <-drained)
	ok(t, <-wrote)
	if err := h.tryWrite(t.Context(), 2); !isPathError(err) {
		t.Errorf("a write after the drain ended with %v, want a path error", err)
	}
	for _, want := range []bool{true, false} {
		if held, err := p.End(t.Context()); err != nil || held != want {
			t.Errorf("the pause ends: held until then: %t, want %t; %v", held, want, err)
		}
	}
	h.write(2)
	if got, err := tg.Exported(t.Context(), e.NQN); err != nil || got.Bdev != bdev || !got.ANAReporting {
		t.Errorf("after the drain it is %+v, %v", got, err)
	}
}

// chance is what a test gives to something that must not happen.
const chance = 300 * time.Millisecond

// Each clone and snapshot is cleared like the lvol that it goes back to.
func TestDeletedSnapshotsAndClonesLeaveNothingForTheNext(t *testing.T) {
	tg := targets(t, 1)[0]
	if tg.lvs.ClusterBytes < 4*mib {
		t.Skipf("clusters of %d bytes hold one place each", tg.lvs.ClusterBytes)
	}
	const places = 4
	l := newLvol(t, tg, tg.lvs.ClusterBytes)
	e := exportLvol(t, l, userNQN)
	export(t, tg, e)
	h := mustConnect(t, e, userNQN)
	h.write(0)
	name := takeSnapshot(t, tg, l)
	h.write(1)
	c := clone(t, tg, name, l.SizeBytes)
	ce := exportLvol(t, c, userNQN)
	export(t, tg, ce)
	user := mustConnect(t, ce, userNQN)
	user.write(2)
	ok(t, h.Close())
	ok(t, user.Close())
	for _, export := range []spdk.Export{e, ce} {
		ok(t, tg.Unexport(t.Context(), export.NQN))
	}
	for _, lvol := range []string{l.Name, c.Name} {
		ok(t, tg.DeleteLvol(t.Context(), l.LvStore, lvol))
	}
	ok(t, tg.DeleteSnapshot(t.Context(), l.LvStore, name))
	for range 3 { // as many clusters as were used
		next := use(t, tg, newLvol(t, tg, tg.lvs.ClusterBytes))
		next.write(places - 1)
		p := make([]byte, (places-1)*mib)
		ok(t, next.Read(t.Context(), 1, p[:mib], 0))
		ok(t, next.Read(t.Context(), 1, p[mib:2*mib], mib))
		ok(t, next.Read(t.Context(), 1, p[2*mib:], 2*mib))
		if !slices.Equal(p, make([]byte, len(p))) {
			t.Error("a new lvol reads what another one held")
		}
	}
}

// So are the clusters that a snapshot has alone, because the lvol that lies on it was written to, and that stays.
func TestClustersThatOnlyADeletedSnapshotHeldAreCleared(t *testing.T) {
	tg := targets(t, 1)[0]
	if tg.lvs.ClusterBytes < 4*mib {
		t.Skipf("clusters of %d bytes hold one place each", tg.lvs.ClusterBytes)
	}
	l := newLvol(t, tg, tg.lvs.ClusterBytes)
	h := use(t, tg, l)
	h.write(0)
	name := takeSnapshot(t, tg, l)
	h.write(0)
	ok(t, tg.DeleteSnapshot(t.Context(), l.LvStore, name))
	for range 2 { // as many clusters as were used
		next := use(t, tg, newLvol(t, tg, tg.lvs.ClusterBytes))
		next.write(3) // at another place in the cluster
		p := make([]byte, mib)
		ok(t, next.Read(t.Context(), 1, p, 0))
		if !slices.Equal(p, make([]byte, mib)) {
			t.Error("a new lvol reads what a snapshot held that is deleted")
		}
	}
}

// lvolOnErrorBdev makes a thick lvol on a disk on which commands can be made to hang.
func lvolOnErrorBdev(t *testing.T, tg *target) (bdev string, l spdk.Lvol) {
	t.Helper()
	bdev = errorBdev(t, tg)
	store := unique()
	ok(t, tg.rpc.Call(t.Context(), "bdev_lvol_create_lvstore", map[string]any{"bdev_name": bdev, "lvs_name": store, "cluster_sz": mib}, nil))
	atEnd(t, "delete lvstore", func(ctx context.Context) error {
		return tg.rpc.Call(ctx, "bdev_lvol_delete_lvstore", map[string]any{"lvs_name": store}, nil)
	})
	l, err := tg.CreateLvol(t.Context(), spdk.LvolSpec{LvStore: store, Name: unique(), SizeBytes: 2 * mib})
	ok(t, err)
	return bdev, l
}

// hang makes the next command of a kind hang, and resume lets it go on.
func (tg *target) hang(t *testing.T, bdev, kind string) (resume func()) {
	t.Helper()
	ok(t, tg.rpc.Call(t.Context(), "bdev_error_inject_error", map[string]any{"name": bdev, "io_type": kind, "error_type": "pending", "num": 1}, nil))
	return func() {
		t.Helper()
		ok(t, tg.rpc.Call(t.Context(), "bdev_error_resume_pending", map[string]any{"name": bdev}, nil))
	}
}

// The name of a snapshot that is being taken is not free; that of one that was not, or is gone, is.
func TestSnapshotThatIsBeingTakenIsNotWithdrawn(t *testing.T) {
	tg, ctx := targets(t, 1)[0], t.Context()
	bdev, l := lvolOnErrorBdev(t, tg)
	name := unique()
	ok(t, tg.WithdrawSnapshot(ctx, l.LvStore, name))
	resume := tg.hang(t, bdev, "all")
	taken := make(chan error, 1)
	go func() { taken <- tg.TakeSnapshot(ctx, l.LvStore, l.Name, name) }()
	<-time.After(chance) // to begin
	if err := tg.WithdrawSnapshot(ctx, l.LvStore, name); !errors.Is(err, spdk.ErrBusy) {
		t.Errorf("while it is being taken: %v, want busy", err)
	}
	resume()
	ok(t, <-taken)
	ok(t, tg.WithdrawSnapshot(ctx, l.LvStore, name))
	if _, err := tg.Lvol(ctx, l.LvStore, name); !errors.Is(err, spdk.ErrNotFound) {
		t.Errorf("still there: %v", err)
	}
}

// Only who drains before knows that nothing lands in a snapshot after it was taken.
func TestSnapshotDoesNotWaitForAWriteThatExecutes(t *testing.T) {
	tg, ctx := targets(t, 1)[0], t.Context()
	bdev, l := lvolOnErrorBdev(t, tg)
	e := exportLvol(t, l, userNQN)
	export(t, tg, e)
	h := mustConnect(t, e, userNQN)
	resume := tg.hang(t, bdev, "write")
	wrote := make(chan error, 1)
	go func() { wrote <- h.tryWrite(ctx, 1) }()
	<-time.After(chance) // to reach the device
	name := unique()
	ok(t, tg.TakeSnapshot(ctx, l.LvStore, l.Name, name))
	select {
	case err := <-wrote:
		t.Errorf("the write has ended: %v", err)
	default:
	}
	resume()
	ok(t, <-wrote)
	ok(t, h.Close())
	ok(t, tg.Unexport(ctx, e.NQN))
	ok(t, tg.DeleteLvol(ctx, l.LvStore, l.Name))
	ok(t, tg.DeleteSnapshot(ctx, l.LvStore, name))
}
