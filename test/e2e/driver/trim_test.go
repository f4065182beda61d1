//go:build e2e

package driver

import (
	"testing"

	"github.com/holdfast-csi/holdfast/spdk"
)

// allocated returns how many bytes of its lvstore each replica of the volume holds.
func (c *claim) allocated() map[string]int64 {
	c.t.Helper()
	v, err := c.Record(c.t.Context())
	must(c.t, err)
	held := map[string]int64{}
	for _, r := range v.Replicas {
		target, err := c.s.Target(r.Node)
		must(c.t, err)
		must(c.t, target.Do(func(node *spdk.Node) error {
			l, err := node.Lvol(c.t.Context(), r.LvStore, v.LvolName(r))
			held[r.ID] = l.AllocatedBytes
			return err
		}))
	}
	return held
}

// The kernel discards on a volume, and what it discards is given back by every replica.
func TestTrimmedFileSystemGivesItsRoomBack(t *testing.T) {
	s := run(t)
	for _, fsType := range []string{"ext4", "xfs"} {
		t.Run(fsType, func(t *testing.T) {
			c := newClaim(t, s, fsType, nil)
			c.publish()
			sum := s.randomFile(t, c.Pod+"/kept")
			const big = 96 << 20
			s.guest(t, "dd if=/dev/urandom of="+c.Pod+"/big bs=1M count=96 conv=fsync 2>/dev/null")
			before := c.allocated()
			s.guest(t, "rm "+c.Pod+"/big && sync && fstrim "+c.Pod)
			for id, now := range c.allocated() {
				// What is not a whole cluster stays, at both ends of an extent.
				if freed := before[id] - now; freed < big/2 || now < 32<<20 {
					t.Errorf("replica %s held %d bytes and holds %d", id, before[id], now)
				}
			}
			s.guest(t, "echo 3 > /proc/sys/vm/drop_caches")
			s.wantSum(t, c.Pod+"/kept", sum)
			c.unpublish()
			c.delete()
			s.wantNothingLeft(t)
		})
	}
}
