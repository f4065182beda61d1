package nvmetcp

import (
	"net"
	"time"

	"github.com/go-logr/logr"
)

// TargetConfig holds what nvmf_create_transport sets in SPDK. Zero values stand
// for SPDK's defaults (lib/nvmf/tcp.c, struct spdk_nvmf_transport_opts).
type TargetConfig struct {
	// Listen opens a listening socket; nil is net.Listen.
	Listen func(network, addr string) (net.Listener, error)
	// Gate freezes the target together with whatever else shares it; nil gives
	// the target a gate of its own. SetHung shuts it.
	Gate *Gate
	// KeepAliveUnits is the granularity of the keep-alive timer (KAS) in units
	// of 100 ms. 0 is 100 units, 10 s.
	KeepAliveUnits int
	// MinKATO is the shortest keep-alive timeout granted. It is raised to one
	// KAS unit, as SPDK does.
	MinKATO time.Duration
	// MaxQueueDepth is the number of entries of an I/O queue. 0 is 128.
	MaxQueueDepth int
	// MaxIOQueues is the number of I/O queues of one controller. 0 is 127.
	MaxIOQueues int
	// MaxIOSize is the largest transfer of one command in bytes, MDTS. 0 is 128 KiB.
	MaxIOSize int
	// InCapsuleDataSize is the number of bytes of write data that may come with
	// a command. 0 is 4096.
	InCapsuleDataSize int
	// AssociationTimeout is how long a controller outlives its shutdown or reset
	// while the host does not disconnect. 0 is 120 s.
	AssociationTimeout time.Duration
	Logger             logr.Logger
}

// SubsystemConfig describes a subsystem as nvmf_create_subsystem does.
type SubsystemConfig struct {
	// NQN is the subsystem's name, at most 223 bytes.
	NQN string
	// Serial and Model have at most 20 and 40 ASCII characters. Empty Model is
	// "SPDK bdev Controller", empty Serial is twenty zeroes.
	Serial, Model string
	// MinCNTLID and MaxCNTLID bound the controller ids that the subsystem hands
	// out; 0 is 1 and 0xffef.
	MinCNTLID, MaxCNTLID uint16
	ANAReporting         bool
	AllowAnyHost         bool
	// MaxNamespaces bounds the namespace ids; 0 is 32.
	MaxNamespaces uint32
}

// NamespaceConfig describes a namespace as nvmf_subsystem_add_ns does.
type NamespaceConfig struct {
	// NSID is 1 to the subsystem's MaxNamespaces.
	NSID   uint32
	Device Device
	NGUID  [16]byte
	UUID   [16]byte
	// ANAGroupID is 1 to MaxNamespaces; 0 is the NSID.
	ANAGroupID uint32
}

// ControllerInfo describes an association that a subsystem has at present.
type ControllerInfo struct {
	CNTLID  uint16
	HostNQN string
	HostID  [16]byte
	// ListenAddr is the target's address that the host connected to, PeerAddr the host's.
	ListenAddr, PeerAddr string
	// Queues is the number of connected I/O queues.
	Queues int
	// KATO is the granted keep-alive timeout, 0 if there is none.
	KATO time.Duration
}
