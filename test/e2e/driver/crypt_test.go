//go:build e2e

package driver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/node"
	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/stack"
)

// plaintext is what pods write; it must reach no replica of an encrypted volume.
const plaintext = "plain text that nobody may see"

// rightSecret and wrongSecret are what comes with calls.
var (
	rightSecret = map[string]string{node.SecretPassphrase: "correct horse"}
	wrongSecret = map[string]string{node.SecretPassphrase: "battery staple"}
)

// writePlaintext writes 32 MiB of it to a file and returns their checksum.
func (c *claim) writePlaintext(path string) string {
	c.t.Helper()
	return c.s.guest(c.t, fmt.Sprintf("yes '%s' | head -c 33554432 > %s; sync; head -c 33554432 %s | sha256sum | cut -d' ' -f1", plaintext, path, path))
}

func (c *claim) wantReplicasWithPlaintext(some bool) {
	c.t.Helper()
	v, err := c.Record(c.t.Context())
	must(c.t, err)
	with, all, err := c.s.ReplicasWith(c.t.Context(), v, []byte(plaintext))
	must(c.t, err)
	if all != 2 || some != (with > 0) {
		c.t.Errorf("%d of %d replicas hold plain text", with, all)
	}
}

// beginMove has the volume move to its standby's node, and returns from where.
func (c *claim) beginMove() (from string) {
	c.t.Helper()
	must(c.t, c.Do(c.t.Context(), "move", func(ctx context.Context) error {
		_, err := volume.Modify(ctx, c.s.Store, c.ID, func(v *volume.Volume) (bool, error) {
			if v.Standby == nil {
				return false, errors.New("there is no standby to move to")
			}
			from, v.MoveTo = v.Assembly.RaidHost, v.Standby.RaidHost
			return true, nil
		})
		return err
	}))
	return from
}

// runsElsewhere says whether the volume runs, and not where it ran.
func runsElsewhere(from string) func(v *volume.Volume) bool {
	return func(v *volume.Volume) bool { return v.Assembly.RaidHost != from && !v.Assembly.Held }
}

// move has the volume run on its standby's node.
func (c *claim) move() {
	c.t.Helper()
	c.until("it is moved", runsElsewhere(c.beginMove()))
}

// restartNode kills the node service and returns when its successor answers.
func (s *suite) restartNode(t *testing.T) {
	t.Helper()
	must(t, s.KillNode(t.Context()))
	must(t, s.StartNode(t.Context()))
	for end := time.Now().Add(stack.Patience); ; time.Sleep(100 * time.Millisecond) {
		_, err := s.Node.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func newEncrypted(t *testing.T, s *suite, fsType string) *claim {
	t.Helper()
	c, err := s.Claim(t.Context(), stack.ClaimSpec{
		Name: strings.ReplaceAll(t.Name(), "/", "-"), FSType: fsType, SizeBytes: 320 << 20, Secrets: rightSecret,
		Parameters: map[string]string{volume.ParamReplicas: "2", volume.ParamEncryption: string(volume.EncryptionLUKS2)},
	})
	must(t, err)
	return &claim{c, s, t}
}

func TestEncryptedFileSystemLivesOnTheKernel(t *testing.T) {
	s := run(t)
	for _, fsType := range []string{"ext4", "xfs"} {
		t.Run(fsType, func(t *testing.T) {
			c := newEncrypted(t, s, fsType)
			c.publish()
			sum := c.writePlaintext(c.Pod + "/data")
			c.wantRoom(320 << 20)
			c.unpublish()

			c.Secrets = wrongSecret
			if err := c.Publish(t.Context()); status.Code(err) != codes.Unauthenticated || strings.Contains(err.Error(), wrongSecret[node.SecretPassphrase]) {
				t.Fatalf("with a wrong passphrase: %v", err)
			}
			c.unpublish()
			c.Secrets = rightSecret
			c.publish()
			s.wantSum(t, c.Pod+"/data", sum)

			c.standby()
			c.expand(online, true)
			c.wantRoom(online)
			c.standby()
			c.move()
			s.guest(t, "echo 3 > /proc/sys/vm/drop_caches; fstrim "+c.Pod)
			s.wantSum(t, c.Pod+"/data", sum)
			stats, err := s.Node.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: c.ID, VolumePath: c.Pod})
			if err != nil || stats.GetUsage()[0].GetUsed() < 32<<20 {
				t.Errorf("statistics: %v, %v", stats, err)
			}
			s.restartNode(t) // what is open is its successor's
			c.unpublish()
			c.wantReplicasWithPlaintext(false)
			c.delete()
			s.wantNothingLeft(t)
		})
	}
}

func TestEncryptedRawBlockLivesOnTheKernel(t *testing.T) {
	s := run(t)
	c := newEncrypted(t, s, "")
	c.publish()
	sum := c.writePlaintext("/tmp/data")
	write := "dd if=/tmp/data of=" + c.Pod + " bs=1M conv=fsync 2>/dev/null"
	s.guest(t, write)
	c.standby()
	c.expand(online, true)
	if got := s.bytes(t, "blockdev --getsize64 "+c.Pod); got != online {
		t.Errorf("the pod's device has %d bytes", got)
	}
	s.restartNode(t)
	c.unpublish()
	c.publish()
	s.wantSum(t, c.Pod, sum)
	c.unpublish()
	c.wantReplicasWithPlaintext(false)
	c.delete()

	plain := newClaim(t, s, "", map[string]string{volume.ParamReplicas: "2"}) // what would be seen if it weren't encrypted
	plain.publish()
	s.guest(t, "dd if=/tmp/data of="+plain.Pod+" bs=1M conv=fsync 2>/dev/null; rm /tmp/data")
	plain.unpublish()
	plain.wantReplicasWithPlaintext(true)
	plain.delete()
	s.wantNothingLeft(t)
}
