// Package memnet is a network inside a process: listeners and connections that behave as the kernel's TCP does over a loopback
// interface.
//
// Whoever waits for it waits for another goroutine and never for the operating system, so that the clock of a testing/synctest
// bubble goes on while everybody waits. Package sim takes its functions as Config.Listen and Config.Dial.
package memnet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
)

// firstEphemeral is where the ports of dialled connections begin.
const firstEphemeral = 32768

// Network joins those who listen on it and those who dial. It knows TCP over IP addresses, any of them, and no faults.
type Network struct {
	mu        sync.Mutex
	listeners map[netip.AddrPort]*listener
	next      uint32 // counts the addresses given away
}

// New makes a network on which nobody listens.
func New() *Network { return &Network{listeners: map[netip.AddrPort]*listener{}} }

// Listen is net.Listen for network "tcp" and an address IP:port; port 0 takes one that is free.
func (n *Network) Listen(network, address string) (net.Listener, error) {
	at, err := parse(network, address)
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if at.Port() == 0 {
		at = n.freeLocked(at.Addr())
	}
	if n.listeners[at] != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: net.TCPAddrFromAddrPort(at), Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
	}
	l := &listener{n: n, at: at}
	l.arrived.L = &l.mu
	n.listeners[at] = l
	return l, nil
}

// Dial is net.Dialer.DialContext for network "tcp" and an address IP:port. It never waits: as with the kernel's, a connection is
// there before it is accepted.
func (n *Network) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	at, err := parse(network, address)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	n.mu.Lock()
	l, local := n.listeners[at], n.freeLocked(at.Addr())
	n.mu.Unlock()
	if l != nil {
		if c := l.connect(local); c != nil {
			return c, nil
		}
	}
	return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(at), Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
}

func parse(network, address string) (netip.AddrPort, error) {
	if network != "tcp" {
		return netip.AddrPort{}, net.UnknownNetworkError(network)
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("address %q must be IP:port: %w", address, err)
	}
	return at, nil
}

// freeLocked returns an address where nobody listens, another with each call: 65,536 less firstEphemeral take turns.
func (n *Network) freeLocked(ip netip.Addr) netip.AddrPort {
	for {
		at := netip.AddrPortFrom(ip, uint16(firstEphemeral+n.next%(1<<16-firstEphemeral)))
		n.next++
		if n.listeners[at] == nil {
			return at
		}
	}
}

// listener implements net.Listener. Its backlog has no limit.
type listener struct {
	n  *Network
	at netip.AddrPort

	mu      sync.Mutex
	arrived sync.Cond
	backlog []*conn
	closed  bool
}

// connect puts a connection into the backlog and returns its other end; nil if nobody listens any more.
func (l *listener) connect(from netip.AddrPort) net.Conn {
	client, server := pair(net.TCPAddrFromAddrPort(from), net.TCPAddrFromAddrPort(l.at))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.backlog = append(l.backlog, server)
	l.arrived.Signal()
	return client
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.backlog) == 0 && !l.closed {
		l.arrived.Wait()
	}
	if l.closed {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
	c := l.backlog[0]
	l.backlog = l.backlog[1:]
	return c, nil
}

// Close implements net.Listener: connections that were not accepted are reset.
func (l *listener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return &net.OpError{Op: "close", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
	}
	l.closed = true
	backlog := l.backlog
	l.backlog = nil
	l.arrived.Broadcast()
	l.mu.Unlock()
	l.n.mu.Lock()
	delete(l.n.listeners, l.at)
	l.n.mu.Unlock()
	for _, c := range backlog {
		c.reset()
	}
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.at) }
