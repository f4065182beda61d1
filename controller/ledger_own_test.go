package controller

import (
	"testing"

	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
)

func TestNothingThinIsPlacedOnAnLvstoreThatIsAllButFull(t *testing.T) {
	const gib = int64(1) << 30
	node := &converge.Node{Name: "n1"}
	l := newLedger(4)
	for _, c := range []struct {
		free int64
		thin bool
		want int64
	}{{100, true, 400 * gib}, {5, true, 400 * gib}, {4, true, 0}, {4, false, 4 * gib}} {
		p := pool{node: node, LvStore: spdk.LvStore{Name: "pool", ClusterBytes: 4 << 20, TotalBytes: 100 * gib, FreeBytes: c.free * gib}}
		if got := l.roomLocked(p, c.thin); got != c.want {
			t.Errorf("%d of 100 GiB free, thin %t: room for %d bytes, want %d", c.free, c.thin, got, c.want)
		}
	}
}
