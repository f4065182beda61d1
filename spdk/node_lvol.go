package spdk

import (
	"context"
	"fmt"
	"strings"
)

const mib = 1 << 20

// LvStore is a pool of lvols.
type LvStore struct {
	Name, UUID string
	// ClusterBytes is the unit of allocation.
	ClusterBytes, TotalBytes, FreeBytes int64
	// BlockSize is in bytes.
	BlockSize int
}

// Lvol is a logical volume: a replica, or a snapshot of one.
type Lvol struct {
	LvStore, Name string
	// UUID is also the canonical name of the lvol's bdev.
	UUID      string
	SizeBytes int64
	Thin      bool
	// AllocatedBytes is what the lvol itself holds in its lvstore; a thick lvol holds all.
	AllocatedBytes int64
	// BlockSize is in bytes.
	BlockSize int
	// InUse is true while the lvol is exported or claimed by another bdev.
	InUse    bool
	Snapshot bool
	// Base is the name of the snapshot that the lvol lies on, in the same lvstore; "" if it lies on none.
	Base string
	// Clones is how many lvols lie on it.
	Clones int
}

// LvolSpec describes an lvol to make.
type LvolSpec struct {
	LvStore, Name string
	// SizeBytes is rounded up to whole clusters.
	SizeBytes int64
	Thin      bool
	// ClearMethod is what is done to the lvol's clusters when it is deleted.
	ClearMethod ClearMethod
}

// ClearMethod says how clusters are cleared. SPDK gives clusters out as they are, so that what is left in them is read by their next
// owner.
type ClearMethod string

// Clear methods.
const (
	// ClearWriteZeroes leaves nothing behind on any disk.
	ClearWriteZeroes ClearMethod = "write_zeroes"
	// ClearUnmap leaves nothing behind on disks that read zeroes after a deallocate. It is SPDK's default.
	ClearUnmap ClearMethod = "unmap"
)

// LvStores lists the lvstores of the node, without those of placeholders.
func (n *Node) LvStores(ctx context.Context) ([]LvStore, error) {
	infos, err := BdevLvolGetLvstores(ctx, n.rpc)
	if err != nil {
		return nil, n.wrap(err, "list lvstores")
	}
	stores := make([]LvStore, 0, len(infos))
	for _, i := range infos {
		if i.forPlaceholders() {
			continue
		}
		stores = append(stores, LvStore{
			Name:         i.Name,
			UUID:         i.UUID,
			ClusterBytes: i.ClusterSize,
			TotalBytes:   i.TotalDataClusters * i.ClusterSize,
			FreeBytes:    i.FreeClusters * i.ClusterSize,
			BlockSize:    i.BlockSize,
		})
	}
	return stores, nil
}

// lvStore returns one lvstore, or ErrNotFound.
func (n *Node) lvStore(ctx context.Context, name string) (LvStore, error) {
	stores, err := n.LvStores(ctx)
	if err != nil {
		return LvStore{}, err
	}
	for _, s := range stores {
		if s.Name == name {
			return s, nil
		}
	}
	return LvStore{}, n.wrap(ErrNotFound, "lvstore %s", name)
}

// Lvols lists every lvol of the node, snapshots included. An lvol without a bdev, which
// only one with a missing external parent is, is not listed.
func (n *Node) Lvols(ctx context.Context) ([]Lvol, error) {
	stores, err := n.LvStores(ctx)
	if err != nil {
		return nil, err
	}
	bdevs, err := n.bdevs(ctx)
	if err != nil {
		return nil, n.wrap(err, "list lvols")
	}
	var lvols []Lvol
	for _, b := range bdevs {
		if l, ok := lvolOf(b, stores); ok {
			lvols = append(lvols, l)
		}
	}
	return lvols, nil
}

// lvolOf reads an lvol from its bdev. The lvol's own name is in its alias only.
func lvolOf(b Bdev, stores []LvStore) (Lvol, bool) {
	info := b.DriverSpecific.Lvol
	if info == nil {
		return Lvol{}, false
	}
	for _, s := range stores {
		if s.UUID != info.LvolStoreUUID {
			continue
		}
		for _, alias := range b.Aliases {
			name, ok := strings.CutPrefix(alias, s.Name+"/")
			if !ok {
				continue
			}
			return Lvol{
				LvStore:        s.Name,
				Name:           name,
				UUID:           b.UUID,
				SizeBytes:      b.SizeBytes(),
				Thin:           info.ThinProvision,
				AllocatedBytes: info.NumAllocatedClusters * s.ClusterBytes,
				BlockSize:      b.BlockSize,
				InUse:          b.Claimed,
				Snapshot:       info.Snapshot,
				Base:           info.BaseSnapshot,
				Clones:         len(info.Clones),
			}, true
		}
	}
	return Lvol{}, false
}

// Lvol returns one lvol, or ErrNotFound.
func (n *Node) Lvol(ctx context.Context, lvstore, name string) (Lvol, error) {
	b, err := n.bdev(ctx, lvstore+"/"+name)
	if err != nil {
		return Lvol{}, err
	}
	store, err := n.lvStore(ctx, lvstore)
	if err != nil {
		return Lvol{}, err
	}
	return n.lvolIn(b, store, name)
}

// lvolIn reads an lvol that was looked up by its alias.
func (n *Node) lvolIn(b Bdev, store LvStore, name string) (Lvol, error) {
	l, ok := lvolOf(b, []LvStore{store})
	if !ok || l.Name != name {
		return Lvol{}, n.wrap(ErrConflict, "bdev %s/%s is no lvol of that lvstore", store.Name, name)
	}
	return l, nil
}

