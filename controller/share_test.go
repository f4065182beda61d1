package controller_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/spdk/volume"
	"github.com/holdfast-csi/holdfast/test/cluster"
)

// guest is a second CSI node.
const guest = "guest"

func sharedBlock(mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
	}
}

func (b *bench) publishTo(id, node string, c *csi.VolumeCapability) error {
	_, err := b.ControllerPublishVolume(within(b.t), &csi.ControllerPublishVolumeRequest{VolumeId: id, NodeId: node, VolumeCapability: c})
	return err
}

func (b *bench) unpublishFrom(id, node string) error {
	_, err := b.ControllerUnpublishVolume(within(b.t), &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: node})
	return err
}

// stagedBy puts on record that nodes have the volume staged, the first as its owner.
func (b *bench) stagedBy(id string, nodes ...string) {
	b.t.Helper()
	_, err := volume.Modify(within(b.t), b.Store, id, func(v *volume.Volume) (bool, error) {
		v.Owner, v.Review = nodes[0], false
		for _, node := range nodes {
			v.Publication(node).Staged = true
		}
		return true, nil
	})
	b.must(err)
}

// allowed are the hosts that the volume's target lets in.
func (b *bench) allowed(id string) []string {
	v := b.Record(id)
	return b.Observe(v).Nodes[v.Assembly.RaidHost].Target.Hosts
}

// keys are those that nodes have with a prefix.
func (b *bench) keys(prefix string) []string {
	return slices.DeleteFunc(b.Leftovers(), func(object string) bool { return !strings.Contains(object, "key "+prefix) })
}

func TestFileSystemForSeveralWritersIsRefused(t *testing.T) {
	b := newBench(t, 1, cluster.Options{})
	for mode, want := range map[csi.VolumeCapability_AccessMode_Mode]codes.Code{
		csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:  codes.InvalidArgument,
		csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER: codes.InvalidArgument,
		csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:   codes.OK,
	} {
		r := order(mode.String(), 8*mib, volume.ParamReplicas, "1")
		r.VolumeCapabilities[0].AccessMode.Mode = mode
		if _, err := b.create(r); status.Code(err) != want {
			t.Errorf("%s: %v, want %s", mode, err, want)
		}
	}
}

// The owner's node service is away: what is done for the guest is done by the controller.
func TestVolumeIsPublishedToAFurtherNode(t *testing.T) {
	b := newBench(t, 2, cluster.Options{})
	b.RegisterHosts(guest)
	shared := sharedBlock(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)
	id := made(b, "shared")
	b.must(b.publishTo(id, host, shared))
	b.stagedBy(id, host)
	err := b.publishTo(id, guest, sharedBlock(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER))
	if !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), "node "+host) {
		t.Fatalf("for one node: %v", err)
	}
	b.must(b.publishTo(id, guest, shared))
	b.must(b.publishTo(id, guest, shared))
	if v := b.Record(id); !slices.Equal(b.allowed(id), v.HostNQNs()) || len(v.Publications) != 2 || !v.Review {
		t.Fatalf("allowed are %v, on record %+v", b.allowed(id), v)
	}
	got, err := b.ControllerGetVolume(within(t), &csi.ControllerGetVolumeRequest{VolumeId: id})
	b.must(err)
	if nodes := got.GetStatus().GetPublishedNodeIds(); !slices.Equal(nodes, []string{host, guest}) {
		t.Errorf("published to %v", nodes)
	}
	// The owner's machine is lost: the guest, which has it staged, is the next.
	b.stagedBy(id, host, guest)
	_, err = volume.Modify(within(t), b.Store, id, func(v *volume.Volume) (bool, error) { v.Publication(guest).Staged = false; return true, nil })
	b.must(err)
	b.must(b.unpublishFrom(id, host))
	if v := b.Record(id); v.Owner != guest || !slices.Equal(b.allowed(id), []string{volume.HostNQN(guest)}) {
		t.Fatalf("allowed are %v, on record %+v", b.allowed(id), v)
	}
	b.must(b.unpublishFrom(id, guest))
	b.must(b.remove(id))
	b.WantEmpty()
}

func TestEveryStepOfPublishToAFurtherNodeMayFail(t *testing.T) {
	shared := sharedBlock(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)
	everyStep(t,
		func(b *bench, name string) string {
			b.RegisterHosts(guest)
			id, err := withKeys(b, name) // which takes more steps than without
			b.must(err)
			b.must(b.publishTo(id, host, shared))
			b.stagedBy(id, host)
			return id
		},
		func(b *bench, _, id string) error { return b.publishTo(id, guest, shared) },
		func(b *bench, id string) {
			if v := b.Record(id); !slices.Equal(b.allowed(id), v.HostNQNs()) || len(v.Publications) != 2 {
				b.t.Errorf("allowed are %v, on record %+v", b.allowed(id), v)
			}
			b.must(b.unpublishFrom(id, ""))
		})
}

// The owner is detached by force while another node has the volume published.
func TestEveryStepOfUnpublishFromTheOwnerMayFail(t *testing.T) {
	shared := sharedBlock(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER)
	everyStep(t,
		func(b *bench, name string) string {
			b.RegisterHosts(guest)
			id, err := withKeys(b, name) // which takes more steps than without
			b.must(err)
			b.must(b.publishTo(id, host, shared))
			b.must(b.publishTo(id, guest, shared))
			b.stagedBy(id, host)
			return id
		},
		func(b *bench, _, id string) error { return b.unpublishFrom(id, host) },
		func(b *bench, id string) {
			v := b.Record(id)
			if left := b.keys(v.HostKeyPrefix(volume.HostNQN(host))); len(left) > 0 {
				b.t.Errorf("of the former owner there are %v", left)
			}
			if v.Owner != guest || !slices.Equal(b.allowed(id), []string{volume.HostNQN(guest)}) {
				b.t.Errorf("allowed are %v, on record %+v", b.allowed(id), v)
			}
			b.must(b.unpublishFrom(id, ""))
		})
}
