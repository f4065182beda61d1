package nvmetcp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// encode renders PDUs as a sender with the given settings does.
func encode(t testing.TB, hdgst, ddgst bool, align int, pdus ...*outPDU) []byte {
	t.Helper()
	client, server := net.Pipe()
	s := newSender(client)
	s.hdgst, s.ddgst, s.align = hdgst, ddgst, align
	got := make(chan []byte, 1)
	go func() {
		b, err := io.ReadAll(server)
		if err != nil {
			t.Error(err)
		}
		got <- b
	}()
	for i, p := range pdus {
		if i == len(pdus)-1 {
			s.sendLast(p)
		} else {
			s.send(p)
		}
	}
	if err := s.run(context.Background()); !errors.Is(err, errLastSent) {
		t.Fatal(err)
	}
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	return <-got
}

func command(op byte, sgl byte, n int) *outPDU {
	var c sqe
	c[0] = op
	c.setSGL(sgl, n)
	c.setNSID(1)
	p := newPDU(pduCapsuleCmd, 0)
	copy(p.hdr[commonHeader:], c[:])
	return p
}

func TestPDURoundTrip(t *testing.T) {
	payload := random(4096)
	for _, tc := range []struct {
		name         string
		hdgst, ddgst bool
		align        int
		typ          pduType
		data         []byte
		length       int // of the whole PDU
	}{
		{"command without data", false, false, 0, pduCapsuleCmd, nil, 72},
		{"command with header digest", true, true, 0, pduCapsuleCmd, nil, 76},
		{"command with data", false, false, 0, pduCapsuleCmd, payload, 72 + 4096},
		{"command with data and digests", true, true, 0, pduCapsuleCmd, payload, 76 + 4096 + 4},
		{"aligned data", true, true, 64, pduH2CData, payload, 64 + 4096 + 4},
		{"largest alignment", true, false, 128, pduH2CData, payload, 128 + 4096},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPDU(tc.typ, 0)
			p.hdr[8] = 0x42
			p.data = tc.data
			b := encode(t, tc.hdgst, tc.ddgst, tc.align, p)
			if len(b) != tc.length || int(le.Uint32(b[4:])) != tc.length {
				t.Fatalf("PDU of %d bytes says it has %d, want %d", len(b), le.Uint32(b[4:]), tc.length)
			}
			r := newPDUReader(bytes.NewReader(b), true, 1<<20)
			r.hdgst, r.ddgst = tc.hdgst, tc.ddgst
			var got pdu
			if err := r.next(&got); err != nil {
				t.Fatal(err)
			}
			data := make([]byte, got.dataLen)
			if err := r.data(&got, data); err != nil {
				t.Fatal(err)
			}
			if got.typ != tc.typ || got.hdr[8] != 0x42 || !bytes.Equal(data, tc.data) {
				t.Error("the PDU changed on its way")
			}
		})
	}
}

// The digest of 32 zero bytes is given by RFC 3720, B.4.
func TestDigestIsCRC32C(t *testing.T) {
	p := newPDU(pduH2CData, 0)
	p.data = make([]byte, 32)
	b := encode(t, false, true, 0, p)
	if got := b[len(b)-4:]; !bytes.Equal(got, []byte{0xaa, 0x36, 0x91, 0x8a}) {
		t.Errorf("digest % x", got)
	}
}

func TestMalformedPDUsAreRefused(t *testing.T) {
	header := func(typ pduType, hlen, pdo byte, plen uint32) []byte {
		b := make([]byte, 160)
		b[0], b[2], b[3] = byte(typ), hlen, pdo
		le.PutUint32(b[4:], plen)
		return b
	}
	for _, tc := range []struct {
		name string
		b    []byte
		fes  uint16
		fei  uint32
	}{
		{"unknown type", header(0x08, 24, 0, 24), fesInvalidHeader, 0},
		{"type of the other direction", header(pduC2HData, 24, 0, 24), fesInvalidHeader, 0},
		{"wrong header length", header(pduCapsuleCmd, 24, 0, 72), fesInvalidHeader, 2},
		{"shorter than its header", header(pduCapsuleCmd, 72, 0, 71), fesInvalidHeader, 4},
		{"data before the header's end", header(pduCapsuleCmd, 72, 8, 100), fesInvalidHeader, 3},
		{"data after the PDU's end", header(pduCapsuleCmd, 72, 120, 100), fesInvalidHeader, 3},
		{"length close to 4 GiB", header(pduH2CData, 24, 24, 0xfffffff0), fesLimitExceeded, 4},
		{"ICReq with data", header(pduICReq, 128, 0, 4096), fesInvalidHeader, 4},
		{"endless termination request", header(pduH2CTermReq, 24, 0, 100000), fesInvalidHeader, 4},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var p pdu
			err := newPDUReader(bytes.NewReader(tc.b), true, 128<<10).next(&p)
			var pe *protocolError
			if !errors.As(err, &pe) || pe.fes != tc.fes || pe.fei != tc.fei {
				t.Errorf("got %v (%+v), want status %d at %d", err, pe, tc.fes, tc.fei)
			}
		})
	}
}

