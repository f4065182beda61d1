package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// NQNPrefix starts every NVMe qualified name that Holdfast makes (NVM Express Base specification, "NVMe Qualified Names").
// Whatever carries it on a host or an SPDK node is Holdfast's; whatever does not is never touched.
const NQNPrefix = "nqn.2026-11.dev.holdfast.csi:"

// ObjectPrefix starts the name of every lvol, NVMe controller and raid bdev that Holdfast makes on an SPDK node.
const ObjectPrefix = "hf-"

// Limits of names. SPDK allows 63 characters for lvol and lvstore names (SPDK_LVOL_NAME_MAX in include/spdk/lvol.h, less its
// terminator) and NVMe 223 bytes for an NQN.
const (
	maxObjectName = 63
	maxNQN        = 223
)

// nameSpace is the name space of the version 5 UUIDs that this package derives.
var nameSpace = uuid.MustParse("6d1c3b52-6b0e-4a3e-9d2c-1f7c3c1a9a40")

// IDFor returns the CSI volume ID for a CreateVolume name: "hf-" and 32 hexadecimal digits. The same name always has the same
// ID, so that a CreateVolume retried by another instance of the controller finds the record of the first.
func IDFor(name string) string {
	return ObjectPrefix + digest(name)
}

// digest stands for a text of any length: 32 hexadecimal digits, of which the first are a digest, too.
func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// ValidID says whether s has the form of a volume ID.
func ValidID(s string) bool {
	rest, ok := strings.CutPrefix(s, ObjectPrefix)
	if !ok || len(rest) != 32 {
		return false
	}
	for _, c := range rest {
		if !strings.ContainsRune("0123456789abcdef", c) {
			return false
		}
	}
	return true
}

// NQN is the subsystem that a host attaches to use the volume. It names the incarnation, not the ID: a volume made again under
// the same name never meets a host that still holds the old one.
func (v *Volume) NQN() string { return NQNPrefix + "volume:" + v.UUID.String() }

// RaidName is the name of the volume's raid1 bdev on a raid host.
func (v *Volume) RaidName() string { return ObjectPrefix + compact(v.UUID) }

// RaidUUID is the UUID of the raid bdev. It differs from the namespace's: facts on duplicate UUIDs in docs/design.md.
func (v *Volume) RaidUUID() uuid.UUID {
	return uuid.NewSHA1(nameSpace, []byte("raid/"+v.UUID.String()))
}

// Serial is the volume's serial number as hosts see it, 20 characters at most (Identify Controller, SN).
func (v *Volume) Serial() string { return "HF" + compact(v.UUID)[:18] }

// LvolName is the name of a replica's lvol inside its lvstore.
func (v *Volume) LvolName(r Replica) string { return ObjectPrefix + compact(v.UUID) + "-" + r.ID }

// ReplicaNQN is the subsystem that exports a replica to the raid host.
func (v *Volume) ReplicaNQN(r Replica) string {
	return NQNPrefix + "replica:" + v.UUID.String() + ":" + r.ID
}

// ReplicaNSUUID is the UUID of a replica's exported namespace. It is not the lvol's: in the process that holds the lvol, too,
// the leg could not be attached.
func (v *Volume) ReplicaNSUUID(r Replica) uuid.UUID {
	return uuid.NewSHA1(nameSpace, []byte("replica/"+v.UUID.String()+"/"+r.ID))
}

// LegController is the name of the NVMe controller by which a raid host attaches a replica. Its bdev is this name and "n1".
func (v *Volume) LegController(r Replica) string { return v.LvolName(r) }

// ReplicaOf returns which replica an object on an SPDK node belongs to, by the name that LvolName, LegController or, with its
// "n1", the leg's bdev has.
func (v *Volume) ReplicaOf(name string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(name, v.RaidName()+"-")
	if !ok {
		return "", false
	}
	id = strings.TrimSuffix(rest, "n1")
	return id, v.Replica(id) != nil
}

// HostNQN is the NQN by which the Linux host of a CSI node connects. It derives from the node's name alone, so that the
// controller can allow the host before it has ever connected.
func HostNQN(node string) string { return NQNPrefix + "host:" + node }

// HostID is the NVMe host identifier that belongs to a host NQN. Linux refuses one NQN with two identifiers and the reverse
// (drivers/nvme/host/fabrics.c).
func HostID(hostNQN string) uuid.UUID { return uuid.NewSHA1(nameSpace, []byte(hostNQN)) }

// SPDKHostNQN is the NQN by which an SPDK node, as raid host, connects to replicas.
func SPDKHostNQN(node string) string { return NQNPrefix + "spdk:" + node }

// CheckNodeName says whether a node's name can stand in an NQN.
func CheckNodeName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("a node needs a name")
	case len(HostNQN(name)) > maxNQN:
		return fmt.Errorf("node name %q is too long: an NQN holds %d bytes, so a name at most %d", name, maxNQN, maxNQN-len(HostNQN("")))
	}
	for _, c := range name {
		if c <= ' ' || c > '~' || c == ',' || c == ':' {
			return fmt.Errorf("node name %q has %q: use printable ASCII without spaces, commas and colons", name, c)
		}
	}
	return nil
}

func compact(u uuid.UUID) string { return hex.EncodeToString(u[:]) }
