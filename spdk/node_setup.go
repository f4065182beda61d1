package spdk

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// NVMeOptions are the options of the NVMe module that bound how long a lost leg goes
// unnoticed. They hold for every controller of the process, its local disks included.
type NVMeOptions struct {
	// ActionOnTimeout is none, reset or abort.
	ActionOnTimeout string
	// TimeoutUS and TimeoutAdminUS are in microseconds. With TimeoutUS 0 an unanswered
	// keep-alive is never noticed.
	TimeoutUS, TimeoutAdminUS uint64
	// KeepAliveMS is in milliseconds; the target may grant more.
	KeepAliveMS uint32
	// TransportAckTimeout n closes a TCP connection after 2^n ms without an ACK; 0 is off.
	TransportAckTimeout uint8
	// TCPConnectTimeoutMS is in milliseconds; 0 is off.
	TCPConnectTimeoutMS uint32
}

// Params returns the parameters of the call that sets the options.
func (o NVMeOptions) Params() BdevNVMeSetOptionsParams {
	return BdevNVMeSetOptionsParams{
		ActionOnTimeout: o.ActionOnTimeout, TimeoutUS: o.TimeoutUS, TimeoutAdminUS: o.TimeoutAdminUS,
		KeepAliveTimeoutMS: o.KeepAliveMS, TransportAckTimeout: o.TransportAckTimeout, TCPConnectTimeoutMS: o.TCPConnectTimeoutMS,
	}
}

// TransportOptions are the options of the NVMe/TCP transport that bound the keep-alive.
type TransportOptions struct {
	// KASUnits is the granularity of keep-alive timeouts in units of 100 ms.
	KASUnits int
	// MinKATOms is the least keep-alive timeout in milliseconds.
	MinKATOms int
}

// Params returns the parameters of the call that makes the transport.
func (o TransportOptions) Params() NVMfTransportParams {
	return NVMfTransportParams{Trtype: trtypeTCP, KAS: o.KASUnits, MinKATO: o.MinKATOms}
}

// InForce is what a node runs with.
type InForce struct {
	NVMe NVMeOptions
	// Transport is nil while there is no NVMe/TCP transport.
	Transport *TransportOptions
}

// InForce reads what the node runs with.
func (n *Node) InForce(ctx context.Context) (InForce, error) {
	nvme, err := n.nvmeOptions(ctx)
	if err != nil {
		return InForce{}, err
	}
	transport, err := n.transport(ctx)
	return InForce{NVMe: nvme, Transport: transport}, err
}

// nvmeOptions reads the options in force, which SPDK lists as the call that would set them.
func (n *Node) nvmeOptions(ctx context.Context) (NVMeOptions, error) {
	config, err := FrameworkGetConfig(ctx, n.rpc, FrameworkGetConfigParams{Name: "bdev"})
	if err != nil {
		return NVMeOptions{}, n.wrap(err, "read the configuration in force")
	}
	for _, entry := range config {
		if entry.Method != bdevNVMeSetOptions.name {
			continue
		}
		var p BdevNVMeSetOptionsParams
		if err := json.Unmarshal(entry.Params, &p); err != nil {
			return NVMeOptions{}, n.wrap(err, "read the NVMe options in force")
		}
		return NVMeOptions{
			ActionOnTimeout: p.ActionOnTimeout, TimeoutUS: p.TimeoutUS, TimeoutAdminUS: p.TimeoutAdminUS,
			KeepAliveMS: p.KeepAliveTimeoutMS, TransportAckTimeout: p.TransportAckTimeout, TCPConnectTimeoutMS: p.TCPConnectTimeoutMS,
		}, nil
	}
	return NVMeOptions{}, n.wrap(ErrNotFound, "NVMe options in the configuration in force")
}

// SetNVMeOptions brings the options into force and returns those that are. Once the node
// has any NVMe controller SPDK refuses to change them: then the error wraps
// ErrInForceDiffers, and the caller has to plan with what is returned.
func (n *Node) SetNVMeOptions(ctx context.Context, want NVMeOptions) (NVMeOptions, error) {
	have, err := n.nvmeOptions(ctx)
	if err != nil || have == want {
		return have, err
	}
	err = BdevNVMeSetOptions(ctx, n.rpc, want.Params())
	if err != nil && !IsErrno(err, unix.EPERM) {
		return have, n.wrap(err, "set NVMe options")
	}
	have, readErr := n.nvmeOptions(ctx)
	if readErr == nil && have != want {
		readErr = n.wrap(fmt.Errorf("%w: restart the SPDK target with the wanted ones in its configuration", ErrInForceDiffers), "set NVMe options")
	}
	return have, readErr
}

// transport reads the NVMe/TCP transport, nil if there is none.
func (n *Node) transport(ctx context.Context) (*TransportOptions, error) {
	transports, err := NVMfGetTransports(ctx, n.rpc)
	if err != nil {
		return nil, n.wrap(err, "list transports")
	}
	for _, t := range transports {
		if strings.EqualFold(t.Trtype, trtypeTCP) {
			return &TransportOptions{KASUnits: t.KAS, MinKATOms: t.MinKATO}, nil
		}
	}
	return nil, nil
}

// EnsureTransport makes the NVMe/TCP transport, or finds it made, and returns the options
// in force. They cannot be changed: if they differ the error wraps ErrInForceDiffers.
func (n *Node) EnsureTransport(ctx context.Context, want TransportOptions) (TransportOptions, error) {
	have, err := n.transport(ctx)
	if err != nil {
		return TransportOptions{}, err
	}
	if have == nil {
		err = NVMfCreateTransport(ctx, n.rpc, want.Params())
		if err != nil && !answered(err) {
			return TransportOptions{}, n.wrap(err, "make the NVMe/TCP transport")
		}
		var readErr error
		have, readErr = n.transport(ctx)
		switch {
		case readErr != nil:
			return TransportOptions{}, readErr
		case have == nil && err != nil:
			return TransportOptions{}, n.wrap(err, "make the NVMe/TCP transport")
		case have == nil:
			return TransportOptions{}, n.wrap(ErrNotFound, "NVMe/TCP transport after it was made")
		}
	}
	if *have != want {
		return *have, n.wrap(fmt.Errorf("%w: restart the SPDK target with the wanted ones in its configuration", ErrInForceDiffers), "make the NVMe/TCP transport")
	}
	return *have, nil
}
