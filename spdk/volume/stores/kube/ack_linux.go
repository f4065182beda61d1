package kube

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// limitAck sets TCP_USER_TIMEOUT (tcp(7)).
func limitAck(_, _ string, c syscall.RawConn) error {
	var err error
	if failed := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(ackTimeout.Milliseconds()))
	}); failed != nil {
		return failed
	}
	return err
}
