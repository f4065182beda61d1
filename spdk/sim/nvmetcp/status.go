package nvmetcp

import "fmt"

// Status code types (NVM Express Base 2.0, figure 92).
const (
	SCTGeneric   uint8 = 0
	SCTCommand   uint8 = 1
	SCTMedia     uint8 = 2
	SCTPath      uint8 = 3
	sctMask      uint8 = 7
	statusDNRBit       = 0x4000
)

// Generic command status codes (SCT 0).
const (
	SCSuccess              uint8 = 0x00
	SCInvalidOpcode        uint8 = 0x01
	SCInvalidField         uint8 = 0x02
	SCDataTransferError    uint8 = 0x04
	SCInternalError        uint8 = 0x06
	SCAbortRequested       uint8 = 0x07
	SCAbortedSQDeletion    uint8 = 0x08
	SCInvalidNamespace     uint8 = 0x0b
	SCCommandSequence      uint8 = 0x0c
	SCInvalidSGLDescriptor uint8 = 0x0d
	SCDataSGLLengthInvalid uint8 = 0x0f
	SCSGLDescriptorType    uint8 = 0x11
	SCInvalidSGLOffset     uint8 = 0x16
	SCHostIDInconsistent   uint8 = 0x18
	SCKeepAliveInvalid     uint8 = 0x1a
	SCTransientTransport   uint8 = 0x22
	SCLBAOutOfRange        uint8 = 0x80
	SCCapacityExceeded     uint8 = 0x81
	SCNamespaceNotReady    uint8 = 0x82
)

// Command-specific status codes (SCT 1): those of Fabrics Connect share numbers
// with I/O commands' (NVM Express Base 2.0, figure 98).
const (
	SCInvalidQueueID            uint8 = 0x01
	SCAsyncEventLimit           uint8 = 0x05
	SCInvalidLogPage            uint8 = 0x09
	SCFeatureNotSaveable        uint8 = 0x0d
	SCFeatureNotChangeable      uint8 = 0x0e
	SCConnectIncompatibleFormat uint8 = 0x80
	SCConnectControllerBusy     uint8 = 0x81
	SCConnectInvalidParameters  uint8 = 0x82
	SCConnectRestartDiscovery   uint8 = 0x83
	SCConnectInvalidHost        uint8 = 0x84
	SCAuthRequired              uint8 = 0x91
)

// Media and path status codes (SCT 2 and 3).
const (
	SCWriteFault        uint8 = 0x80
	SCUnrecoveredRead   uint8 = 0x81
	SCCompareFailure    uint8 = 0x85
	SCPathInternalError uint8 = 0x00
	SCANAPersistentLoss uint8 = 0x01
	SCANAInaccessible   uint8 = 0x02
	SCANATransition     uint8 = 0x03
	SCHostPathError     uint8 = 0x70
	SCHostAborted       uint8 = 0x71
)

// StatusError is an NVMe completion status other than success: status code
// type, status code and Do Not Retry. It travels through Device and host calls.
type StatusError struct {
	SCT, SC uint8
	DNR     bool
}

// Error names the status as the specification writes it, in hexadecimal.
func (e *StatusError) Error() string {
	s := fmt.Sprintf("NVMe status %d/%02xh", e.SCT, e.SC)
	if e.DNR {
		s += " (do not retry)"
	}
	return s
}

// PathError says that the status concerns the path and not the namespace, so
// that another path may succeed (SCT 3).
func (e *StatusError) PathError() bool { return e.SCT == SCTPath }

// wire is the status field of a completion, phase bit included as 0.
func (e StatusError) wire() uint16 {
	v := uint16(e.SC)<<1 | uint16(e.SCT&sctMask)<<9
	if e.DNR {
		v |= statusDNRBit << 1
	}
	return v
}

// statusFromWire is the error of a completion's status field, nil for success.
func statusFromWire(v uint16) error {
	e := StatusError{SC: uint8(v >> 1), SCT: uint8(v>>9) & sctMask, DNR: v>>1&statusDNRBit != 0}
	if e.SC == 0 && e.SCT == 0 {
		return nil
	}
	return &e
}

func generic(sc uint8) *StatusError { return &StatusError{SCT: SCTGeneric, SC: sc} }

func specific(sc uint8) *StatusError { return &StatusError{SCT: SCTCommand, SC: sc} }

func (e *StatusError) dnr() *StatusError { return &StatusError{SCT: e.SCT, SC: e.SC, DNR: true} }
