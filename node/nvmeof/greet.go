package nvmeof

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// NVMe/TCP Transport Specification, "Initialize Connection Request PDU" and
// "Response": both 128 bytes, type in the first.
const (
	pduICReq    = 0x00
	pduICResp   = 0x01
	icLength    = 128
	offsetHLen  = 2
	offsetPLen  = 4
	commonBytes = 8
)

// Greet says whether an NVMe/TCP target answers at address, without connecting to a subsystem. No answer within ctx wraps
// ErrUnreachable and ctx's error.
func (h *Host) Greet(ctx context.Context, address string) error {
	if _, err := parseAddress(address); err != nil {
		return err
	}
	return h.greet(ctx, address)
}

func greet(ctx context.Context, address string) error {
	return GreetBy(ctx, (&net.Dialer{}).DialContext, address)
}

// GreetBy opens a TCP connection, says the NVMe/TCP greeting, and closes again
// when it was answered. No answer wraps ctx's error. It uses the caller's network namespace, as the kernel
// does for a connect written by the same process.
func GreetBy(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error), address string) error {
	conn, err := dial(ctx, "tcp", address)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w: no answer to a TCP connection: %w", ErrUnreachable, ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer func() {
		stop()
		conn.Close()
	}()

	var req, resp [icLength]byte
	req[0] = pduICReq
	req[offsetHLen] = icLength
	binary.LittleEndian.PutUint32(req[offsetPLen:], icLength)
	if _, err = conn.Write(req[:]); err == nil {
		_, err = io.ReadFull(conn, resp[:commonBytes])
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%w: it accepts TCP connections but does not answer NVMe/TCP; the target process may hang: %w", ErrUnreachable, ctx.Err())
	case err != nil:
		return fmt.Errorf("%w: closed during the greeting: %w", ErrUnreachable, err)
	case resp[0] != pduICResp || binary.LittleEndian.Uint32(resp[offsetPLen:]) != icLength:
		return fmt.Errorf("%w: what listens there does not speak NVMe/TCP", ErrRejected)
	}
	// Take the rest, so that closing does not reset the connection under the
	// target's hands.
	if _, err := io.ReadFull(conn, resp[commonBytes:]); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: closed during the greeting: %w", ErrUnreachable, err)
	}
	return nil
}
