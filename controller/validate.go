package controller

import (
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// maxNameBytes is what the CSI specification grants a name or an ID ("Size Limits": 128 bytes for any string field).
const maxNameBytes = 128

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

// checkName says what is wrong with the name that a CO gives to what is to be made.
func checkName(name string) error {
	switch {
	case name == "":
		return invalid("name is empty")
	case len(name) > maxNameBytes:
		return invalid("name has %d bytes; the CSI specification allows %d", len(name), maxNameBytes)
	}
	return nil
}

// checkNoParameters refuses parameters of a class that has none.
func checkNoParameters(class string, parameters map[string]string) error {
	for key := range parameters {
		if !volume.IsReserved(key) {
			return invalid("parameter %s: a %s has no parameters", key, class)
		}
	}
	return nil
}

// accessModes are the access modes that are served.
var accessModes = map[csi.VolumeCapability_AccessMode_Mode]volume.AccessMode{
	csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER:        volume.AccessSingleNodeWriter,
	csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY:   volume.AccessSingleNodeReaderOnly,
	csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER: volume.AccessSingleNodeSingleWriter,
	csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:  volume.AccessSingleNodeMultiWriter,
	csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:    volume.AccessMultiNodeReaderOnly,
	csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER:  volume.AccessMultiNodeSingleWriter,
	csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:   volume.AccessMultiNodeMultiWriter,
}

// checkCapabilities says what, if anything, of the capabilities can't be served. Missing ones are the caller's fault.
func checkCapabilities(capabilities []*csi.VolumeCapability) error {
	if len(capabilities) == 0 {
		return fmt.Errorf("volume_capabilities is empty; name at least one access mode and access type")
	}
	for _, c := range capabilities {
		if err := checkCapability(c); err != nil {
			return err
		}
	}
	return nil
}

func checkCapability(c *csi.VolumeCapability) error {
	if c == nil {
		return fmt.Errorf("volume_capability is missing")
	}
	mode, ok := accessModes[c.GetAccessMode().GetMode()]
	if !ok {
		return fmt.Errorf("access mode %s is not supported; name one of the single-node or multi-node modes", c.GetAccessMode().GetMode())
	}
	switch {
	case c.GetMount() != nil && mode.MultiNode() && mode != volume.AccessMultiNodeReaderOnly:
		return fmt.Errorf("access mode %s is for raw block volumes (volumeMode: Block): no file system that is offered can be written while other nodes have it mounted; for a file system use one node (ReadWriteOnce) or readers only (ReadOnlyMany)",
			c.GetAccessMode().GetMode())
	case c.GetMount() != nil:
		if fs := c.GetMount().GetFsType(); fs != "" && !volume.ValidFSType(fs) {
			return fmt.Errorf("file system %q is not supported; use ext4 or xfs", fs)
		}
	case c.GetBlock() == nil:
		return fmt.Errorf("volume_capability has no access type; set mount or block")
	}
	return nil
}

// sizes reads a capacity range. limit 0 is none.
func sizes(r *csi.CapacityRange) (required, limit int64, err error) {
	required, limit = r.GetRequiredBytes(), r.GetLimitBytes()
	switch {
	case required < 0 || limit < 0:
		return 0, 0, invalid("capacity_range: required_bytes %d and limit_bytes %d must not be negative", required, limit)
	case limit > 0 && limit < required:
		return 0, 0, invalid("capacity_range: limit_bytes %d is below required_bytes %d", limit, required)
	case r != nil && required == 0 && limit == 0:
		return 0, 0, invalid("capacity_range: set required_bytes, limit_bytes or both")
	}
	return required, limit, nil
}
