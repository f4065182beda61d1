package random_test

import (
	"context"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// drawContent makes the new volume one of a snapshot or a clone, now and then.
func (v *vol) drawContent() {
	w, rng := v.w, v.w.rng
	v.from, v.cloned = nil, nil
	switch rng.IntN(3) {
	case 0:
		ready := slices.DeleteFunc(slices.Clone(w.snaps), func(s *snap) bool { return !s.ready || s.deleting })
		if len(ready) == 0 {
			return
		}
		v.from = ready[rng.IntN(len(ready))]
		v.block, v.secret, v.sizeBytes = v.from.block, v.from.secret, v.from.sizeBytes
	case 1:
		other := w.volumes[rng.IntN(len(w.volumes))]
		if other == v || other.done < created || other.deleting || other.stranded() {
			return
		}
		v.cloned = other.look()
		v.block, v.secret, v.sizeBytes = other.block, other.secret, other.grownBytes
	}
	v.grownBytes = v.sizeBytes
}

// made says of what it is made.
func (v *vol) made() string {
	switch {
	case v.from != nil:
		return "of snapshot " + v.from.name + ": "
	case v.cloned != nil:
		return "of volume " + v.cloned.of.name + ": "
	}
	return ""
}

func (v *vol) contentSource() *csi.VolumeContentSource {
	switch {
	case v.from != nil:
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: v.from.id()}}}
	case v.cloned != nil:
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: v.cloned.of.id()}}}
	}
	return nil
}

// lacksContent says whether what it is to be made of is only to be had with an operator's help. Nothing else of it goes as long as a CO makes
// a volume of it.
func (v *vol) lacksContent() bool { return v.cloned != nil && v.cloned.of.stranded() }

// needed says whether a volume is being cloned from this one.
func (v *vol) needed() bool {
	return slices.ContainsFunc(v.w.volumes, func(o *vol) bool {
		return o.cloned != nil && o.cloned.of == v && o.cloned.incarnation == v.incarnation && o.done == absent && o.reach == created
	})
}

// wasMade has the volume hold from now on what it was made of. Its versions are its own.
func (v *vol) wasMade() {
	var image *model
	switch {
	case v.from != nil:
		image = v.from.image
	case v.cloned != nil:
		image = v.cloned.close()
		v.checkClone(image)
	default:
		return
	}
	v.w.modelsMade++
	v.model = image.copy(uint64(v.w.modelsMade) << 32)
}

// unmade forgets what it was to be made of.
func (v *vol) unmade() {
	if v.cloned != nil {
		v.cloned.close()
	}
	v.from, v.cloned = nil, nil
}

// checkClone holds a clone against what its source held, before anybody writes to it.
func (v *vol) checkClone(image *model) {
	record := v.w.store.peek(v.id())
	for _, r := range record.InState(volume.ReplicaInSync) {
		if content, ok := v.w.lvol(r.Node, r.LvStore, record.LvolName(r), v.sizeBytes+headerBytes(v.secret)); ok {
			if err := v.cloned.check(image, v.block, v.w.plain(content, v.secret)); err != nil {
				v.w.fail("%s, replica %s on %s: %v", v, r.ID, r.Node, err)
			}
		}
	}
}

// snapshots returns the records of all snapshots.
func (w *world) snapshots() []*volume.Snapshot {
	all, err := w.store.taken.ListSnapshots(context.Background(), "", 0)
	w.must(err)
	return all
}
