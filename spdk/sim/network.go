package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// Outside is the name, in a Network's faults, of every machine that is not a node
// of it: a Linux host, another program.
const Outside = "outside"

// Network joins the nodes of a test or program and can cut and slow the links
// between them. It works on the TCP connections that the nodes make and accept: a
// cut link loses what is sent over it, and TCP's retransmission delivers it once
// the link is whole again, unless an end has given up before. Nodes are named as
// in Config.Name.
type Network struct {
	clock clock.WithTicker

	mu    sync.Mutex
	nodes map[string]*Node
	links map[link]LinkFault
	peers map[string]string // local address of a dialled connection: the node it is of
	conns map[*netConn]struct{}

	changed chan struct{} // closed when a link changes
}

// link is one direction between two machines.
type link struct{ from, to string }

// LinkFault is what is wrong with one direction of a link. The zero value is a
// healthy one.
type LinkFault struct {
	// Cut drops every packet.
	Cut bool
	// Delay is added to everything sent.
	Delay time.Duration
	// BytesPerSecond limits what gets through; 0 is no limit.
	BytesPerSecond int64
}

// NewNetwork makes a network without faults. A nil clock is the real one.
func NewNetwork(c clock.WithTicker) *Network {
	if c == nil {
		c = clock.RealClock{}
	}
	return &Network{clock: c, nodes: map[string]*Node{}, links: map[link]LinkFault{}, peers: map[string]string{},
		conns: map[*netConn]struct{}{}, changed: make(chan struct{})}
}

func (w *Network) join(n *Node) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.nodes[n.cfg.Name] != nil || n.cfg.Name == Outside {
		return fmt.Errorf("the network has a node %s already", n.cfg.Name)
	}
	w.nodes[n.cfg.Name] = n
	return nil
}

func (w *Network) leave(n *Node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.nodes, n.cfg.Name)
}

// Node is the node of that name, nil if there is none.
func (w *Network) Node(name string) *Node {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.nodes[name]
}

// all is every node, by name.
func (w *Network) all() []*Node {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := slices.Collect(maps.Values(w.nodes))
	slices.SortFunc(list, func(a, b *Node) int { return strings.Compare(a.Name(), b.Name()) })
	return list
}

// SetLink sets the fault of one direction. Use it twice for both.
func (w *Network) SetLink(from, to string, f LinkFault) {
	w.mu.Lock()
	if f == (LinkFault{}) {
		delete(w.links, link{from, to})
	} else {
		w.links[link{from, to}] = f
	}
	close(w.changed)
	w.changed = make(chan struct{})
	conns := make([]*netConn, 0, len(w.conns))
	for c := range w.conns {
		conns = append(conns, c)
	}
	w.mu.Unlock()
	for _, c := range conns {
		c.linkChanged()
	}
}

// Cut drops all packets between two machines, in both directions, or lets them
// through again.
func (w *Network) Cut(a, b string, cut bool) {
	w.SetLink(a, b, LinkFault{Cut: cut})
	w.SetLink(b, a, LinkFault{Cut: cut})
}

func (w *Network) fault(from, to string) LinkFault {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.links[link{from, to}]
}

// owner is the node that listens on an address, Outside if none does.
func (w *Network) owner(addr string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, n := range w.nodes {
		if n.listensOn(addr) {
			return name
		}
	}
	return Outside
}

// awaitLink waits until packets pass in both directions: connection requests are
// sent again and again.
func (w *Network) awaitLink(ctx context.Context, a, b string) error {
	for {
		w.mu.Lock()
		cut, changed := w.links[link{a, b}].Cut || w.links[link{b, a}].Cut, w.changed
		w.mu.Unlock()
		if !cut {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errCut
		}
	}
}

// errCut is what dialling over a cut link ends with, when the caller gives up.
var errCut = errors.New("no answer: packets are dropped")

// dialer dials as the node does: over its network, with TCP_USER_TIMEOUT set to
// ack (0 is none).
func (n *Node) dialer(ack time.Duration) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return n.cfg.Network.dialer(n.cfg.Name, ack, n.cfg.Dial)
}

// Dialer returns a function that dials as the machine of that name, which is not a
// node, through dial. Its links are its own then, and not those of Outside.
func (w *Network) Dialer(machine string, dial func(ctx context.Context, network, addr string) (net.Conn, error)) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return w.dialer(machine, 0, dial)
}

func (w *Network) dialer(machine string, ack time.Duration, dial func(context.Context, string, string) (net.Conn, error)) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		peer := w.owner(addr)
		if err := w.awaitLink(ctx, machine, peer); err != nil {
			return nil, fmt.Errorf("dial %s: %w", addr, err)
		}
		nc, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		w.mu.Lock()
		w.peers[nc.LocalAddr().String()] = machine
		w.mu.Unlock()
		return w.wrap(nc, machine, peer, ack, func() {
			w.mu.Lock()
			delete(w.peers, nc.LocalAddr().String())
			w.mu.Unlock()
		}), nil
	}
}

// listen opens a listening socket whose connections are subject to the network's
// faults.
func (n *Node) listen(network, addr string) (net.Listener, error) {
	ln, err := n.cfg.Listen(network, addr)
	if err != nil {
		return nil, err
	}
	l := &netListener{Listener: ln, n: n}
	n.disksMu.Lock()
	n.listeners[ln.Addr().String()] = l
	n.disksMu.Unlock()
	return l, nil
}

func (n *Node) listensOn(addr string) bool {
	n.disksMu.Lock()
	defer n.disksMu.Unlock()
	if n.listeners[addr] != nil {
		return true
	}
	_, port, err := net.SplitHostPort(addr)
	return err == nil && (n.listeners["0.0.0.0:"+port] != nil || n.listeners["[::]:"+port] != nil)
}

// netListener accepts connections into the network.
type netListener struct {
	net.Listener
	n *Node
}

func (l *netListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	w := l.n.cfg.Network
	return w.wrap(nc, l.n.cfg.Name, "", 0, func() {}), nil
}

func (l *netListener) Close() error {
	l.n.disksMu.Lock()
	delete(l.n.listeners, l.Addr().String())
	l.n.disksMu.Unlock()
	return l.Listener.Close()
}

// peerOf is the machine at the other end of an accepted connection.
func (w *Network) peerOf(remote string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if name, ok := w.peers[remote]; ok {
		return name
	}
	return Outside
}
