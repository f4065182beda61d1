package nvmetcp

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

type pduType uint8

// PDU types (NVMe over TCP 1.0, figure 8).
const (
	pduICReq       pduType = 0x00
	pduICResp      pduType = 0x01
	pduH2CTermReq  pduType = 0x02
	pduC2HTermReq  pduType = 0x03
	pduCapsuleCmd  pduType = 0x04
	pduCapsuleResp pduType = 0x05
	pduH2CData     pduType = 0x06
	pduC2HData     pduType = 0x07
	pduR2T         pduType = 0x09
)

const (
	flagHDGST   = 1 << 0
	flagDDGST   = 1 << 1
	flagLast    = 1 << 2
	flagSuccess = 1 << 3

	commonHeader  = 8
	icHeader      = 128
	dataHeader    = 24
	respHeader    = 24
	cmdHeader     = 72
	termHeader    = 24
	digestSize    = 4
	termPDUMax    = 152 // header plus up to 128 bytes of the offending PDU
	maxHPDA       = 31
	minMaxH2CData = 4096
)

// Fatal error statuses of a termination request (NVMe over TCP 1.0, figure 13).
const (
	fesInvalidHeader  uint16 = 1
	fesSequence       uint16 = 2
	fesHeaderDigest   uint16 = 3
	fesOutOfRange     uint16 = 4
	fesLimitExceeded  uint16 = 5
	fesUnsupportedArg uint16 = 6
)

// protocolError is a violation that ends a connection with a termination request.
type protocolError struct {
	fes    uint16
	fei    uint32 // offset of the wrong field in the PDU's header
	what   string
	header []byte
}

func (e *protocolError) Error() string {
	return fmt.Sprintf("NVMe/TCP protocol error: %s (fatal error status %d)", e.what, e.fes)
}

// errDataDigest says that a PDU's data does not match its digest. The data was
// consumed and the connection goes on.
var errDataDigest = errors.New("data digest mismatch")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// pdu is a received PDU's header; its data, dataLen bytes, is still to be read.
type pdu struct {
	typ     pduType
	flags   uint8
	hlen    int
	dataLen int
	hdr     [icHeader]byte
}

// headerLen is the header length that a PDU type has, 0 for an unknown type.
func headerLen(t pduType) int {
	switch t {
	case pduICReq, pduICResp:
		return icHeader
	case pduH2CTermReq, pduC2HTermReq:
		return termHeader
	case pduCapsuleCmd:
		return cmdHeader
	case pduCapsuleResp, pduH2CData, pduC2HData, pduR2T:
		return dataHeader
	default:
		return 0
	}
}

// carriesDigest says whether a PDU type has digests: connection set-up and
// termination have none.
func carriesDigest(t pduType) bool {
	switch t {
	case pduICReq, pduICResp, pduH2CTermReq, pduC2HTermReq:
		return false
	default:
		return true
	}
}

// pduReader reads PDUs of one direction of a connection.
type pduReader struct {
	r            *bufio.Reader
	fromHost     bool
	hdgst, ddgst bool
	maxData      int // largest data of one PDU accepted, bytes
}

func newPDUReader(r io.Reader, fromHost bool, maxData int) *pduReader {
	return &pduReader{r: bufio.NewReaderSize(r, 64<<10), fromHost: fromHost, maxData: maxData}
}

