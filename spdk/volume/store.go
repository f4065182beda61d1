package volume

import (
	"context"
	"errors"
	"fmt"
)

// Host is a CSI node: a machine that runs the node service.
type Host struct {
	Name string `json:"name"`
	// MachineID tells two machines of one name apart (machine-id(5)).
	MachineID string `json:"machineID"`
}

// Store keeps the records. Every write is compare-and-swap on the record's Revision, which Create and Update set anew.
// Records returned are the caller's own copies.
type Store interface {
	// Get returns a record, or ErrNotFound.
	Get(ctx context.Context, id string) (*Volume, error)
	// Create puts a new record, or answers ErrExists.
	Create(ctx context.Context, v *Volume) error
	// Update writes a record that was read before; ErrConflict if another write came in between, ErrNotFound if it is gone.
	Update(ctx context.Context, v *Volume) error
	// Delete takes a record away; ErrConflict as with Update, ErrNotFound if it is gone.
	Delete(ctx context.Context, v *Volume) error
	// List returns up to limit records in the order of their IDs, from the first ID above after. 0 is no limit.
	List(ctx context.Context, after string, limit int) ([]*Volume, error)

	// Host returns what is on record of a CSI node, or ErrHostUnknown.
	Host(ctx context.Context, name string) (Host, error)
	// PutHost records a CSI node, in place of what was there.
	PutHost(ctx context.Context, h Host) error

	SnapshotStore
	CordonStore
}

// CordonStore keeps which SPDK nodes are cordoned: an operator's wish that nothing new goes there. What is there stays.
type CordonStore interface {
	// Cordoned returns the names of the SPDK nodes that get no new replica, raid host or standby, in order.
	Cordoned(ctx context.Context) ([]string, error)
	// SetCordon puts on record whether an SPDK node is cordoned; to say it again is success.
	SetCordon(ctx context.Context, node string, cordoned bool) error
}

// SnapshotStore keeps the records of snapshots, and finds the volumes that want something of a CSI node.
type SnapshotStore interface {
	// GetSnapshot returns a record, or ErrNoSnapshot.
	GetSnapshot(ctx context.Context, id string) (*Snapshot, error)
	// CreateSnapshot puts a new record, or answers ErrExists.
	CreateSnapshot(ctx context.Context, s *Snapshot) error
	// UpdateSnapshot writes a record that was read before; ErrConflict if another write came in between, ErrNoSnapshot if it is gone.
	UpdateSnapshot(ctx context.Context, s *Snapshot) error
	// DeleteSnapshot takes a record away; errors as with UpdateSnapshot.
	DeleteSnapshot(ctx context.Context, s *Snapshot) error
	// ListSnapshots is for snapshots what List is for volumes.
	ListSnapshots(ctx context.Context, after string, limit int) ([]*Snapshot, error)
	// Wishes returns the IDs of the volumes that want something of a CSI node (Volume.Wanted). It is asked often and so costs little,
	// however many volumes there are.
	Wishes(ctx context.Context, node string) ([]string, error)
}

// ModifySnapshot is for snapshots what Modify is for volumes.
func ModifySnapshot(ctx context.Context, store SnapshotStore, id string, change func(*Snapshot) (bool, error)) (*Snapshot, error) {
	for {
		s, err := store.GetSnapshot(ctx, id)
		if err != nil {
			return nil, err
		}
		write, err := change(s)
		if err != nil || !write {
			return s, err
		}
		err = store.UpdateSnapshot(ctx, s)
		if err == nil {
			return s, nil
		}
		if !errors.Is(err, ErrConflict) || ctx.Err() != nil {
			return nil, fmt.Errorf("write the record of snapshot %s: %w", id, err)
		}
	}
}

// Modify reads a record, changes it and writes it back, again from the start if another writer came in between. An error of
// change is returned as it is and nothing is written. It returns the record as written; change may report by returning false
// that nothing is to be written.
func Modify(ctx context.Context, s Store, id string, change func(*Volume) (bool, error)) (*Volume, error) {
	for {
		v, err := s.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		write, err := change(v)
		if err != nil || !write {
			return v, err
		}
		err = s.Update(ctx, v)
		if err == nil {
			return v, nil
		}
		if !errors.Is(err, ErrConflict) || ctx.Err() != nil {
			return nil, fmt.Errorf("write the record of volume %s: %w", id, err)
		}
	}
}

// RegisterHost puts a CSI node on record. A second machine under the same name is refused while volumes are published to the
// first: both would connect with the same host NQN, and what is fenced off one would be open to the other.
func RegisterHost(ctx context.Context, s Store, h Host) error {
	if err := CheckNodeName(h.Name); err != nil {
		return err
	}
	old, err := s.Host(ctx, h.Name)
	switch {
	case err == nil && old == h:
		return nil
	case err != nil && !errors.Is(err, ErrHostUnknown):
		return fmt.Errorf("look up node %s: %w", h.Name, err)
	case err == nil:
		volumes, err := s.List(ctx, "", 0)
		if err != nil {
			return err
		}
		for _, v := range volumes {
			if v.Publication(h.Name) != nil {
				return fmt.Errorf("%w: node name %q belongs to the machine with id %s, and volume %s is published to it; this machine has id %s. "+
					"Give each machine a name of its own, or detach the volumes of the old machine if it is gone",
					ErrInUse, h.Name, old.MachineID, v.ID, h.MachineID)
			}
		}
	}
	if err := s.PutHost(ctx, h); err != nil {
		return fmt.Errorf("register node %s: %w", h.Name, err)
	}
	return nil
}
