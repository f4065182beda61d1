//go:build e2e

package driver

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/spdk/sim"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// claim is a volume as a CO uses it. It notes how long each call took.
type claim struct {
	*stack
	t            *testing.T
	id           string
	capability   *csi.VolumeCapability
	staging, pod string

	mu   sync.Mutex
	took []string
}

func newClaim(t *testing.T, s *stack, fsType string, parameters map[string]string) *claim {
	t.Helper()
	c := &claim{stack: s, t: t, capability: &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}}
	if fsType == "" {
		c.capability.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	} else {
		c.capability.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType}}
	}
	name := strings.ReplaceAll(t.Name(), "/", "-") + "-" + fsType
	c.do("CreateVolume", func(ctx context.Context) error {
		resp, err := s.controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
			Name: name, VolumeCapabilities: []*csi.VolumeCapability{c.capability}, CapacityRange: &csi.CapacityRange{RequiredBytes: 320 << 20}, Parameters: parameters,
		})
		c.id = resp.GetVolume().GetVolumeId()
		return err
	})
	c.staging, c.pod = "/mnt/staging-"+c.id, "/mnt/pod-"+c.id
	s.guest(t, "mkdir -p "+c.staging)
	return c
}

// do makes one call, which must succeed.
func (c *claim) do(call string, f func(ctx context.Context) error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), long)
	defer cancel()
	begin := time.Now()
	if err := f(ctx); err != nil {
		c.t.Fatalf("%s: %v", call, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.took = append(c.took, fmt.Sprintf("%-28s %8.3f s", call, time.Since(begin).Seconds()))
}

func (c *claim) publish() {
	c.t.Helper()
	c.do("ControllerPublishVolume", func(ctx context.Context) error {
		_, err := c.controller.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{VolumeId: c.id, NodeId: nodeName, VolumeCapability: c.capability})
		return err
	})
	c.do("NodeStageVolume", func(ctx context.Context) error {
		_, err := c.node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: c.id, StagingTargetPath: c.staging, VolumeCapability: c.capability})
		return err
	})
	c.do("NodePublishVolume", func(ctx context.Context) error {
		_, err := c.node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{VolumeId: c.id, StagingTargetPath: c.staging, TargetPath: c.pod, VolumeCapability: c.capability})
		return err
	})
}

func (c *claim) unpublish() {
	c.t.Helper()
	c.do("NodeUnpublishVolume", func(ctx context.Context) error {
		_, err := c.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: c.id, TargetPath: c.pod})
		return err
	})
	c.do("NodeUnstageVolume", func(ctx context.Context) error {
		_, err := c.node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: c.id, StagingTargetPath: c.staging})
		return err
	})
	c.do("ControllerUnpublishVolume", func(ctx context.Context) error {
		_, err := c.controller.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: c.id, NodeId: nodeName})
		return err
	})
}

func (c *claim) delete() {
	c.t.Helper()
	c.do("DeleteVolume", func(ctx context.Context) error {
		_, err := c.controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: c.id})
		return err
	})
	c.guest(c.t, "rmdir "+c.staging)
	c.t.Logf("calls of volume %s:\n%s", c.id, strings.Join(c.took, "\n"))
}

// randomFile writes 32 MiB into the guest's memory and returns its checksum.
func (s *stack) randomFile(t *testing.T, path string) string {
	t.Helper()
	return s.guest(t, "dd if=/dev/urandom of="+path+" bs=1M count=32 2>/dev/null && sha256sum "+path+" | cut -d' ' -f1")
}

func (s *stack) wantSum(t *testing.T, path, sum string) {
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
			sum := s.randomFile(t, c.pod+"/data")
			c.unpublish()
			c.publish()
			s.wantSum(t, c.pod+"/data", sum)
			stats, err := s.node.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: c.id, VolumePath: c.pod})
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
	s.guest(t, "dd if=/tmp/data of="+c.pod+" bs=1M conv=fsync 2>/dev/null")
	c.unpublish()
	c.publish()
	s.wantSum(t, c.pod, sum)
	c.unpublish()
	c.delete()
	s.wantNothingLeft(t)
}

