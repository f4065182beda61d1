// Package userspace is a machine that uses volumes without a kernel's help and without root. It stands in for package nvmeof and
// package mount in the demo, in tests, and where there is no nvme-tcp.
//
// It owns an NVMe/TCP host in Go, a pretend file system and a table of mounts in memory. Only the last two pretend: whatever is
// read or written, the superblock of the file system included, goes over NVMe/TCP to the volume's target. Devices and mounts end
// with the process; nobody but users of this package can open them.
package userspace

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/go-logr/logr"

	"github.com/holdfast-csi/holdfast/spdk/sim/nvmetcp"
)

// Options are what a Machine is made of.
type Options struct {
	// Dir gets a placeholder file for each attached device, as /dev has a node. It is made if need be.
	Dir string
	// Dial opens the TCP connections to targets; nil is a net.Dialer. A network that injects faults goes here.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Fault, if not nil, is asked at every Moment of every operation and makes it fail by returning an error.
	Fault Fault
	// Logger gets what a kernel would log.
	Logger logr.Logger
}

// Op is an operation that Options.Fault can make fail.
type Op string

// Operations, named as the methods of Machine are.
const (
	OpConnect     Op = "Connect"
	OpDisconnect  Op = "Disconnect"
	OpDevice      Op = "Device"
	OpSetReadOnly Op = "SetReadOnly"
	OpWaitSize    Op = "WaitSize"

	OpConnectPath    Op = "ConnectPath"
	OpDisconnectPath Op = "DisconnectPath"

	OpProbe   Op = "Probe"
	OpFormat  Op = "Format"
	OpResize  Op = "Resize"
	OpStats   Op = "Stats"
	OpMount   Op = "Mount"
	OpBind    Op = "Bind"
	OpUnmount Op = "Unmount"
	OpRemove  Op = "Remove"
	OpMounts  Op = "Mounts"

	OpFormatLUKS Op = "FormatLUKS"
	OpOpenLUKS   Op = "OpenLUKS"
	OpResizeLUKS Op = "ResizeLUKS"
	OpCloseLUKS  Op = "CloseLUKS"
)

// Moment is when in the course of an operation it may be made to fail.
type Moment string

// Moments. Format and FormatLUKS alone have a Midway: the device is then no longer blank and has no superblock or header yet.
const (
	Before Moment = "before"
	Midway Moment = "midway"
	After  Moment = "after"
)

// Fault makes an operation fail. It may be called by many goroutines at once.
type Fault func(op Op, at Moment) error

// Machine implements node.Fabrics, node.FileSystems, node.Encryption and node.Mounts. It is what outlives a node service that is started again:
// what is attached and mounted. It is safe for concurrent use; callers serialize operations on one volume.
type Machine struct {
	o Options

	mu       sync.Mutex
	disks    map[string]*disk // by NQN
	mappings map[string]*disk // by name
	made     int              // how many devices there have ever been
	table    []entry
}

// New returns a machine with nothing attached.
func New(o Options) (*Machine, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory for placeholders of devices: %w", err)
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	if o.Logger.GetSink() == nil {
		o.Logger = logr.Discard()
	}
	return &Machine{o: o, disks: map[string]*disk{}, mappings: map[string]*disk{}}, nil
}

// Close ends the machine as a loss of power would: connections are dropped, mounts forgotten.
func (m *Machine) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for nqn, d := range m.disks {
		_ = d.head.Close() // it never fails
		delete(m.disks, nqn)
		_ = os.Remove(d.path) // a placeholder left behind says nothing
	}
	for name := range m.mappings {
		m.dropMappingLocked(name)
	}
	m.table = nil
}

// fault asks whether an operation is to fail.
func (m *Machine) fault(op Op, at Moment) error {
	if m.o.Fault == nil {
		return nil
	}
	return m.o.Fault(op, at)
}

// do runs an operation between its two faults.
func do[T any](m *Machine, op Op, f func() (T, error)) (T, error) {
	var none T
	if err := m.fault(op, Before); err != nil {
		return none, err
	}
	result, err := f()
	if err != nil {
		return none, err
	}
	if err := m.fault(op, After); err != nil {
		return none, err
	}
	return result, nil
}

// perform is do for an operation without a result.
func (m *Machine) perform(op Op, f func() error) error {
	_, err := do(m, op, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

// disk is a block device: an attached namespace, or a mapping on one.
type disk struct {
	nqn, hostNQN string
	nsUUID       [16]byte
	name, path   string
	minor        uint32
	head         *nvmetcp.Head
	// luks is what a mapping is made of; nil for a namespace.
	luks *luks

	mu       sync.Mutex
	readOnly bool
	// damaged: the file system on it refuses writes.
	damaged bool
}

func (d *disk) isReadOnly() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.readOnly
}

func (d *disk) setReadOnly(readOnly bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.readOnly = readOnly
}