// next reads a PDU's header and padding. A *protocolError means that the peer
// broke the protocol.
func (r *pduReader) next(p *pdu) error {
	if _, err := io.ReadFull(r.r, p.hdr[:commonHeader]); err != nil {
		return err
	}
	p.typ, p.flags, p.hlen = pduType(p.hdr[0]), p.hdr[1], int(p.hdr[2])
	pdo, plen := int(p.hdr[3]), int(le.Uint32(p.hdr[4:]))
	bad := func(fes uint16, fei uint32, what string) error {
		return &protocolError{fes: fes, fei: fei, what: what, header: append([]byte(nil), p.hdr[:commonHeader]...)}
	}
	want := headerLen(p.typ)
	if want == 0 || !r.expects(p.typ) {
		return bad(fesInvalidHeader, 0, fmt.Sprintf("unexpected PDU type %#02x", uint8(p.typ)))
	}
	if p.hlen != want {
		return bad(fesInvalidHeader, 2, fmt.Sprintf("header length %d of PDU type %#02x, want %d", p.hlen, uint8(p.typ), want))
	}
	hdgst := r.hdgst && carriesDigest(p.typ)
	head := p.hlen
	if hdgst {
		head += digestSize
	}
	if plen < head {
		return bad(fesInvalidHeader, 4, fmt.Sprintf("PDU length %d below its header's %d", plen, head))
	}
	start := head
	if plen > head && (p.typ == pduCapsuleCmd || p.typ == pduH2CData || p.typ == pduC2HData) {
		if pdo < head || pdo > plen {
			return bad(fesInvalidHeader, 3, fmt.Sprintf("data offset %d outside the PDU of %d bytes", pdo, plen))
		}
		start = pdo
	}
	p.dataLen = plen - start
	if err := r.checkDataLen(p, plen, bad); err != nil {
		return err
	}
	return r.finishHeader(p, hdgst, start, bad)
}

func (r *pduReader) expects(t pduType) bool {
	switch t {
	case pduICReq, pduH2CTermReq, pduCapsuleCmd, pduH2CData:
		return r.fromHost
	default:
		return !r.fromHost
	}
}

// checkDataLen takes the digest off the data's length and bounds it.
func (r *pduReader) checkDataLen(p *pdu, plen int, bad func(uint16, uint32, string) error) error {
	switch p.typ {
	case pduCapsuleCmd, pduH2CData, pduC2HData:
		if r.ddgst && p.dataLen > 0 {
			if p.dataLen < digestSize {
				return bad(fesInvalidHeader, 4, "PDU too short for its data digest")
			}
			p.dataLen -= digestSize
		}
		if p.dataLen > r.maxData {
			return bad(fesLimitExceeded, 4, fmt.Sprintf("%d bytes of data in one PDU, at most %d are accepted", p.dataLen, r.maxData))
		}
	case pduH2CTermReq, pduC2HTermReq:
		if plen > termPDUMax {
			return bad(fesInvalidHeader, 4, fmt.Sprintf("termination request of %d bytes", plen))
		}
	default:
		if p.dataLen != 0 {
			return bad(fesInvalidHeader, 4, fmt.Sprintf("PDU length %d of PDU type %#02x", plen, uint8(p.typ)))
		}
	}
	return nil
}

// finishHeader reads what follows the common header up to the data.
func (r *pduReader) finishHeader(p *pdu, hdgst bool, start int, bad func(uint16, uint32, string) error) error {
	if _, err := io.ReadFull(r.r, p.hdr[commonHeader:p.hlen]); err != nil {
		return unexpected(err)
	}
	skip := start - p.hlen
	if hdgst {
		var d [digestSize]byte
		if _, err := io.ReadFull(r.r, d[:]); err != nil {
			return unexpected(err)
		}
		skip -= digestSize
		if p.flags&flagHDGST == 0 || le.Uint32(d[:]) != crc32.Checksum(p.hdr[:p.hlen], castagnoli) {
			return bad(fesHeaderDigest, 0, "header digest mismatch")
		}
	}
	if skip > 0 {
		if _, err := r.r.Discard(skip); err != nil {
			return unexpected(err)
		}
	}
	return nil
}

// data reads the PDU's data into dst, which has p.dataLen bytes, and checks its
// digest. errDataDigest leaves the connection usable.
func (r *pduReader) data(p *pdu, dst []byte) error {
	if _, err := io.ReadFull(r.r, dst); err != nil {
		return unexpected(err)
	}
	if !r.ddgst || p.dataLen == 0 || !carriesDigest(p.typ) {
		return nil
	}
	var d [digestSize]byte
	if _, err := io.ReadFull(r.r, d[:]); err != nil {
		return unexpected(err)
	}
	if p.flags&flagDDGST == 0 || le.Uint32(d[:]) != crc32.Checksum(dst, castagnoli) {
		return errDataDigest
	}
	return nil
}

// unexpected turns a clean end of the stream within a PDU into an error.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
