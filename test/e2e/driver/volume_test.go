//go:build e2e

package driver

import (
	"context"
	"strconv"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/stack"
)

// claim is a volume as a CO uses it, of which every call must succeed.
type claim struct {
	*stack.Claim
	s *suite
	t *testing.T
}

func newClaim(t *testing.T, s *suite, fsType string, parameters map[string]string) *claim {
	t.Helper()
	return newClaimThat(t, s, false, fsType, parameters)
}

// newClaimThat makes failed calls again, if retry says so, as a CO does.
func newClaimThat(t *testing.T, s *suite, retry bool, fsType string, parameters map[string]string) *claim {
	t.Helper()
	c, err := s.Claim(t.Context(), stack.ClaimSpec{
		Name: strings.ReplaceAll(t.Name(), "/", "-") + "-" + fsType, FSType: fsType, SizeBytes: 320 << 20, Parameters: parameters, Retry: retry,
	})
	must(t, err)
	return &claim{c, s, t}
}

func (c *claim) publish() {
	c.t.Helper()
	must(c.t, c.Publish(c.t.Context()))
}

func (c *claim) unpublish() {
	c.t.Helper()
	must(c.t, c.Unpublish(c.t.Context()))
}

func (c *claim) delete() {
	c.t.Helper()
	must(c.t, c.Delete(c.t.Context()))
	c.s.guest(c.t, "rmdir "+c.Staging())
	c.t.Logf("calls of volume %s:\n%s", c.ID, c.Took())
}

// randomFile writes 32 MiB into the guest's memory and returns its checksum.
func (s *suite) randomFile(t *testing.T, path string) string {
	t.Helper()
	return s.guest(t, "dd if=/dev/urandom of="+path+" bs=1M count=32 2>/dev/null && sha256sum "+path+" | cut -d' ' -f1")
}

func (s *suite) wantSum(t *testing.T, path, sum string) {
	t.Helper()
	if got := s.guest(t, "head -c 33554432 "+path+" | sha256sum | cut -d' ' -f1"); got != sum {
		t.Errorf("%s reads back with checksum %s, written was %s", path, got, sum)
	}
}

func TestFileSystemKeepsItsDataAcrossStages(t *testing.T) {
	s := run(t)
	for _, fsType := range []string{"ext4", "xfs"} {
		t.Run(fsType, func(t *testing.T) {
			c := newClaim(t, s, fsType, nil)
			c.publish()
			sum := s.randomFile(t, c.Pod+"/data")
			c.unpublish()
			c.publish()
			s.wantSum(t, c.Pod+"/data", sum)
			stats, err := s.Node.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: c.ID, VolumePath: c.Pod})
			if err != nil || len(stats.GetUsage()) != 2 || stats.GetUsage()[0].GetUsed() < 32<<20 {
				t.Errorf("statistics: %v, %v", stats, err)
			}
			c.unpublish()
			c.delete()
			s.wantNothingLeft(t)
		})
	}
}

func TestRawBlockKeepsItsDataAcrossStages(t *testing.T) {
	s := run(t)
	c := newClaim(t, s, "", map[string]string{volume.ParamReplicas: "2"})
	c.publish()
	sum := s.randomFile(t, "/tmp/data")
	s.guest(t, "dd if=/tmp/data of="+c.Pod+" bs=1M conv=fsync 2>/dev/null")
	c.unpublish()
	c.publish()
	s.wantSum(t, c.Pod, sum)
	c.unpublish()
	c.delete()
	s.wantNothingLeft(t)
}

func TestTwoVolumesAtOnceDontMeet(t *testing.T) {
	s := run(t)
	a, b := newClaim(t, s, "ext4", nil), newClaim(t, s, "xfs", nil)
	a.publish()
	b.publish()
	sumA, sumB := s.randomFile(t, a.Pod+"/data"), s.randomFile(t, b.Pod+"/data")
	s.wantSum(t, a.Pod+"/data", sumA)
	a.unpublish()
	s.wantSum(t, b.Pod+"/data", sumB)
	b.unpublish()
	b.publish()
	a.publish()
	s.wantSum(t, a.Pod+"/data", sumA)
	s.wantSum(t, b.Pod+"/data", sumB)
	for _, c := range []*claim{a, b} {
		c.unpublish()
		c.delete()
	}
	s.wantNothingLeft(t)
}

