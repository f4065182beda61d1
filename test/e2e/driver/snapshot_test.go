//go:build e2e

package driver

import (
	"context"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/stack"
)

// made claims a volume of so many bytes that is made of something.
func (c *claim) made(name string, bytes int64, content *csi.VolumeContentSource) *claim {
	c.t.Helper()
	made, err := c.s.Claim(c.t.Context(), stack.ClaimSpec{Name: c.ID + " " + name, FSType: c.Capability().GetMount().GetFsType(), SizeBytes: bytes, Content: content})
	must(c.t, err)
	return &claim{made, c.s, c.t}
}

func ofSnapshot(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id}}}
}

func ofVolume(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id}}}
}

// fileSystemUUID is that of the file system at the pod's path.
func (c *claim) fileSystemUUID() string {
	c.t.Helper()
	return c.s.guest(c.t, "blkid -p -s UUID -o value $(findmnt -n -o SOURCE "+c.Pod+")")
}

// While a pod writes, with the kernel as host: a snapshot is taken without an I/O error, is the same on all replicas, and a larger volume made
// of it, and a clone, are mounted beside their source, whose file system they have.
func TestSnapshotOfAVolumeThatAPodWritesTo(t *testing.T) {
	s := run(t)
	for _, fsType := range []string{"ext4", "xfs"} {
		t.Run(fsType, func(t *testing.T) {
			c := newClaim(t, s, fsType, nil)
			c.publish()
			sum := s.randomFile(t, "/tmp/data")
			s.guest(t, "dd if=/tmp/data of="+c.Pod+"/data bs=1M conv=fsync 2>/dev/null")
			written := c.writeFiles(60)
			var snapshot *csi.Snapshot
			must(t, c.Do(t.Context(), "CreateSnapshot", func(ctx context.Context) error {
				resp, err := s.Controller.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: c.ID + " snapshot", SourceVolumeId: c.ID})
				snapshot = resp.GetSnapshot()
				return err
			}))
			if !snapshot.GetReadyToUse() {
				t.Errorf("the snapshot is %v", snapshot)
			}
			restored := c.made("restored", online, ofSnapshot(snapshot.GetSnapshotId()))
			clone := c.made("clone", 320<<20, ofVolume(c.ID))
			for _, made := range []*claim{restored, clone} {
				v, err := made.Record(t.Context())
				must(t, err)
				differing, err := s.CompareReplicas(t.Context(), v)
				if err != nil || differing != 0 || len(v.InState(volume.ReplicaInSync)) != 3 {
					t.Errorf("%d bytes differ among the replicas %+v, %v", differing, v.Replicas, err)
				}
				made.publish()
				made.wantRoom(v.SizeBytes)
				s.wantSum(t, made.Pod+"/data", sum)
				if uuid, of := made.fileSystemUUID(), c.fileSystemUUID(); uuid != of || uuid == "" {
					t.Errorf("the file system's UUID is %q, that of the source %q", uuid, of)
				}
				s.guest(t, "echo mine > "+made.Pod+"/new && ! test -e "+c.Pod+"/new")
			}
			c.wantFiles(<-written)
			for _, made := range []*claim{restored, clone} {
				made.unpublish()
				made.delete()
			}
			must(t, c.Do(t.Context(), "DeleteSnapshot", func(ctx context.Context) error {
				_, err := s.Controller.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snapshot.GetSnapshotId()})
				return err
			}))
			c.unpublish()
			c.delete()
			s.wantSwept(t)
		})
	}
}

// wantSwept waits for what the controller deletes by itself, and wants nothing to be left.
func (s *suite) wantSwept(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), stack.Patience)
	defer cancel()
	for ctx.Err() == nil {
		left, err := s.Store.ListSnapshots(ctx, "", 0)
		must(t, err)
		if len(left) == 0 {
			break
		}
		s.guest(t, "sleep 1")
	}
	s.wantNothingLeft(t)
}
