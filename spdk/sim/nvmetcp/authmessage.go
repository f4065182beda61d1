package nvmetcp

import "github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp/dhchap"

// Authentication messages: type, identifier, transaction, then what each has (NVM Express Base 2.0, 8.13.5).
const (
	authCommon, authDHCHAP = 0x00, 0x01

	authNegotiate = 0x00
	authChallenge = 0x01
	authReply     = 0x02
	authSuccess1  = 0x03
	authSuccess2  = 0x04
	authFailure2  = 0xf0
	authFailure1  = 0xf1

	authHeader     = 8  // of the negotiation and of failures
	authDescriptor = 64 // one protocol of the negotiation
	authBody       = 16 // of the messages of DH-HMAC-CHAP, before what is as long as the hash
)

// authFailed is the one reason code of failures; what explains it comes after.
const authFailed = 1

// AuthReason explains why an authentication failed.
type AuthReason uint8

// Reasons (NVM Express Base 2.0, 8.13.5.7).
const (
	AuthFailed          AuthReason = 1
	AuthNoProtocol      AuthReason = 2
	AuthNoConcatenation AuthReason = 3
	AuthNoHash          AuthReason = 4
	AuthNoGroup         AuthReason = 5
	AuthBadPayload      AuthReason = 6
	AuthBadMessage      AuthReason = 7
)

// Security protocol of authentication commands: identifier and both specific bytes.
const (
	authSECP   = 0xe9
	authSPSP   = 1
	authLength = 44 // offset of the length in the command
)

// authMessage begins a message of n bytes.
func authMessage(kind, id uint8, transaction uint16, n int) []byte {
	m := make([]byte, n)
	m[0], m[1] = kind, id
	le.PutUint16(m[4:], transaction)
	return m
}

// failureMessage is one that says why an authentication failed.
func failureMessage(id uint8, transaction uint16, why AuthReason) []byte {
	m := authMessage(authCommon, id, transaction, authHeader)
	m[6], m[7] = authFailed, uint8(why)
	return m
}

// KeySource reads a key's text when it is needed: SPDK reads the key's file for each authentication.
type KeySource func() (text string, err error)

// HostKeys are the keys of a host at a subsystem: Host proves the host, Controller, if not nil, the controller.
type HostKeys struct{ Host, Controller KeySource }

// AuthAlgorithms are what a side accepts. Empty lists are all.
type AuthAlgorithms struct {
	Hashes []dhchap.Hash
	Groups []dhchap.Group
}

// accepted are those of all that are in some, in their order; all of them if some is empty.
func accepted[T comparable](all, some []T) []T {
	if len(some) == 0 {
		return all
	}
	var list []T
	for _, x := range all {
		for _, y := range some {
			if x == y {
				list = append(list, x)
			}
		}
	}
	return list
}
