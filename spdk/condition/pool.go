package condition

import (
	"context"
	"fmt"
	"strings"

	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// How much of an lvstore is to stay free, in percent. A thin replica that finds no cluster fails the write and is ejected by its raid: with
// less than NearlyFullPercent volumes there are told of, with less than FullPercent nothing new is placed there.
const (
	NearlyFullPercent = 15
	FullPercent       = 5
)

// Pool is how large an lvstore is and how much of it is free.
type Pool struct{ TotalBytes, FreeBytes int64 }

// Less says whether less than so many percent of the lvstore are free.
func (p Pool) Less(percent int64) bool { return p.FreeBytes < p.TotalBytes/100*percent }

func pools(ctx context.Context, node *converge.Node) (map[string]Pool, error) {
	lvstores, err := node.LvStores(ctx)
	if err != nil {
		return nil, err
	}
	found := map[string]Pool{}
	for _, l := range lvstores {
		found[l.Name] = Pool{TotalBytes: l.TotalBytes, FreeBytes: l.FreeBytes}
	}
	return found, nil
}

// fullPools names the lvstores of a thin volume's replicas that are nearly full. How full isn't said, so that the text stays the same while
// they are.
func fullPools(v *volume.Volume, s Sight) string {
	if !v.Parameters.Thin {
		return ""
	}
	var full []string
	for _, r := range v.Replicas {
		pool, known := s[r.Node].Pools[r.LvStore]
		switch {
		case !known || r.State == volume.ReplicaRemoving || !pool.Less(NearlyFullPercent):
		case pool.Less(FullPercent):
			full = append(full, fmt.Sprintf("lvstore %s on %s has less than %d %% free, and nothing new is placed there", r.LvStore, r.Node, FullPercent))
		default:
			full = append(full, fmt.Sprintf("lvstore %s on %s has less than %d %% free", r.LvStore, r.Node, NearlyFullPercent))
		}
	}
	return strings.Join(full, "; ")
}
