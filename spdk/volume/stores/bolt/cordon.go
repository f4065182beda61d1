package bolt

import (
	"context"
	"fmt"

	"go.etcd.io/bbolt"
)

// Cordoned implements volume.CordonStore.
func (s *Store) Cordoned(ctx context.Context) ([]string, error) {
	var names []string
	err := ctx.Err()
	if err == nil {
		err = s.db.View(func(tx *bbolt.Tx) error {
			return tx.Bucket(cordons).ForEach(func(name, _ []byte) error {
				names = append(names, string(name))
				return nil
			})
		})
	}
	if err != nil {
		return nil, fmt.Errorf("read which SPDK nodes are cordoned: %w", err)
	}
	return names, nil
}

// SetCordon implements volume.CordonStore.
func (s *Store) SetCordon(ctx context.Context, node string, cordoned bool) error {
	err := ctx.Err()
	if err == nil {
		err = s.db.Update(func(tx *bbolt.Tx) error {
			if cordoned {
				return tx.Bucket(cordons).Put([]byte(node), nil)
			}
			return tx.Bucket(cordons).Delete([]byte(node))
		})
	}
	if err != nil {
		return fmt.Errorf("put on record whether SPDK node %s is cordoned: %w", node, err)
	}
	return nil
}