func TestTruncatedPDUIsNoCleanEnd(t *testing.T) {
	p := command(opWrite, sglInCapsule, 512)
	p.data = random(512)
	whole := encode(t, true, true, 0, p)
	for n := 1; n < len(whole); n++ {
		r := newPDUReader(bytes.NewReader(whole[:n]), true, 1<<20)
		r.hdgst, r.ddgst = true, true
		var got pdu
		err := r.next(&got)
		if err == nil {
			err = r.data(&got, make([]byte, got.dataLen))
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut after %d of %d bytes: %v", n, len(whole), err)
		}
	}
}

func TestFlippedBitsAreNoticed(t *testing.T) {
	p := command(opWrite, sglInCapsule, 512)
	p.data = random(512)
	whole := encode(t, true, true, 0, p)
	for _, at := range []int{9, 40, 71, 72, 76, 300, len(whole) - 1} {
		b := append([]byte(nil), whole...)
		b[at] ^= 1
		r := newPDUReader(bytes.NewReader(b), true, 1<<20)
		r.hdgst, r.ddgst = true, true
		var got pdu
		err := r.next(&got)
		if at < 76 {
			var pe *protocolError
			if !errors.As(err, &pe) || pe.fes != fesHeaderDigest {
				t.Errorf("bit flipped at %d of the header: %v", at, err)
			}
			continue
		}
		if err = r.data(&got, make([]byte, got.dataLen)); !errors.Is(err, errDataDigest) {
			t.Errorf("bit flipped at %d of the data: %v", at, err)
		}
	}
}

// rawHost is a connection that speaks PDUs by hand.
type rawHost struct {
	t    *testing.T
	conn net.Conn
	in   *pduReader
}

func (f *fixture) raw() *rawHost {
	f.t.Helper()
	conn, err := net.Dial("tcp", f.addr)
	f.must(err)
	f.t.Cleanup(func() { _ = conn.Close() })
	f.must(conn.SetDeadline(time.Now().Add(20 * time.Second)))
	return &rawHost{t: f.t, conn: conn, in: newPDUReader(conn, false, 1<<20)}
}

func (h *rawHost) send(b []byte) {
	h.t.Helper()
	if _, err := h.conn.Write(b); err != nil {
		h.t.Fatal(err)
	}
}

func (h *rawHost) receive() pdu {
	h.t.Helper()
	var p pdu
	if err := h.in.next(&p); err != nil {
		h.t.Fatal(err)
	}
	return p
}

func (h *rawHost) icReq() {
	h.t.Helper()
	b := make([]byte, icHeader)
	b[0], b[2] = byte(pduICReq), icHeader
	le.PutUint32(b[4:], icHeader)
	h.send(b)
	if p := h.receive(); p.typ != pduICResp || le.Uint32(p.hdr[12:]) != 128<<10 {
		h.t.Fatalf("got PDU %#x with maximum data %d", p.typ, le.Uint32(p.hdr[12:]))
	}
}

// expectTermination reads up to a termination request and the end.
func (h *rawHost) expectTermination(fes uint16) {
	h.t.Helper()
	for {
		p := h.receive()
		if p.typ != pduC2HTermReq {
			continue
		}
		if got := le.Uint16(p.hdr[8:]); got != fes {
			h.t.Errorf("terminated with fatal error status %d, want %d", got, fes)
		}
		break
	}
	if _, err := io.Copy(io.Discard, h.conn); err != nil {
		h.t.Errorf("the connection does not end in order: %v", err)
	}
}

