// Package bolt keeps the records of volumes and snapshots in a file, for one process: the demo, tests and use without Kubernetes.
package bolt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// volumes and snapshots are the records.
var (
	volumes = &table[volume.Volume]{
		bucket: []byte("volumes.v1"), absent: volume.ErrNotFound, written: noteWish,
		of: func(v *volume.Volume) (string, *uint64) { return v.ID, &v.Revision },
	}
	snapshots = &table[volume.Snapshot]{
		bucket: []byte("snapshots.v1"), absent: volume.ErrNoSnapshot,
		of: func(s *volume.Snapshot) (string, *uint64) { return s.ID, &s.Revision },
	}
)

// hosts holds a CSI node a key: its name, with the record as JSON.
var hosts = []byte("hosts.v1")

// wishes holds a key for each volume that wants something of CSI nodes: the volume's ID, with their names, a line each.
var wishes = []byte("wishes.v1")

// cordons holds a key for each SPDK node that is cordoned: its name.
var cordons = []byte("cordons.v1")

// openTimeout bounds the wait for the file's lock, which a predecessor that is just stopping may still hold.
const openTimeout = 5 * time.Second

// Store is a file of records. It implements volume.Store.
type Store struct{ db *bbolt.DB }

var _ volume.Store = (*Store)(nil)

// Open opens the file, or makes it. Only one process at a time can have it open.
func Open(path string) (*Store, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: openTimeout})
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open the store %s: another process has it open: one controller at a time can use an embedded store", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open the store %s: %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		var errs []error
		for _, name := range [][]byte{volumes.bucket, snapshots.bucket, hosts, wishes, cordons} {
			_, err := tx.CreateBucketIfNotExists(name)
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare the store %s: %w", path, err), db.Close())
	}
	return &Store{db: db}, nil
}

// Close lets go of the file.
func (s *Store) Close() error { return s.db.Close() }

// Get implements volume.Store.
func (s *Store) Get(ctx context.Context, id string) (*volume.Volume, error) {
	return volumes.get(ctx, s.db, id)
}

// Create implements volume.Store.
func (s *Store) Create(ctx context.Context, v *volume.Volume) error {
	return volumes.create(ctx, s.db, v)
}

// Update implements volume.Store.
func (s *Store) Update(ctx context.Context, v *volume.Volume) error {
	return volumes.update(ctx, s.db, v)
}

// Delete implements volume.Store.
func (s *Store) Delete(ctx context.Context, v *volume.Volume) error {
	return volumes.delete(ctx, s.db, v)
}

// List implements volume.Store.
func (s *Store) List(ctx context.Context, after string, limit int) ([]*volume.Volume, error) {
	return volumes.list(ctx, s.db, after, limit)
}

// GetSnapshot implements volume.SnapshotStore.
func (s *Store) GetSnapshot(ctx context.Context, id string) (*volume.Snapshot, error) {
	return snapshots.get(ctx, s.db, id)
}

// CreateSnapshot implements volume.SnapshotStore.
func (s *Store) CreateSnapshot(ctx context.Context, sn *volume.Snapshot) error {
	return snapshots.create(ctx, s.db, sn)
}

// UpdateSnapshot implements volume.SnapshotStore.
func (s *Store) UpdateSnapshot(ctx context.Context, sn *volume.Snapshot) error {
	return snapshots.update(ctx, s.db, sn)
}

// DeleteSnapshot implements volume.SnapshotStore.
func (s *Store) DeleteSnapshot(ctx context.Context, sn *volume.Snapshot) error {
	return snapshots.delete(ctx, s.db, sn)
}

// ListSnapshots implements volume.SnapshotStore.
func (s *Store) ListSnapshots(ctx context.Context, after string, limit int) ([]*volume.Snapshot, error) {
	return snapshots.list(ctx, s.db, after, limit)
}

// Wishes implements volume.SnapshotStore.
func (s *Store) Wishes(ctx context.Context, node string) ([]string, error) {
	var ids []string
	err := ctx.Err()
	if err == nil {
		err = s.db.View(func(tx *bbolt.Tx) error {
			return tx.Bucket(wishes).ForEach(func(id, names []byte) error {
				if slices.Contains(strings.Split(string(names), "\n"), node) {
					ids = append(ids, string(id))
				}
				return nil
			})
		})
	}
	if err != nil {
		return nil, fmt.Errorf("list what is wanted of %s: %w", node, err)
	}
	return ids, nil
}

// noteWish keeps wishes as the records are.
func noteWish(tx *bbolt.Tx, id string, v *volume.Volume) error {
	b := tx.Bucket(wishes)
	if v != nil {
		if nodes := v.Wanted(); len(nodes) > 0 {
			return b.Put([]byte(id), []byte(strings.Join(nodes, "\n")))
		}
	}
	if b.Get([]byte(id)) == nil {
		return nil
	}
	return b.Delete([]byte(id))
}

// Host implements volume.Store.
func (s *Store) Host(ctx context.Context, name string) (volume.Host, error) {
	var h volume.Host
	err := ctx.Err()
	if err == nil {
		err = s.db.View(func(tx *bbolt.Tx) error {
			value := tx.Bucket(hosts).Get([]byte(name))
			if value == nil {
				return volume.ErrHostUnknown
			}
			return json.Unmarshal(value, &h)
		})
	}
	if err != nil {
		return volume.Host{}, fmt.Errorf("read the record of node %s: %w", name, err)
	}
	return h, nil
}

// PutHost implements volume.Store.
func (s *Store) PutHost(ctx context.Context, h volume.Host) error {
	body, err := json.Marshal(h)
	if err = errors.Join(err, ctx.Err()); err == nil {
		err = s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(hosts).Put([]byte(h.Name), body) })
	}
	if err != nil {
		return fmt.Errorf("write the record of node %s: %w", h.Name, err)
	}
	return nil
}
