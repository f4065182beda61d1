package volume

import "github.com/google/uuid"

// Encryption is how the host encrypts what it writes to a volume.
type Encryption string

// Encryptions.
const (
	// EncryptionNone: bytes reach the replicas as they are written.
	EncryptionNone Encryption = "none"
	// EncryptionLUKS2: the host puts LUKS2 between the volume's device and what uses it; SPDK nodes see ciphertext.
	EncryptionLUKS2 Encryption = "luks2"
)

// orDefault is the encryption of a record that was written when there was none.
func (e Encryption) orDefault() Encryption {
	if e == "" {
		return EncryptionNone
	}
	return e
}

// LUKSHeaderBytes is what LUKS2 keeps for itself at the start of a device: two headers and the key slots. It is cryptsetup's own choice
// where nothing else asks for an alignment, and is given to it, so that it never depends on the device.
const LUKSHeaderBytes = 16 << 20

// Encrypted says whether volumes with these parameters are encrypted by the host.
func (p Parameters) Encrypted() bool { return p.Encryption.orDefault() == EncryptionLUKS2 }

// HeaderBytes is what a volume with these parameters keeps of its size for itself, in bytes.
func (p Parameters) HeaderBytes() int64 { return p.Encryption.headerBytes() }

func (e Encryption) headerBytes() int64 {
	if e.orDefault() == EncryptionLUKS2 {
		return LUKSHeaderBytes
	}
	return 0
}

// CapacityBytes is what a pod can use of the volume: its size without its header.
func (v *Volume) CapacityBytes() int64 { return v.SizeBytes - v.Parameters.HeaderBytes() }

// CapacityBytes is what a volume must offer to hold what the snapshot's source offered.
func (s *Snapshot) CapacityBytes() int64 { return s.SizeBytes - s.Encryption.headerBytes() }

// SameEncryption says whether a volume with these parameters can be made of something that is encrypted in the given way.
func (p Parameters) SameEncryption(e Encryption) bool {
	return p.Encryption.orDefault() == e.orDefault()
}

// MappingName is the device mapper's name of an encrypted volume's open LUKS device on a host. It names the incarnation: a volume made
// again under its old name never meets what the old one has left open.
func MappingName(u uuid.UUID) string { return "holdfast-" + u.String() }
