package random_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// snapshotCount is how many snapshots there may be at a time.
const snapshotCount = 3

// snap is what the CO knows of a snapshot. Each has a name of its own.
type snap struct {
	client
	of *vol
	// window is when it was taken, image what it holds then.
	window *window
	image  *model
	block  bool
	secret string // of what it is taken of
	// ready: it is taken. deleting: DeleteSnapshot was called.
	ready, deleting bool
	sizeBytes       int64
	// latest is the last write of those that it has, missing the first to be acknowledged of those that it lacks.
	latest, missing *transfer
	// with is the other snapshot of a group, lead that which makes the calls for both; group is this one's ID then.
	with, lead *snap
	group      string
}

func (s *snap) id() string {
	if s.group != "" {
		return s.group
	}
	return volume.SnapshotIDFor(s.name)
}

// liveSnapshots takes a snapshot one call further on its way with the CO, or begins one.
func (w *world) liveSnapshots() {
	n := w.rng.IntN(snapshotCount)
	if n >= len(w.snaps) {
		v := w.volumes[w.rng.IntN(len(w.volumes))]
		if v.done >= created && !v.deleting {
			s := w.newSnap(v)
			w.snaps = append(w.snaps, s)
			s.drawOther()
			s.advance(false)
		}
		return
	}
	s := w.snaps[n]
	s.advance(s.ready && w.rng.IntN(3) == 0 || !s.ready && w.rng.IntN(12) == 0)
}

func (w *world) newSnap(v *vol) *snap {
	w.snapsMade++
	return &snap{client: client{w: w, name: fmt.Sprintf("s%d", w.snapsMade)}, of: v, window: v.look(), block: v.block, secret: v.secret}
}

// advance begins the call that takes the snapshot, or the one that deletes it.
func (s *snap) advance(remove bool) {
	switch {
	case s.lead != nil:
		s.lead.advance(remove)
	case s.call != nil:
	case s.deleting || !s.sourceIsThere() || remove && !s.needed():
		s.deleting = true
		if s.with != nil {
			s.with.deleting = true
		}
		s.begin("delete snapshot", s.w.controller.process, s.remove, func(err error) {
			if err == nil {
				s.w.snaps = slices.DeleteFunc(s.w.snaps, func(o *snap) bool { return o == s || o.lead == s })
			}
		})
	case !s.ready:
		s.of.unpromise()
		what := "snapshot of " + s.of.name
		if s.with != nil {
			s.with.of.unpromise()
			what = "group " + what + " and " + s.with.of.name
		}
		s.begin(what, s.w.controller.process, s.create, s.taken)
	}
}

// sourceIsThere says whether there still is what the snapshot is to be taken of, or it is taken.
func (s *snap) sourceIsThere() bool {
	return s.ready || s.window.incarnation == s.of.incarnation && s.of.done >= created && !s.of.deleting && !s.of.stranded() && (s.with == nil || s.with.sourceIsThere())
}

// needed says whether a volume is being made of it: a CO keeps it until then.
func (s *snap) needed() bool {
	return s.with != nil && s.with.needed() || slices.ContainsFunc(s.w.volumes, func(v *vol) bool { return v.from == s && v.done == absent && v.reach == created })
}

func (s *snap) create(ctx context.Context) error {
	if s.with != nil {
		return s.createGroup(ctx)
	}
	resp, err := s.w.controller.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: s.name, SourceVolumeId: s.of.id()})
	if err == nil {
		s.sizeBytes = resp.GetSnapshot().GetSizeBytes()
	}
	return err
}

func (s *snap) remove(ctx context.Context) error {
	if s.with != nil {
		return s.removeGroup(ctx)
	}
	_, err := s.w.controller.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: s.id()})
	return err
}

// taken holds what was taken against the model.
func (s *snap) taken(err error) {
	if err != nil {
		return
	}
	s.ready = true
	s.image = s.window.close()
	s.check()
	if s.with != nil {
		s.with.taken(nil)
		s.w.snaps = append(s.w.snaps, s.with)
		s.checkOrder()
	}
}

