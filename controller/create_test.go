package controller

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

func TestVolumeForXFSIsAtLeastAsLargeAsMkfsWants(t *testing.T) {
	mount := func(fsType string) *csi.VolumeCapability {
		return &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType}}}
	}
	block := &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}}
	for name, c := range map[string]struct {
		capability *csi.VolumeCapability
		byDefault  string
		want       int64
	}{
		"asked for":                {mount("xfs"), "ext4", leastXFSBytes},
		"by default":               {mount(""), "xfs", leastXFSBytes},
		"ext4 over xfs":            {mount("ext4"), "xfs", 0},
		"raw block with a default": {block, "xfs", 0},
	} {
		if got := leastBytes([]*csi.VolumeCapability{c.capability}, volume.Parameters{FSType: c.byDefault}); got != c.want {
			t.Errorf("%s: got %d, want %d", name, got, c.want)
		}
	}
}