func TestProtocolErrorsEndTheConnectionWithAReason(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	data := func(tag, n uint32) []byte {
		p := newPDU(pduH2CData, 0)
		le.PutUint16(p.hdr[10:], uint16(tag))
		le.PutUint32(p.hdr[16:], n)
		p.data = make([]byte, 512)
		return encode(t, false, false, 0, p)
	}
	inCapsule := command(opWrite, sglInCapsule, 4096)
	inCapsule.data = make([]byte, 512)
	for _, tc := range []struct {
		name  string
		icReq bool
		b     []byte
		fes   uint16
	}{
		{"garbage", false, bytes.Repeat([]byte{0xde, 0xad, 0xbe, 0xef}, 64), fesInvalidHeader},
		{"command before ICReq", false, encode(t, false, false, 0, command(opRead, sglTransport, 0)), fesSequence},
		{"transfer above the maximum", true, encode(t, false, false, 0, command(opRead, sglTransport, 1<<30)), fesLimitExceeded},
		{"unknown SGL", true, encode(t, false, false, 0, command(opWrite, 0x30, 512)), fesUnsupportedArg},
		{"data nobody asked for", true, data(7, 512), fesInvalidHeader},
		{"capsule shorter than its SGL", true, encode(t, false, false, 0, inCapsule), fesInvalidHeader},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := f.raw()
			h.t = t
			if tc.icReq {
				h.icReq()
			}
			h.send(tc.b)
			h.expectTermination(tc.fes)
		})
	}
}

func TestDataOutsideTheR2TEndsTheConnection(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	for _, off := range []uint32{512, 8192, 0xfffffff0} {
		t.Run(fmt.Sprint(off), func(t *testing.T) {
			h := f.raw()
			h.t = t
			h.icReq()
			h.send(encode(t, false, false, 0, command(opWrite, sglTransport, 8192)))
			r2t := h.receive()
			if r2t.typ != pduR2T || le.Uint32(r2t.hdr[16:]) != 8192 {
				t.Fatalf("got PDU %#x for %d bytes", r2t.typ, le.Uint32(r2t.hdr[16:]))
			}
			p := newPDU(pduH2CData, 0)
			copy(p.hdr[8:12], r2t.hdr[8:12])
			le.PutUint32(p.hdr[12:], off)
			le.PutUint32(p.hdr[16:], 512)
			p.data = make([]byte, 512)
			h.send(encode(t, false, false, 0, p))
			h.expectTermination(fesOutOfRange)
		})
	}
}

func TestCommandsBeforeConnectAreRefused(t *testing.T) {
	f := newFixture(t, TargetConfig{}, SubsystemConfig{})
	h := f.raw()
	h.icReq()
	h.send(encode(t, false, false, 0, command(opIdentify, sglTransport, 4096)))
	p := h.receive()
	wantStatus(t, statusFromWire(parseCQE(p.hdr[commonHeader:]).status), SCTGeneric, SCCommandSequence)
}

// FuzzPDU feeds bytes to a reader as a target has it: it must neither panic nor
// accept more data than allowed.
func FuzzPDU(f *testing.F) {
	write := command(opWrite, sglInCapsule, 512)
	write.data = make([]byte, 512)
	icReq := newPDU(pduICReq, 0)
	for _, hdgst := range []bool{false, true} {
		for _, ddgst := range []bool{false, true} {
			f.Add(encode(f, hdgst, ddgst, 0, icReq, command(opRead, sglTransport, 4096), write), hdgst, ddgst)
		}
	}
	f.Add([]byte{4, 0, 72, 255, 255, 255, 255, 255}, false, true)
	f.Fuzz(func(t *testing.T, b []byte, hdgst, ddgst bool) {
		const limit = 8192
		r := newPDUReader(bytes.NewReader(b), true, limit)
		r.hdgst, r.ddgst = hdgst, ddgst
		for {
			var p pdu
			if r.next(&p) != nil {
				return
			}
			if p.dataLen < 0 || p.dataLen > limit {
				t.Fatalf("%d bytes of data accepted", p.dataLen)
			}
			if err := r.data(&p, make([]byte, p.dataLen)); err != nil && !errors.Is(err, errDataDigest) {
				return
			}
		}
	})
}
