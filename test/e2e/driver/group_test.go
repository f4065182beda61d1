//go:build e2e

package driver

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/test/stack"
)

// numberAt prints the number that is at the beginning of a file or device, past the page cache.
const numberAt = "dd bs=4k count=1 iflag=direct 2>/dev/null if="

// ordered writes 1 to the first path, then 1 to the second, then 2 to the first, and so on, past the page cache, until the file /tmp/enough
// is there. So the first is never behind the second, and at most one ahead. /tmp/written has the last number that is in both.
func (s *suite) ordered(t *testing.T, first, second string) <-chan error {
	t.Helper()
	put := func(path string) string {
		return "printf '%-4096d' $i | dd of=" + path + " bs=4k oflag=direct conv=notrunc iflag=fullblock 2>/dev/null"
	}
	// What is overwritten later must be there for good: only then is a write past the page cache on the volume when it has ended.
	s.guest(t, "rm -f /tmp/enough /tmp/written; for f in "+first+" "+second+"; do dd if=/dev/zero of=$f bs=4k count=1 conv=notrunc,fsync 2>/dev/null; done")
	ended := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), stack.Patience)
		defer cancel()
		_, err := s.Machine.Output(ctx, "sh", "-ec", "i=0; while [ ! -e /tmp/enough ]; do i=$((i+1)); "+put(first)+"; "+put(second)+"; echo $i > /tmp/new; mv /tmp/new /tmp/written; done")
		ended <- err
	}()
	s.guest(t, "while [ ! -e /tmp/written ]; do sleep 0.1; done")
	return ended
}

func (s *suite) number(t *testing.T, command string) int {
	t.Helper()
	out := s.guest(t, command)
	n, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	return n
}

// A program writes to a file system on one volume, then to another volume, again and again. Of each group snapshot both are restored, the
// file system beside its source: what was written last is in the second only if it is in the first.
func TestGroupSnapshotKeepsTheOrderOfWrites(t *testing.T) {
	s := run(t)
	files, block := newClaimThat(t, s, true, "xfs", nil), newClaimThat(t, s, true, "", nil)
	for _, c := range []*claim{files, block} {
		c.publish()
		c.standby()
	}
	ended := s.ordered(t, files.Pod+"/number", block.Pod)
	before := s.number(t, "cat /tmp/written")
	for i := range 2 {
		id, members := s.groupSnapshot(t, fmt.Sprintf("%s %d", t.Name(), i), files, block)
		after := s.number(t, "cat /tmp/written")
		first := files.made(fmt.Sprint("restored ", i), 320<<20, ofSnapshot(members[files.ID]))
		second := block.made(fmt.Sprint("restored ", i), 320<<20, ofSnapshot(members[block.ID]))
		for _, c := range []*claim{first, second} {
			c.publish()
		}
		a, b := s.number(t, numberAt+first.Pod+"/number"), s.number(t, numberAt+second.Pod)
		t.Logf("between %d and %d written: %d in the first and %d in the second", before, after, a, b)
		if b > a || a > b+1 || b < before || b > after+1 {
			t.Errorf("%d in the first and %d in the second, with %d written before and %d after", a, b, before, after)
		}
		for _, c := range []*claim{first, second} {
			c.unpublish()
			c.delete()
		}
		_, err := s.Groups.DeleteVolumeGroupSnapshot(t.Context(), &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: id, SnapshotIds: []string{members[files.ID], members[block.ID]}})
		must(t, err)
		before = s.number(t, "cat /tmp/written")
	}
	s.guest(t, "touch /tmp/enough")
	must(t, <-ended)
	for _, c := range []*claim{files, block} {
		c.unpublish()
		c.delete()
	}
	s.wantSwept(t)
}

// groupSnapshot takes one, as a CO does until it succeeds, and returns its ID and the snapshot of each volume.
func (s *suite) groupSnapshot(t *testing.T, name string, claims ...*claim) (id string, members map[string]string) {
	t.Helper()
	var ids []string
	for _, c := range claims {
		ids = append(ids, c.ID)
	}
	begin := time.Now()
	members = map[string]string{}
	must(t, claims[0].Do(t.Context(), "CreateVolumeGroupSnapshot", func(ctx context.Context) error {
		resp, err := s.Groups.CreateVolumeGroupSnapshot(ctx, &csi.CreateVolumeGroupSnapshotRequest{Name: name, SourceVolumeIds: ids})
		id = resp.GetGroupSnapshot().GetGroupSnapshotId()
		for _, sn := range resp.GetGroupSnapshot().GetSnapshots() {
			members[sn.GetSourceVolumeId()] = sn.GetSnapshotId()
		}
		return err
	}))
	t.Logf("a group snapshot after %s", time.Since(begin).Round(time.Millisecond))
	if len(members) != len(claims) {
		t.Fatalf("the group has %v", members)
	}
	return id, members
}
