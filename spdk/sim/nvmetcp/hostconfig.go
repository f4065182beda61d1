package nvmetcp

import (
	"context"
	"net"
	"time"

	"github.com/go-logr/logr"
)

// HostConfig describes one association of a host with a subsystem.
type HostConfig struct {
	// Addr is the target's address, host:port.
	Addr    string
	SubNQN  string
	HostNQN string
	HostID  [16]byte
	// IOQueues is the number of I/O queues asked for; the target may grant
	// fewer. 0 is 1.
	IOQueues int
	// QueueDepth is the number of entries of an I/O queue, cut to what the
	// target offers. 0 is 128.
	QueueDepth int
	// KATO is the keep-alive timeout asked for, in whole milliseconds; 0 is none.
	// Controller.GrantedKATO tells what the target made of it.
	KATO time.Duration
	// KeepAlive chooses who sends keep-alives.
	KeepAlive KeepAlivePolicy
	// HeaderDigest and DataDigest ask for CRC32C digests of PDU headers and data.
	HeaderDigest, DataDigest bool
	// Auth is how the host authenticates; nil is not at all.
	Auth *HostAuth
	// ConnectTimeout bounds each step of connecting: the TCP connection, ICReq and
	// each command. 0 is 10 s.
	ConnectTimeout time.Duration
	// Dial opens the TCP connections; nil is a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Gate freezes the host together with whatever else shares it.
	Gate   *Gate
	Logger logr.Logger
}

// KeepAlivePolicy chooses who sends the keep-alives of an association.
type KeepAlivePolicy int

const (
	// KeepAliveManual leaves them to the caller: Controller.KeepAlive.
	KeepAliveManual KeepAlivePolicy = iota
	// KeepAliveAuto sends one every half of the granted timeout K and ends the
	// association when one is unanswered for K, as SPDK does
	// (nvme_ctrlr_keep_alive with timeout_us set).
	KeepAliveAuto
	// KeepAliveAsked does so with the timeout that was asked for, whatever was
	// granted: Linux never reads that (drivers/nvme/host/core.c).
	KeepAliveAsked
)

// NamespaceInfo is what Identify says of a namespace.
type NamespaceInfo struct {
	NSID      uint32
	SizeBytes int64
	BlockSize int
	NGUID     [16]byte
	UUID      [16]byte
	ANAGroup  uint32
}

// EventType tells what an Event is about.
type EventType int

// Events that a controller reports.
const (
	EventNamespaceChanged EventType = iota + 1
	EventANAChanged
)

// Event is an asynchronous event: the receiver looks again at the namespaces or
// ANA states.
type Event struct{ Type EventType }
