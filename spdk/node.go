package spdk

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// pollInterval is how often a state that SPDK changes on its own is read again while an
// operation waits for it. It bounds neither the wait, which the context does, nor the
// load, which is one call in flight.
const pollInterval = 20 * time.Millisecond

// Node makes idempotent operations on one SPDK node. It holds no state of its own and may
// be used by any number of goroutines; operations on the same object must not overlap.
//
// Errors wrap the sentinels of this package and name the node and the object. An error
// that wraps ErrUnknownOutcome leaves the object in a state from which the same operation,
// called again, goes on.
type Node struct {
	name string
	rpc  Caller
}

// NewNode returns the operations on the node of that name, which is used in errors only.
func NewNode(name string, rpc Caller) *Node {
	return &Node{name: name, rpc: rpc}
}

// Name returns the node's name.
func (n *Node) Name() string { return n.name }

// wrap adds the node and what was being done to err, which may be nil.
func (n *Node) wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("node %s: %s: %w", n.name, fmt.Sprintf(format, args...), err)
}

// Version returns SPDK's version, and so whether SPDK answers.
func (n *Node) Version(ctx context.Context) (string, error) {
	v, err := GetVersion(ctx, n.rpc)
	return v.Version, n.wrap(err, "get version")
}

// bdevs lists every bdev of the node.
func (n *Node) bdevs(ctx context.Context) ([]Bdev, error) {
	return BdevGetBdevs(ctx, n.rpc, BdevGetBdevsParams{})
}

// bdev returns the bdev with that name or alias, or ErrNotFound.
func (n *Node) bdev(ctx context.Context, name string) (Bdev, error) {
	found, err := BdevGetBdevs(ctx, n.rpc, BdevGetBdevsParams{Name: name})
	if IsErrno(err, unix.ENODEV) || err == nil && len(found) == 0 {
		return Bdev{}, n.wrap(ErrNotFound, "bdev %s", name)
	}
	if err != nil {
		return Bdev{}, n.wrap(err, "look up bdev %s", name)
	}
	return found[0], nil
}

// findBdev returns the bdev with that name or alias.
func findBdev(bdevs []Bdev, name string) (Bdev, bool) {
	for _, b := range bdevs {
		if b.Is(name) {
			return b, true
		}
	}
	return Bdev{}, false
}

// until calls done again and again, with a pause between, until it reports true or fails
// or the context ends.
func until(ctx context.Context, done func() (bool, error)) error {
	timer := time.NewTimer(pollInterval)
	defer timer.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		timer.Reset(pollInterval)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return fmt.Errorf("%w: it did not finish in time: %w", ErrBusy, ctx.Err())
		}
	}
}

// Address is where a subsystem listens on NVMe/TCP.
type Address struct {
	// Host is an IPv4 or IPv6 address, without brackets.
	Host string
	Port uint16
}

// String returns the address as host:port.
func (a Address) String() string {
	return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port)))
}

// family returns the NVMe-oF address family.
func (a Address) family() string {
	if strings.Contains(a.Host, ":") {
		return "IPv6"
	}
	return "IPv4"
}

func (a Address) listen() ListenAddress {
	return ListenAddress{Trtype: trtypeTCP, Adrfam: a.family(), Traddr: a.Host, Trsvcid: strconv.Itoa(int(a.Port))}
}

// trtypeTCP is the only transport that the driver uses.
const trtypeTCP = "TCP"

// addressOf reads an address as SPDK gives it; a port that is none reads 0.
func addressOf(host, port string) Address {
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		p = 0
	}
	return Address{Host: host, Port: uint16(p)}
}
