package bolt

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// table is the records of one kind, in a bucket of their own: a record a key, its ID, with 8 bytes of revision (big endian) and the record as
// JSON for its value. The bucket's sequence is the revision of the newest write.
type table[T any] struct {
	bucket []byte
	// of returns a record's ID and its place for the revision.
	of func(*T) (id string, revision *uint64)
	// absent is the error of a record that is not there.
	absent error
	// written is called in the transaction of each write, with nil for a record that is deleted; nil is nothing.
	written func(tx *bbolt.Tx, id string, record *T) error
}

const revisionBytes = 8

func (t *table[T]) get(ctx context.Context, db *bbolt.DB, id string) (*T, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var record *T
	err := db.View(func(tx *bbolt.Tx) error {
		value := tx.Bucket(t.bucket).Get([]byte(id))
		if value == nil {
			return t.absent
		}
		var err error
		record, err = t.decode(value)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the record of %s: %w", id, err)
	}
	return record, nil
}

// create puts a new record.
func (t *table[T]) create(ctx context.Context, db *bbolt.DB, record *T) error {
	return t.write(ctx, db, record, func(old []byte) error {
		if old != nil {
			return volume.ErrExists
		}
		return nil
	})
}

// update puts a record in place of the one that it was read from.
func (t *table[T]) update(ctx context.Context, db *bbolt.DB, record *T) error {
	return t.write(ctx, db, record, func(old []byte) error { return t.compare(old, record) })
}

// write puts a record if allowed agrees with what is there now, and sets its revision.
func (t *table[T]) write(ctx context.Context, db *bbolt.DB, record *T, allowed func(old []byte) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	id, place := t.of(record)
	body, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encode the record of %s: %w", id, err)
	}
	var revision uint64
	// Batch shares one fsync among callers; it may run the function again, so nothing outside is changed before it ends.
	err = db.Batch(func(tx *bbolt.Tx) error {
		b := tx.Bucket(t.bucket)
		if err := allowed(b.Get([]byte(id))); err != nil {
			return err
		}
		var err error
		if revision, err = b.NextSequence(); err != nil {
			return err
		}
		if err := b.Put([]byte(id), append(binary.BigEndian.AppendUint64(nil, revision), body...)); err != nil {
			return err
		}
		return t.noteWritten(tx, id, record)
	})
	if err != nil {
		return fmt.Errorf("write the record of %s: %w", id, err)
	}
	*place = revision
	return nil
}

func (t *table[T]) noteWritten(tx *bbolt.Tx, id string, record *T) error {
	if t.written == nil {
		return nil
	}
	return t.written(tx, id, record)
}

func (t *table[T]) delete(ctx context.Context, db *bbolt.DB, record *T) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	id, _ := t.of(record)
	err := db.Batch(func(tx *bbolt.Tx) error {
		b := tx.Bucket(t.bucket)
		if err := t.compare(b.Get([]byte(id)), record); err != nil {
			return err
		}
		if err := b.Delete([]byte(id)); err != nil {
			return err
		}
		return t.noteWritten(tx, id, nil)
	})
	if err != nil {
		return fmt.Errorf("delete the record of %s: %w", id, err)
	}
	return nil
}

func (t *table[T]) list(ctx context.Context, db *bbolt.DB, after string, limit int) ([]*T, error) {
	var found []*T
	err := db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(t.bucket).Cursor()
		key, value := c.Seek([]byte(after))
		if key != nil && string(key) == after {
			key, value = c.Next()
		}
		for ; key != nil && (limit == 0 || len(found) < limit); key, value = c.Next() {
			if err := ctx.Err(); err != nil {
				return err
			}
			record, err := t.decode(value)
			if err != nil {
				return fmt.Errorf("record of %s: %w", key, err)
			}
			found = append(found, record)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the records: %w", err)
	}
	return found, nil
}

func (t *table[T]) compare(old []byte, record *T) error {
	_, revision := t.of(record)
	switch {
	case old == nil:
		return t.absent
	case len(old) < revisionBytes || binary.BigEndian.Uint64(old) != *revision:
		return volume.ErrConflict
	}
	return nil
}

func (t *table[T]) decode(value []byte) (*T, error) {
	if len(value) < revisionBytes {
		return nil, errors.New("the record is cut short; restore the store's file from a backup")
	}
	record := new(T)
	if err := json.Unmarshal(value[revisionBytes:], record); err != nil {
		return nil, fmt.Errorf("the record can't be decoded: %w", err)
	}
	_, revision := t.of(record)
	*revision = binary.BigEndian.Uint64(value)
	return record, nil
}
