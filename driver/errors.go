package driver

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/node/mount"
	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

// codeTable gives each error of the domain its gRPC code. The first that matches counts, so that what is more certain stands
// above what is less.
//
// What a CO makes of a code decides the choice: after DeadlineExceeded, Unavailable and Aborted the external sidecars take the
// outcome as unknown and come again (isFinalError in external-attacher, external-provisioner); after any other they take it that
// nothing has happened.
var codeTable = []struct {
	is   error
	code codes.Code
}{
	{volume.ErrNotFound, codes.NotFound},
	{volume.ErrNoSnapshot, codes.NotFound},
	{volume.ErrHostUnknown, codes.NotFound},
	{volume.ErrIncompatible, codes.AlreadyExists},
	{volume.ErrSnapshotDiffers, codes.AlreadyExists},
	{volume.ErrBusy, codes.Aborted},
	{volume.ErrConflict, codes.Aborted},
	{volume.ErrInUse, codes.FailedPrecondition},
	{volume.ErrPrecondition, codes.FailedPrecondition},
	{volume.ErrNoSpace, codes.ResourceExhausted},
	{volume.ErrNoGoodReplica, codes.Unavailable},
	{volume.ErrNodeDown, codes.Unavailable},
	{volume.ErrNodeUnknown, codes.FailedPrecondition},
	{volume.ErrNoKey, codes.FailedPrecondition},

	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},

	{spdk.ErrNoSpace, codes.ResourceExhausted},
	{spdk.ErrUnreachable, codes.Unavailable},
	{spdk.ErrUnknownOutcome, codes.Unavailable},
	{spdk.ErrBusy, codes.Aborted},
	{spdk.ErrNotFound, codes.FailedPrecondition},
	{spdk.ErrConflict, codes.FailedPrecondition},

	{mount.ErrInvalid, codes.InvalidArgument},
	{mount.ErrNotBlank, codes.FailedPrecondition},
	{mount.ErrOtherMount, codes.FailedPrecondition},
	{mount.ErrCorrupt, codes.DataLoss},
	{mount.ErrPassphrase, codes.Unauthenticated},
	{mount.ErrStillOpen, codes.Aborted},
	{nvmeof.ErrModuleMissing, codes.FailedPrecondition},
	{nvmeof.ErrUnsupported, codes.FailedPrecondition},
	{nvmeof.ErrUnreachable, codes.Unavailable},
}

// toStatus makes an error of a service the one that goes to the CO. What no row of the table knows may have had some effect:
// Unavailable makes the CO come again, where Internal would tell it that surely nothing is attached.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := status.FromError(err); ok {
		return s.Err()
	}
	for _, row := range codeTable {
		if errors.Is(err, row.is) {
			return status.Error(row.code, err.Error())
		}
	}
	return status.Error(codes.Unavailable, err.Error())
}
