package driver

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/node/mount"
	"github.com/holdfast-csi/holdfast/node/nvmeof"
	"github.com/holdfast-csi/holdfast/spdk"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

func TestErrorsGetTheCodeThatTellsTheCOWhatToDo(t *testing.T) {
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{nil, codes.OK},
		{fmt.Errorf("publish: %w", volume.ErrNotFound), codes.NotFound},
		{fmt.Errorf("publish: %w", volume.ErrBusy), codes.Aborted},
		{fmt.Errorf("create: %w", volume.ErrIncompatible), codes.AlreadyExists},
		{fmt.Errorf("stage: %w", status.Error(codes.OutOfRange, "x")), codes.OutOfRange},
		{fmt.Errorf("create: %w", spdk.ErrNoSpace), codes.ResourceExhausted},
		{fmt.Errorf("stage: %w", mount.ErrPassphrase), codes.Unauthenticated},
		{fmt.Errorf("stage: %w: %w", nvmeof.ErrNotConnected, nvmeof.ErrUnsupported), codes.FailedPrecondition},
		{fmt.Errorf("stage: %w: %w", nvmeof.ErrNotConnected, nvmeof.ErrRejected), codes.Unavailable},
		// An outcome that is not known is never Internal: the attacher would take it that surely nothing is attached.
		{fmt.Errorf("create: %w", spdk.ErrUnknownOutcome), codes.Unavailable},
		{fmt.Errorf("create: %w: %w", spdk.ErrUnknownOutcome, context.DeadlineExceeded), codes.DeadlineExceeded},
		{errors.New("who knows"), codes.Unavailable},
		// A full node beside one that doesn't answer: nothing is known to be full.
		{fmt.Errorf("place: %w: %w", volume.ErrNodeDown, errors.New("refused")), codes.Unavailable},
	} {
		if got := status.Code(toStatus(c.err)); got != c.want {
			t.Errorf("%v: got %s, want %s", c.err, got, c.want)
		}
	}
}

func TestMessageOfTheWholeChainReachesTheCO(t *testing.T) {
	err := toStatus(fmt.Errorf("publish volume x: %w", status.Error(codes.NotFound, "no node y")))
	if want := "publish volume x: rpc error: code = NotFound desc = no node y"; status.Convert(err).Message() != want {
		t.Errorf("got %q", status.Convert(err).Message())
	}
}
