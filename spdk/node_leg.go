package spdk

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Leg describes a replica to attach over NVMe-oF.
type Leg struct {
	// Controller names the NVMe controller; the leg's bdev is this name and "n1".
	Controller string
	// NQN and Address are the replica's export.
	NQN     string
	Address Address
	// HostNQN is how this node names itself to the replica's node.
	HostNQN string
	// Keys are those with which both nodes prove themselves to each other.
	Keys Keys
	// CtrlrLossSec, ReconnectDelaySec and FastIOFailSec are in seconds, with
	// reconnect delay <= fast I/O fail <= loss.
	CtrlrLossSec, ReconnectDelaySec, FastIOFailSec int
}

// States of a controller (module/bdev/nvme/bdev_nvme.c, nvme_ctrlr_get_state_str).
const (
	LegEnabled            = "enabled"
	LegResetting          = "resetting"
	LegReconnectIsDelayed = "reconnect_is_delayed"
	LegDisabled           = "disabled"
	LegFailed             = "failed"
	LegDeleting           = "deleting"
)

// LegState is an attached controller.
type LegState struct {
	Controller string
	// Bdev is empty while the controller has no bdev.
	Bdev string
	// State is one of the Leg states. A disk that hangs behind a live target leaves it
	// enabled.
	State   string
	NQN     string
	Address Address
	HostNQN string
	// CNTLID is the controller id that the replica's node gave. Another one than before
	// says that the controller was reset in between.
	CNTLID int
	// SizeBytes and BlockSize are in bytes and 0 without a bdev. The size is the one that
	// this node last heard of. A change that was announced while the leg was not connected
	// is missed for good: a reset of the controller does not bring it, only a further
	// resize of the replica does.
	SizeBytes int64
	BlockSize int
	// InUse is true while a raid holds the bdev.
	InUse bool
}

// Legs lists the NVMe controllers of the node that are attached over TCP.
func (n *Node) Legs(ctx context.Context) ([]LegState, error) {
	controllers, err := BdevNVMeGetControllers(ctx, n.rpc, BdevNVMeGetControllersParams{})
	if err != nil {
		return nil, n.wrap(err, "list NVMe controllers")
	}
	if len(controllers) == 0 {
		return nil, nil
	}
	bdevs, err := n.bdevs(ctx)
	if err != nil {
		return nil, n.wrap(err, "list bdevs of NVMe controllers")
	}
	var legs []LegState
	for _, c := range controllers {
		if len(c.Ctrlrs) > 0 && strings.EqualFold(c.Ctrlrs[0].Trid.Trtype, trtypeTCP) {
			legs = append(legs, legState(c.Name, c.Ctrlrs[0], bdevs))
		}
	}
	return legs, nil
}

func legState(name string, path NVMePathInfo, bdevs []Bdev) LegState {
	s := LegState{
		Controller: name,
		State:      path.State,
		NQN:        path.Trid.Subnqn,
		Address:    addressOf(path.Trid.Traddr, path.Trid.Trsvcid),
		HostNQN:    path.Host.NQN,
		CNTLID:     path.Cntlid,
	}
	for _, b := range bdevs {
		nsid, ok := strings.CutPrefix(b.Name, name+"n")
		if _, err := strconv.ParseUint(nsid, 10, 32); !ok || err != nil {
			continue
		}
		s.Bdev, s.SizeBytes, s.BlockSize, s.InUse = b.Name, b.SizeBytes(), b.BlockSize, b.Claimed
		break
	}
	return s
}

// Leg returns one controller, or ErrNotFound.
func (n *Node) Leg(ctx context.Context, controller string) (LegState, error) {
	found, err := BdevNVMeGetControllers(ctx, n.rpc, BdevNVMeGetControllersParams{Name: controller})
	switch {
	case IsErrno(err, unix.EINVAL) || err == nil && (len(found) == 0 || len(found[0].Ctrlrs) == 0):
		return LegState{}, n.wrap(ErrNotFound, "NVMe controller %s", controller)
	case err != nil:
		return LegState{}, n.wrap(err, "look up NVMe controller %s", controller)
	}
	b, err := n.bdev(ctx, LegBdev(controller))
	switch {
	case isNotFound(err):
		return legState(controller, found[0].Ctrlrs[0], nil), nil
	case err != nil:
		return LegState{}, err
	}
	return legState(controller, found[0].Ctrlrs[0], []Bdev{b}), nil
}