func TestTwoVolumesAtOnceDontMeet(t *testing.T) {
	s := run(t)
	a, b := newClaim(t, s, "ext4", nil), newClaim(t, s, "xfs", nil)
	a.publish()
	b.publish()
	sumA, sumB := s.randomFile(t, a.pod+"/data"), s.randomFile(t, b.pod+"/data")
	s.wantSum(t, a.pod+"/data", sumA)
	a.unpublish()
	s.wantSum(t, b.pod+"/data", sumB)
	b.unpublish()
	b.publish()
	a.publish()
	s.wantSum(t, a.pod+"/data", sumA)
	s.wantSum(t, b.pod+"/data", sumB)
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
	s.guest(t, "echo kept > "+c.pod+"/data")
	target := c.pod + "-ro"
	c.do("NodePublishVolume read-only", func(ctx context.Context) error {
		_, err := s.node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{VolumeId: c.id, StagingTargetPath: c.staging, TargetPath: target, VolumeCapability: c.capability, Readonly: true})
		return err
	})
	if got := s.guest(t, "cat "+target+"/data; echo x > "+target+"/new 2>/dev/null && echo written || true"); got != "kept" {
		t.Errorf("through the read-only target: %q", got)
	}
	c.do("NodeUnpublishVolume read-only", func(ctx context.Context) error {
		_, err := s.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: c.id, TargetPath: target})
		return err
	})
	c.unpublish()
	c.delete()
	s.wantNothingLeft(t)
}

// writeFiles writes 150 files in the guest, syncing each, until done, and returns the checksum of all. A write that fails is an
// error of the test.
func (c *claim) writeFiles() <-chan string {
	load := "i=0; while [ $i -lt 150 ]; do dd if=/dev/urandom of=" + c.pod + "/f$i bs=64k count=4 conv=fsync 2>/dev/null || exit 1; i=$((i+1)); done; cat " +
		c.pod + "/f* | sha256sum"
	written := make(chan string, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), long)
		defer cancel()
		out, err := c.vm.Output(ctx, "sh", "-c", load)
		if err != nil {
			c.t.Errorf("the pod's writes failed: %v", err)
		}
		written <- strings.TrimSpace(out)
	}()
	c.guest(c.t, "while [ ! -e "+c.pod+"/f20 ]; do sleep 0.1; done")
	return written
}

func (c *claim) wantFiles(sum string) {
	c.t.Helper()
	if got := c.guest(c.t, "cat "+c.pod+"/f* | sha256sum"); got != sum {
		c.t.Errorf("read back %s, written %s", got, sum)
	}
}

// A replica's node is killed while a pod writes: the volume goes on without an I/O error, the data are whole, and the replica, which
// has missed writes, is left out when the volume is next used although its node is back.
func TestKilledReplicaDoesNotDisturbThePod(t *testing.T) {
	s := run(t)
	if len(s.sims) == 0 {
		t.Skip("real targets are not killed by this test: that is for the fault matrix")
	}
	c := newClaim(t, s, "ext4", nil)
	c.publish()
	victim := s.sims[0]
	if victim.Name() == s.raidHost(t) {
		victim = s.sims[1]
	}
	written := c.writeFiles()
	victim.Kill()
	sum := <-written
	must(t, victim.Restart())
	c.unpublish()
	c.publish()
	if on := s.legs(t); strings.Contains(on, victim.Name()) {
		t.Errorf("the replica that missed writes is a leg again: %s", on)
	}
	c.wantFiles(sum)
	c.unpublish()
	c.delete()
	s.wantNothingLeft(t)
}

// The raid host's SPDK process ends while a pod writes and starts again, as in an upgrade: its configuration is gone, the node
// service makes raid and target again, and the pod sees a pause.
func TestRestartedRaidHostDoesNotDisturbThePod(t *testing.T) {
	s := run(t)
	if len(s.sims) == 0 {
		t.Skip("real targets are not killed by this test: that is for the fault matrix")
	}
	c := newClaim(t, s, "ext4", nil)
	c.publish()
	var host *sim.Node
	for _, node := range s.sims {
		if node.Name() == s.raidHost(t) {
			host = node
		}
	}
	written := c.writeFiles()
	host.Kill()
	must(t, host.Restart())
	c.wantFiles(<-written)
	c.unpublish()
	c.publish()
	s.guest(t, "ls "+c.pod+"/f149")
	c.unpublish()
	c.delete()
	s.wantNothingLeft(t)
}