// LvolBytes returns the size of an lvol, or ErrNotFound. It is one call, where Lvol is two.
func (n *Node) LvolBytes(ctx context.Context, lvstore, name string) (int64, error) {
	b, err := n.bdev(ctx, lvstore+"/"+name)
	return b.SizeBytes(), err
}

// CreateLvol makes an lvol, or finds it made. An lvol of that name with another size or
// another provisioning is ErrConflict, a missing lvstore ErrNotFound, a full one ErrNoSpace.
func (n *Node) CreateLvol(ctx context.Context, spec LvolSpec) (Lvol, error) {
	if spec.SizeBytes <= 0 {
		return Lvol{}, n.wrap(fmt.Errorf("size %d is not positive", spec.SizeBytes), "create lvol %s/%s", spec.LvStore, spec.Name)
	}
	store, err := n.lvStore(ctx, spec.LvStore)
	if err != nil {
		return Lvol{}, err
	}
	found, err := n.lvolAsSpecified(ctx, spec, store)
	if err == nil || !isNotFound(err) {
		return found, err
	}
	_, err = BdevLvolCreate(ctx, n.rpc, BdevLvolCreateParams{
		LvolName: spec.Name, LvsName: spec.LvStore,
		SizeInMiB: roundUp(spec.SizeBytes, mib) / mib, ThinProvision: spec.Thin,
		ClearMethod: string(spec.ClearMethod),
	})
	if err != nil && answered(err) {
		made, readErr := n.lvolAsSpecified(ctx, spec, store)
		if readErr == nil || !isNotFound(readErr) {
			return made, readErr
		}
		if !spec.Thin {
			err = n.orNoSpace(ctx, spec.LvStore, roundUp(spec.SizeBytes, store.ClusterBytes), err)
		}
	}
	if err != nil {
		return Lvol{}, n.wrap(err, "create lvol %s/%s of %d bytes", spec.LvStore, spec.Name, spec.SizeBytes)
	}
	return n.lvolAsSpecified(ctx, spec, store)
}

// lvolAsSpecified reads the lvol back and compares.
func (n *Node) lvolAsSpecified(ctx context.Context, spec LvolSpec, store LvStore) (Lvol, error) {
	b, err := n.bdev(ctx, spec.LvStore+"/"+spec.Name)
	if err != nil {
		return Lvol{}, err
	}
	l, err := n.lvolIn(b, store, spec.Name)
	if err != nil {
		return Lvol{}, err
	}
	if want := roundUp(spec.SizeBytes, store.ClusterBytes); l.SizeBytes != want || l.Thin != spec.Thin {
		return Lvol{}, n.wrap(ErrConflict, "lvol %s/%s has %d bytes and thin=%t, wanted are %d bytes and thin=%t",
			l.LvStore, l.Name, l.SizeBytes, l.Thin, want, spec.Thin)
	}
	return l, nil
}

// orNoSpace returns ErrNoSpace, with cause, if the lvstore lacks that many bytes now, and
// cause otherwise.
func (n *Node) orNoSpace(ctx context.Context, lvstore string, need int64, cause error) error {
	store, err := n.lvStore(ctx, lvstore)
	if err == nil && store.FreeBytes < need {
		return fmt.Errorf("%w: %d bytes needed, %d free in lvstore %s: %w", ErrNoSpace, need, store.FreeBytes, lvstore, cause)
	}
	return cause
}

// DeleteLvol deletes an lvol; an absent one is success. One that is exported or otherwise
// in use is ErrBusy: SPDK itself would take it away from under its users.
func (n *Node) DeleteLvol(ctx context.Context, lvstore, name string) error {
	l, err := n.Lvol(ctx, lvstore, name)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if l.InUse {
		return n.wrap(fmt.Errorf("%w: remove its export first", ErrBusy), "delete lvol %s/%s", lvstore, name)
	}
	err = BdevLvolDelete(ctx, n.rpc, BdevLvolDeleteParams{Name: l.UUID})
	if err != nil && answered(err) {
		if _, readErr := n.Lvol(ctx, lvstore, name); isNotFound(readErr) {
			return nil
		}
	}
	return n.wrap(err, "delete lvol %s/%s", lvstore, name)
}

// ResizeLvol grows an lvol to sizeBytes, rounded up to whole clusters, and reads the new
// size back. An lvol that is as large or larger is left alone.
func (n *Node) ResizeLvol(ctx context.Context, lvstore, name string, sizeBytes int64) error {
	store, err := n.lvStore(ctx, lvstore)
	if err != nil {
		return err
	}
	want := roundUp(sizeBytes, store.ClusterBytes)
	l, err := n.Lvol(ctx, lvstore, name)
	if err != nil || l.SizeBytes >= want {
		return err
	}
	err = BdevLvolResize(ctx, n.rpc, BdevLvolResizeParams{Name: l.UUID, SizeInMiB: roundUp(want, mib) / mib})
	if err != nil && !answered(err) {
		return n.wrap(err, "resize lvol %s/%s to %d bytes", lvstore, name, want)
	}
	now, readErr := n.Lvol(ctx, lvstore, name)
	switch {
	case readErr != nil:
		return readErr
	case now.SizeBytes >= want:
		return nil
	case err == nil:
		err = fmt.Errorf("it still has %d bytes", now.SizeBytes)
	case !l.Thin:
		err = n.orNoSpace(ctx, lvstore, want-l.SizeBytes, err)
	}
	return n.wrap(err, "resize lvol %s/%s to %d bytes", lvstore, name, want)
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
