package condition

import (
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/converge"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// Picture is what the controller knows of everything at a time, for whoever shows it.
type Picture struct {
	Volumes []*volume.Volume
	Sight   Sight
	Nodes   []NodePicture
}

// NodePicture is an SPDK node of the configuration. LvStores are those that are used, as of a while ago; nil if it has not answered.
type NodePicture struct {
	*converge.Node
	LvStores []spdk.LvStore
}