// check fails the run if an lvol of the snapshot holds what the volume never held at one moment, or lvols differ.
func (s *snap) check() {
	w := s.w
	w.t.Helper()
	if s.deleting {
		return
	}
	record, err := w.store.taken.GetSnapshot(context.Background(), s.id())
	w.must(err)
	if record.Phase != volume.SnapshotReady || record.CapacityBytes() != s.sizeBytes {
		w.fail("%s: a snapshot of %d bytes was answered, on record it is %s and has %d", s.name, s.sizeBytes, record.Phase, record.CapacityBytes())
	}
	var first []byte
	for _, r := range record.InState(volume.SnapshotTaken) {
		content, ok := w.lvol(r.Node, r.LvStore, record.LvolName(r), record.SizeBytes)
		switch {
		case !ok:
		case first == nil:
			first = content
			var err error
			if s.latest, s.missing, err = s.window.moment(s.image, s.block, w.plain(content, s.secret)); err == nil {
				err = inOrder(s.latest, s.missing)
			}
			if err != nil {
				w.fail("%s, on %s: %v", s.name, r.Node, err)
			}
		case !bytes.Equal(first, content):
			w.fail("%s: its lvol on %s differs from the first %s", s.name, r.Node, firstDifference(first, content))
		}
	}
}

// lvol reads an lvol, past the node's network. It can't be read while the node has no process, or its disk fails or hangs.
func (w *world) lvol(node, lvstore, name string, size int64) ([]byte, bool) {
	content := make([]byte, size)
	limited, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := w.sim(node).ReadBdev(limited, lvstore+"/"+name, content, 0)
	if err != nil && w.sim(node).Running() && !w.faults.harmed(node) && !w.faults.badDisks[node] {
		w.fail("lvol %s on %s can't be read: %v", name, node, err)
	}
	return content, err == nil
}

// window is the time in which a volume is looked at once, from when that was first asked for until it is known to be done.
type window struct {
	of          *vol
	incarnation int
	// image has what each block may have held in that time.
	image *model
}

// look opens a window.
func (v *vol) look() *window {
	v.unpromise()
	win := &window{of: v, incarnation: v.incarnation, image: v.model.copy(v.model.version)}
	for _, x := range v.io() {
		if x.write {
			win.note(x)
		}
	}
	v.windows = append(v.windows, win)
	return win
}

// note adds a write that may be part of what is seen.
func (win *window) note(x *transfer) {
	for b := range x.blocks {
		allowed := &win.image.allowed[x.extent][b]
		*allowed = append(*allowed, x.version)
	}
}

// close ends the window and returns what may have been seen.
func (win *window) close() *model {
	win.of.windows = slices.DeleteFunc(win.of.windows, func(o *window) bool { return o == win })
	return win.image
}

// check says what is wrong with a content as one of the volume at some moment in the window: every write that was acknowledged before is in
// it, and none that began later. From then on the image is that.
func (win *window) check(image *model, block bool, content []byte) error {
	latest, missing, err := win.moment(image, block, content)
	if err != nil {
		return err
	}
	return inOrder(latest, missing)
}

// moment returns the write of a content that began last, and that which it lacks and was acknowledged first.
func (win *window) moment(image *model, block bool, content []byte) (latest, missing *transfer, err error) {
	from := int64(0)
	if !block {
		from = mib // the file system's own
	}
	for extent := range extents {
		at := from + image.offset(extent)
		held := content[at : at+extentBlocks*blockBytes]
		if err := image.read(extent, held); err != nil {
			return nil, nil, err
		}
		for b := range extentBlocks {
			version := binary.LittleEndian.Uint64(held[b*blockBytes+16:])
			for _, x := range win.of.history[win.incarnation] {
				switch {
				case x.extent != extent || b >= x.blocks:
				case x.version == version && (latest == nil || x.beginsAt > latest.beginsAt):
					latest = x
				case x.version > version && x.endsAt > 0 && (missing == nil || x.endsAt < missing.endsAt):
					missing = x
				}
			}
		}
	}
	return latest, missing, nil
}

// inOrder says whether what has one write and lacks another can be of one moment.
func inOrder(latest, missing *transfer) error {
	if latest != nil && missing != nil && latest.beginsAt > missing.endsAt {
		return fmt.Errorf("it has the %s, which began after the %s was acknowledged, and lacks that", latest, missing)
	}
	return nil
}