// LegBdev returns the name of a leg's bdev: its controller's first namespace, which is the only one of an export.
func LegBdev(controller string) string { return controller + "n1" }

// AttachLeg attaches a replica, or finds it attached. A controller of that name that is
// attached to something else, or is being deleted, is detached first, unless a raid uses
// it: then it is ErrConflict. The three timeouts of a controller that is found attached
// are not compared, because SPDK does not list them.
//
// A controller without a bdev is returned with ErrNoBdev.
func (n *Node) AttachLeg(ctx context.Context, leg Leg) (LegState, error) {
	found, err := n.Leg(ctx, leg.Controller)
	switch {
	case isNotFound(err):
	case err != nil:
		return LegState{}, err
	case found.NQN == leg.NQN && found.Address == leg.Address && found.HostNQN == leg.HostNQN && found.State != LegDeleting:
		return n.withBdev(found)
	case found.InUse:
		return found, n.wrap(ErrConflict, "attach %s as %s: a raid uses that controller, attached to %s at %s", leg.NQN, leg.Controller, found.NQN, found.Address)
	default:
		if err := n.DetachLeg(ctx, leg.Controller); err != nil {
			return LegState{}, err
		}
	}
	if err := n.PutKeys(ctx, leg.Keys); err != nil {
		return LegState{}, err
	}
	_, err = BdevNVMeAttachController(ctx, n.rpc, BdevNVMeAttachControllerParams{
		Name:                 leg.Controller,
		Trtype:               trtypeTCP,
		Adrfam:               leg.Address.family(),
		Traddr:               leg.Address.Host,
		Trsvcid:              strconv.Itoa(int(leg.Address.Port)),
		Subnqn:               leg.NQN,
		Hostnqn:              leg.HostNQN,
		Multipath:            "disable",
		CtrlrLossTimeoutSec:  leg.CtrlrLossSec,
		ReconnectDelaySec:    leg.ReconnectDelaySec,
		FastIOFailTimeoutSec: leg.FastIOFailSec,
		DHCHAPKey:            leg.Keys.Host.Name,
		DHCHAPCtrlrKey:       leg.Keys.Controller.Name,
	})
	if err != nil {
		return LegState{}, n.wrap(err, "attach %s at %s as %s", leg.NQN, leg.Address, leg.Controller)
	}
	found, err = n.Leg(ctx, leg.Controller)
	if err != nil {
		return LegState{}, err
	}
	return n.withBdev(found)
}

// withBdev returns the controller, with ErrNoBdev if it has no bdev.
func (n *Node) withBdev(l LegState) (LegState, error) {
	if l.Bdev != "" {
		return l, nil
	}
	return l, n.wrap(fmt.Errorf("%w: its state is %s; look whether %s has a namespace and whether this process already has a bdev of the namespace's UUID",
		ErrNoBdev, l.State, l.NQN), "controller %s", l.Controller)
}

// DetachLeg detaches a controller and waits, within ctx, until it and its bdev are gone;
// an absent one is success. A leg that a raid holds is ejected by it: take it out of the
// raid first where that matters.
func (n *Node) DetachLeg(ctx context.Context, controller string) error {
	l, err := n.Leg(ctx, controller)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if l.State != LegDeleting {
		err = BdevNVMeDetachController(ctx, n.rpc, BdevNVMeDetachControllerParams{Name: controller})
		if err != nil && !answered(err) {
			return n.wrap(err, "detach %s", controller)
		}
	}
	refused := err
	err = until(ctx, func() (bool, error) {
		now, err := n.Leg(ctx, controller)
		switch {
		case isNotFound(err):
			return n.bdevGone(ctx, l.Bdev)
		case err != nil:
			return false, err
		case refused != nil && now.State != LegDeleting:
			return false, refused
		}
		return false, nil
	})
	return n.wrap(err, "detach %s", controller)
}

func (n *Node) bdevGone(ctx context.Context, name string) (bool, error) {
	if name == "" {
		return true, nil
	}
	_, err := n.bdev(ctx, name)
	if isNotFound(err) {
		return true, nil
	}
	return false, err
}
