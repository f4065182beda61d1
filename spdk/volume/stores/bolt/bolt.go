// Package bolt keeps the records of volumes in a file, for one process: the demo, tests and use without Kubernetes.
package bolt

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// bucket holds a record a key: the volume ID, with 8 bytes of revision (big endian) and the record as JSON for its value. The
// bucket's sequence is the revision of the newest write.
var bucket = []byte("volumes.v1")

// hosts holds a CSI node a key: its name, with the record as JSON.
var hosts = []byte("hosts.v1")

const revisionBytes = 8

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
		_, first := tx.CreateBucketIfNotExists(bucket)
		_, second := tx.CreateBucketIfNotExists(hosts)
		return errors.Join(first, second)
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
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var v *volume.Volume
	err := s.db.View(func(tx *bbolt.Tx) error {
		value := tx.Bucket(bucket).Get([]byte(id))
		if value == nil {
			return volume.ErrNotFound
		}
		var err error
		v, err = decode(value)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the record of %s: %w", id, err)
	}
	return v, nil
}

// Create implements volume.Store.
func (s *Store) Create(ctx context.Context, v *volume.Volume) error {
	return s.write(ctx, v, func(old []byte) error {
		if old != nil {
			return volume.ErrExists
		}
		return nil
	})
}

// Update implements volume.Store.
func (s *Store) Update(ctx context.Context, v *volume.Volume) error {
	return s.write(ctx, v, func(old []byte) error { return compare(old, v) })
}

// Delete implements volume.Store.
func (s *Store) Delete(ctx context.Context, v *volume.Volume) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := s.db.Batch(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket)
		if err := compare(b.Get([]byte(v.ID)), v); err != nil {
			return err
		}
		return b.Delete([]byte(v.ID))
	})
	if err != nil {
		return fmt.Errorf("delete the record of %s: %w", v.ID, err)
	}
	return nil
}

// List implements volume.Store.
func (s *Store) List(ctx context.Context, after string, limit int) ([]*volume.Volume, error) {
	var found []*volume.Volume
	err := s.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucket).Cursor()
		key, value := c.Seek([]byte(after))
		if key != nil && string(key) == after {
			key, value = c.Next()
		}
		for ; key != nil && (limit == 0 || len(found) < limit); key, value = c.Next() {
			if err := ctx.Err(); err != nil {
				return err
			}
			v, err := decode(value)
			if err != nil {
				return fmt.Errorf("record of %s: %w", key, err)
			}
			found = append(found, v)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the records: %w", err)
	}
	return found, nil
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

// write puts a record if allowed agrees with what is there now, and sets its revision.
func (s *Store) write(ctx context.Context, v *volume.Volume, allowed func(old []byte) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the record of %s: %w", v.ID, err)
	}
	var revision uint64
	// Batch shares one fsync among callers; it may run the function again, so nothing outside is changed before it ends.
	err = s.db.Batch(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucket)
		if err := allowed(b.Get([]byte(v.ID))); err != nil {
			return err
		}
		var err error
		if revision, err = b.NextSequence(); err != nil {
			return err
		}
		return b.Put([]byte(v.ID), append(binary.BigEndian.AppendUint64(nil, revision), body...))
	})
	if err != nil {
		return fmt.Errorf("write the record of %s: %w", v.ID, err)
	}
	v.Revision = revision
	return nil
}

func compare(old []byte, v *volume.Volume) error {
	switch {
	case old == nil:
		return volume.ErrNotFound
	case len(old) < revisionBytes || binary.BigEndian.Uint64(old) != v.Revision:
		return volume.ErrConflict
	}
	return nil
}

func decode(value []byte) (*volume.Volume, error) {
	if len(value) < revisionBytes {
		return nil, errors.New("the record is cut short; restore the store's file from a backup")
	}
	v := &volume.Volume{}
	if err := json.Unmarshal(value[revisionBytes:], v); err != nil {
		return nil, fmt.Errorf("the record can't be decoded: %w", err)
	}
	v.Revision = binary.BigEndian.Uint64(value)
	return v, nil
}
