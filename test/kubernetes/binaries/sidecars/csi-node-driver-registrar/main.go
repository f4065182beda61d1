// Command csi-node-driver-registrar stands in for the program of that name where there is no registry to have its image from: it announces a
// CSI driver to the kubelet, by the same flags. It is for tests alone.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

func main() {
	driver := flag.String("csi-address", "", "socket of the driver")
	path := flag.String("kubelet-registration-path", "", "the same socket, as kubelet sees it")
	health := flag.String("http-endpoint", "", "address to serve /healthz on")
	flag.Parse()
	if err := run(*driver, *path, *health); err != nil {
		log.Fatal(err)
	}
}

func run(driver, path, health string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	name, err := driverName(ctx, driver)
	if err != nil {
		return fmt.Errorf("ask the driver for its name: %w", err)
	}
	socket := "/registration/" + name + "-reg.sock"
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	r := &registrar{info: &registration.PluginInfo{Type: registration.CSIPlugin, Name: name, Endpoint: path, SupportedVersions: []string{"1.0.0"}}, ended: make(chan error, 3)}
	server := grpc.NewServer()
	registration.RegisterRegistrationServer(server, r)
	go func() { r.ended <- server.Serve(listener) }()
	go func() {
		r.ended <- http.ListenAndServe(health, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if _, err := os.Stat(socket); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
			}
		}))
	}()
	defer server.Stop()
	select {
	case err := <-r.ended:
		return err
	case <-ctx.Done():
		return nil
	}
}

func driverName(ctx context.Context, socket string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	info, err := csi.NewIdentityClient(conn).GetPluginInfo(ctx, &csi.GetPluginInfoRequest{})
	return info.GetName(), err
}

type registrar struct {
	registration.UnimplementedRegistrationServer
	info  *registration.PluginInfo
	ended chan error
}

func (r *registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return r.info, nil
}

func (r *registrar) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	log.Printf("registered: %v %s", s.PluginRegistered, s.Error)
	if !s.PluginRegistered {
		r.ended <- errors.New("kubelet refuses the driver: " + s.Error)
	}
	return &registration.RegistrationStatusResponse{}, nil
}