func TestReadOnlyPublicationRefusesWrites(t *testing.T) {
	s := run(t)
	c := newClaim(t, s, "ext4", nil)
	c.publish()
	s.guest(t, "echo kept > "+c.Pod+"/data")
	target := c.Pod + "-ro"
	must(t, c.Do(t.Context(), "NodePublishVolume read-only", func(ctx context.Context) error {
		_, err := s.Node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{VolumeId: c.ID, StagingTargetPath: c.Staging(), TargetPath: target, VolumeCapability: c.Capability(), Readonly: true})
		return err
	}))
	if got := s.guest(t, "cat "+target+"/data; echo x > "+target+"/new 2>/dev/null && echo written || true"); got != "kept" {
		t.Errorf("through the read-only target: %q", got)
	}
	must(t, c.Do(t.Context(), "NodeUnpublishVolume read-only", func(ctx context.Context) error {
		_, err := s.Node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: c.ID, TargetPath: target})
		return err
	}))
	c.unpublish()
	c.delete()
	s.wantNothingLeft(t)
}

// writeFiles writes so many files, more than 20, in the guest, syncing each, until done, and returns the checksum of all. A write that
// fails is an error of the test.
func (c *claim) writeFiles(files int) <-chan string {
	load := "i=0; while [ $i -lt " + strconv.Itoa(files) + " ]; do dd if=/dev/urandom of=" + c.Pod + "/f$i bs=64k count=4 conv=fsync 2>/dev/null || exit 1; i=$((i+1)); done; cat " +
		c.Pod + "/f* | sha256sum"
	written := make(chan string, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), stack.Patience)
		defer cancel()
		out, err := c.s.Machine.Output(ctx, "sh", "-c", load)
		if err != nil {
			c.t.Errorf("the pod's writes failed: %v", err)
		}
		written <- strings.TrimSpace(out)
	}()
	c.s.guest(c.t, "while [ ! -e "+c.Pod+"/f20 ]; do sleep 0.1; done")
	return written
}

func (c *claim) wantFiles(sum string) {
	c.t.Helper()
	if got := c.s.guest(c.t, "cat "+c.Pod+"/f* | sha256sum"); got != sum {
		c.t.Errorf("read back %s, written %s", got, sum)
	}
}

// skipReal skips a test that kills targets where they are not simulated.
func skipReal(t *testing.T, s *suite) {
	t.Helper()
	if !s.Simulated() {
		t.Skip("real targets are not killed by this test: that is for the fault matrix (test/faults)")
	}
}

// A replica's node is killed while a pod writes: the volume goes on without an I/O error, and the data are whole when it is next used,
// although its node is back with a replica that has missed writes.
func TestKilledReplicaDoesNotDisturbThePod(t *testing.T) {
	s := run(t)
	skipReal(t, s)
	c := newClaim(t, s, "ext4", nil)
	c.publish()
	victim := s.Targets[0]
	if victim == c.raidHost() {
		victim = s.Targets[1]
	}
	written := c.writeFiles(150)
	must(t, victim.Set(t.Context(), stack.Killed, true))
	sum := <-written
	must(t, victim.Set(t.Context(), stack.Killed, false))
	c.unpublish()
	c.publish()
	c.wantFiles(sum)
	c.unpublish()
	c.delete()
	s.wantNothingLeft(t)
}

// The raid host's SPDK process ends while a pod writes and starts again, as in an upgrade: its configuration is gone, the node
// service makes raid and target again, and the pod sees a pause.
func TestRestartedRaidHostDoesNotDisturbThePod(t *testing.T) {
	s := run(t)
	skipReal(t, s)
	c := newClaim(t, s, "ext4", nil)
	c.publish()
	host := c.raidHost()
	written := c.writeFiles(150)
	must(t, host.Set(t.Context(), stack.Killed, true))
	must(t, host.Set(t.Context(), stack.Killed, false))
	c.wantFiles(<-written)
	c.unpublish()
	c.publish()
	s.guest(t, "ls "+c.Pod+"/f149")
	c.unpublish()
	c.delete()
	s.wantNothingLeft(t)
}
