package driver_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/holdfast-csi/holdfast/driver"
	"github.com/holdfast-csi/holdfast/spdk/volume"
)

func TestObserverSeesTheCodesThatTheCOGets(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	socket := filepath.Join(t.TempDir(), "csi.sock")
	seen, served := make(chan codes.Code, 1), make(chan error, 1)
	controller := &refusing{}
	services := driver.Services{
		Identity: driver.Identity{WithController: true}, Controller: controller,
		Observe: func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			resp, err := handler(ctx, req)
			seen <- status.Code(err)
			return resp, err
		},
	}
	go func() { served <- driver.Serve(ctx, socket, services) }()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, c := range []struct {
		err  error
		want codes.Code
	}{{nil, codes.OK}, {volume.ErrBusy, codes.Aborted}, {errors.New("who knows"), codes.Unavailable}} {
		controller.err = c.err
		_, err := csi.NewControllerClient(conn).GetCapacity(ctx, &csi.GetCapacityRequest{}, grpc.WaitForReady(true))
		if got := <-seen; got != c.want || got != status.Code(err) {
			t.Errorf("of %v the observer sees %s, the CO %v", c.err, got, err)
		}
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// refusing is a controller service that answers err.
type refusing struct {
	csi.UnimplementedControllerServer
	csi.UnimplementedGroupControllerServer
	err error
}

func (r *refusing) GetCapacity(context.Context, *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	return &csi.GetCapacityResponse{}, r.err
}
