//go:build e2e

package driver

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/stack"
)

const (
	online  = 640 << 20
	offline = 1280 << 20
)

func (c *claim) expand(bytes int64, online bool) {
	c.t.Helper()
	must(c.t, c.Expand(c.t.Context(), bytes, online))
}

// bytes runs a command in the guest that prints a number.
func (s *suite) bytes(t *testing.T, command string) int64 {
	t.Helper()
	out := strings.TrimSpace(s.guest(t, command))
	n, err := strconv.ParseInt(out, 10, 64)
	if err != nil {
		t.Fatalf("%s: %q", command, out)
	}
	return n
}

// wantRoom checks that the file system at the pod's path is nearly as large as its volume. What a file system keeps for itself depends on
// the size that it was made for.
func (c *claim) wantRoom(bytes int64) {
	c.t.Helper()
	blocks := c.s.bytes(c.t, "df -kP "+c.Pod+" | tail -1 | awk '{print $2}'")
	if kib := bytes >> 10; blocks > kib || blocks < kib-kib/5 {
		c.t.Errorf("the file system has %d KiB of %d", blocks, kib)
	}
}

// until waits for the record to be as wanted.
func (c *claim) until(what string, wanted func(v *volume.Volume) bool) {
	c.t.Helper()
	for end := time.Now().Add(stack.Patience); ; time.Sleep(100 * time.Millisecond) {
		v, err := c.Record(c.t.Context())
		must(c.t, err)
		if wanted(v) {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("wait until %s: it runs as %+v, its standby is %+v, its replicas are %+v", what, v.Assembly, v.Standby, v.Replicas)
		}
	}
}

// standby waits until the volume has one, as a volume that has been in use for a while does.
func (c *claim) standby() {
	c.t.Helper()
	c.until("it has a standby", func(v *volume.Volume) bool { return v.Standby != nil && v.Standby.Running })
}

// wantPaths checks that the kernel has two usable-in-time paths of one size: its own device and those behind it agree.
func (c *claim) wantPaths(bytes int64) {
	c.t.Helper()
	v, err := c.Record(c.t.Context())
	must(c.t, err)
	find := "for s in /sys/class/nvme-subsystem/*; do if [ \"$(cat $s/subsysnqn)\" = " + v.NQN() + " ]; then "
	heads := c.s.guest(c.t, find+"cat $s/nvme*n*/size; fi; done")
	paths := c.s.guest(c.t, find+"for p in $s/nvme*/nvme*c*n*; do cat $p/size; done; fi; done")
	want := strconv.FormatInt(bytes/512, 10)
	for _, size := range append(strings.Fields(heads), strings.Fields(paths)...) {
		if size != want {
			c.t.Errorf("the device has %q sectors, its paths %q; wanted are %s", heads, paths, want)
		}
	}
	if n := len(strings.Fields(paths)); n != 2 {
		c.t.Errorf("%d paths: %q", n, paths)
	}
}

// A pod writes while its volume grows under it, raid, standby, device and file system; then the volume grows while nobody uses it.
func TestFileSystemGrowsWhileAPodWrites(t *testing.T) {
	s := run(t)
	for _, fsType := range []string{"ext4", "xfs"} {
		t.Run(fsType, func(t *testing.T) {
			c := newClaimThat(t, s, true, fsType, nil)
			c.publish()
			c.standby()
			written := c.writeFiles(150)
			begin := time.Now()
			c.expand(online, true)
			t.Logf("grown online after %s", time.Since(begin).Round(time.Millisecond))
			c.wantRoom(online)
			c.standby()
			c.wantPaths(online)
			s.guest(t, "fallocate -l 400M "+c.Pod+"/large") // more than there was room for
			sum := <-written
			c.wantFiles(sum)
			c.expand(online, true) // again: nothing happens
			c.unpublish()
			c.expand(offline, false)
			c.publish()
			c.wantRoom(offline)
			c.wantFiles(sum)
			c.unpublish()
			c.delete()
			s.wantNothingLeft(t)
		})
	}
}

func TestRawBlockGrowsWhileItIsUsed(t *testing.T) {
	s := run(t)
	c := newClaimThat(t, s, true, "", map[string]string{volume.ParamReplicas: "2"})
	c.publish()
	c.standby()
	sum := s.randomFile(t, "/tmp/data")
	s.guest(t, "dd if=/tmp/data of="+c.Pod+" bs=1M conv=fsync 2>/dev/null")
	c.expand(online, true)
	if got := s.bytes(t, "blockdev --getsize64 "+c.Pod+" 2>/dev/null || cat /sys/dev/block/$(stat -c '%Hr:%Lr' "+c.Pod+")/size | awk '{print $1*512}'"); got != online {
		t.Errorf("the device has %d bytes", got)
	}
	s.guest(t, "dd if=/tmp/data of="+c.Pod+" bs=1M seek=600 conv=fsync,notrunc 2>/dev/null")
	s.wantSum(t, c.Pod, sum)
	c.standby()
	c.wantPaths(online)
	c.unpublish()
	c.expand(offline, false)
	c.publish()
	s.wantSum(t, c.Pod, sum)
	c.unpublish()
	c.delete()
	s.wantNothingLeft(t)
}

// The volume is moved to its new standby after it has grown: what was written beyond the former end is there.
func TestGrownVolumeIsWholeOnAnotherRaidHost(t *testing.T) {
	s := run(t)
	c := newClaimThat(t, s, true, "ext4", nil)
	c.publish()
	c.standby()
	c.expand(online, true)
	s.guest(t, "fallocate -l 400M "+c.Pod+"/large")
	sum := s.randomFile(t, "/tmp/data")
	s.guest(t, "dd if=/tmp/data of="+c.Pod+"/data bs=1M conv=fsync 2>/dev/null")
	c.standby()
	c.move()
	s.guest(t, "echo 3 > /proc/sys/vm/drop_caches")
	s.wantSum(t, c.Pod+"/data", sum)
	c.unpublish()
	c.delete()
	s.wantNothingLeft(t)
}
