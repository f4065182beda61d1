package nvmetcp

import "encoding/binary"

// Opcodes (NVM Express Base 2.0, figures 138 and 346; fabrics: figure 387).
const (
	opGetLogPage  = 0x02
	opIdentify    = 0x06
	opAbort       = 0x08
	opSetFeatures = 0x09
	opGetFeatures = 0x0a
	opAsyncEvent  = 0x0c
	opKeepAlive   = 0x18
	opFabrics     = 0x7f

	opFlush       = 0x00
	opWrite       = 0x01
	opRead        = 0x02
	opCompare     = 0x05
	opWriteZeroes = 0x08
	opDSM         = 0x09

	fctypePropertySet = 0x00
	fctypeConnect     = 0x01
	fctypePropertyGet = 0x04
	fctypeAuthSend    = 0x05
	fctypeAuthReceive = 0x06
)

// SGL descriptor identifiers: type in the high nibble, subtype in the low one.
const (
	sglInCapsule = 0x01 // data block, offset
	sglTransport = 0x5a // transport data block
)

const (
	sqeSize         = 64
	cqeSize         = 16
	connectDataSize = 1024
	// connectATR in the answer to Connect says that the host has to authenticate.
	connectATR = 1 << 17
	pageSize   = 4096
	globalNSID = 0xffffffff
	// DiscoveryNQN is the well-known name of the discovery subsystem.
	DiscoveryNQN = "nqn.2014-08.org.nvmexpress.discovery"
	maxNQNLen    = 223
)

// Property offsets (NVM Express Base 2.0, figure 35).
const (
	propCAP  = 0x00
	propVS   = 0x08
	propCC   = 0x14
	propCSTS = 0x1c
	propCRTO = 0x68
	// NSSR, AQA, ASQ and ACQ.
	propNSSR, propASQ, propEndOfQueues = 0x20, 0x28, 0x38

	ccEnable     = 1 << 0
	ccSHNShift   = 14
	ccSHNMask    = 3 << ccSHNShift
	ccIOSQES     = 6 << 16
	ccIOCQES     = 4 << 20
	cstsReady    = 1 << 0
	cstsFatal    = 1 << 1
	cstsSHSTMask = 3 << 2
	cstsSHSTDone = 2 << 2
)

// Feature identifiers.
const (
	featArbitration   = 0x01
	featPowerMgmt     = 0x02
	featTemperature   = 0x04
	featErrorRecovery = 0x05
	featWriteCache    = 0x06
	featQueues        = 0x07
	featCoalescing    = 0x08
	featVector        = 0x09
	featAtomicity     = 0x0a
	featAsyncEvent    = 0x0b
	featKeepAlive     = 0x0f
	featHostBehavior  = 0x16
	featHostID        = 0x81
)

// Log page identifiers.
const (
	logSupported  = 0x00
	logError      = 0x01
	logHealth     = 0x02
	logFirmware   = 0x03
	logChangedNS  = 0x04
	logEffects    = 0x05
	logANA        = 0x0c
	logFeatureIDs = 0x12
	logMICommands = 0x13
	logDiscovery  = 0x70
)

// Asynchronous event results and the bits that enable them.
const (
	aenNamespaceChanged = 0x00040002
	aenANAChanged       = 0x000c0302
	aenDiscoveryChanged = 0x0070f002

	aecNamespace = 1 << 8
	aecANA       = 1 << 11
	aecDiscovery = 1 << 31
)

// sqe is a submission queue entry.
type sqe [sqeSize]byte

func (c *sqe) opcode() uint8            { return c[0] }
func (c *sqe) fused() bool              { return c[1]&3 != 0 }
func (c *sqe) cid() uint16              { return le.Uint16(c[2:]) }
func (c *sqe) nsid() uint32             { return le.Uint32(c[4:]) }
func (c *sqe) fctype() uint8            { return c[4] }
func (c *sqe) sglAddress() uint64       { return le.Uint64(c[24:]) }
func (c *sqe) sglLength() uint32        { return le.Uint32(c[32:]) }
func (c *sqe) sglType() uint8           { return c[39] }
func (c *sqe) dword(n int) uint32       { return le.Uint32(c[4*n:]) }
func (c *sqe) lba() uint64              { return le.Uint64(c[40:]) }
func (c *sqe) blocks() uint64           { return uint64(le.Uint16(c[48:])) + 1 }
func (c *sqe) setCID(v uint16)          { le.PutUint16(c[2:], v) }
func (c *sqe) setNSID(v uint32)         { le.PutUint32(c[4:], v) }
func (c *sqe) setDword(n int, v uint32) { le.PutUint32(c[4*n:], v) }

// setSGL describes the command's data: in the capsule or moved by the transport.
func (c *sqe) setSGL(kind uint8, n int) {
	c[1] = 0x40 // PSDT: SGL
	le.PutUint64(c[24:], 0)
	le.PutUint32(c[32:], uint32(n))
	c[39] = kind
}

// direction of a command's data.
type direction uint8

const (
	dirNone direction = iota
	dirToController
	dirToHost
)

// direction follows from the two low bits of the opcode, of the fabrics command
// type in a fabrics command; a command of length 0 moves no data.
func (c *sqe) direction() direction {
	bits := c.opcode()
	if bits == opFabrics {
		bits = c.fctype()
	}
	if c.sglLength() == 0 {
		return dirNone
	}
	switch bits & 3 {
	case 1:
		return dirToController
	case 2:
		return dirToHost
	default:
		return dirNone
	}
}

// cqe is a completion queue entry.
type cqe struct {
	result uint64 // command specific, dwords 0 and 1
	sqhd   uint16
	cid    uint16
	status uint16
}

func (c *cqe) put(b []byte) {
	le.PutUint64(b, c.result)
	le.PutUint16(b[8:], c.sqhd)
	le.PutUint16(b[10:], 0)
	le.PutUint16(b[12:], c.cid)
	le.PutUint16(b[14:], c.status)
}

func parseCQE(b []byte) cqe {
	return cqe{result: le.Uint64(b), sqhd: le.Uint16(b[8:]), cid: le.Uint16(b[12:]), status: le.Uint16(b[14:])}
}

var le = binary.LittleEndian
