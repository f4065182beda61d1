package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"github.com/holdfast-csi/holdfast/spdk/timeouts"
)

// stopTimeout is how long calls under way may go on after a stop was asked for.
const stopTimeout = 20 * time.Second

// Controller is the controller service and the group controller service, which are one.
type Controller interface {
	csi.ControllerServer
	csi.GroupControllerServer
}

// Services are what a process offers to the CO. Identity is always there.
type Services struct {
	Identity   csi.IdentityServer
	Controller Controller
	Node       csi.NodeServer
	// Observe sees each call with the code that the CO gets; nil is nobody.
	Observe grpc.UnaryServerInterceptor
}

// Serve offers the services on a Unix socket, given as unix:///path or a path, until ctx ends; then it lets the calls under way
// finish.
func Serve(ctx context.Context, endpoint string, services Services) error {
	path, err := SocketPath(endpoint)
	if err != nil {
		return err
	}
	listener, err := listen(ctx, path)
	if err != nil {
		return err
	}
	interceptors := []grpc.UnaryServerInterceptor{withLogger, withStatus, withDeadline}
	if services.Observe != nil {
		interceptors = append([]grpc.UnaryServerInterceptor{services.Observe}, interceptors...)
	}
	server := grpc.NewServer(grpc.ChainUnaryInterceptor(interceptors...))
	csi.RegisterIdentityServer(server, services.Identity)
	if services.Controller != nil {
		csi.RegisterControllerServer(server, services.Controller)
		csi.RegisterGroupControllerServer(server, services.Controller)
	}
	if services.Node != nil {
		csi.RegisterNodeServer(server, services.Node)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	klog.FromContext(ctx).Info("Serving CSI", "endpoint", path)
	select {
	case err := <-served:
		return fmt.Errorf("serve CSI on %s: %w", path, err)
	case <-ctx.Done():
	}
	force := time.AfterFunc(stopTimeout, server.Stop)
	defer force.Stop()
	server.GracefulStop()
	return <-served
}

// SocketPath returns the path of a CSI endpoint.
func SocketPath(endpoint string) (string, error) {
	path := strings.TrimPrefix(endpoint, "unix://")
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("endpoint %q: give the absolute path of a Unix socket, as unix:///csi/csi.sock", endpoint)
	}
	return path, nil
}

// listen makes the socket. One that a predecessor left behind is replaced; one that still answers is not.
func listen(ctx context.Context, path string) (net.Listener, error) {
	var config net.ListenConfig
	if _, err := os.Lstat(path); err == nil {
		var dialer net.Dialer
		if conn, err := dialer.DialContext(ctx, "unix", path); err == nil {
			return nil, errors.Join(fmt.Errorf("socket %s is served by another process; stop it or choose another endpoint", path), conn.Close())
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("replace the socket that a predecessor left: %w", err)
		}
	}
	listener, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s (does its directory exist?): %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("keep socket %s to this user: %w", path, err), listener.Close())
	}
	return listener, nil
}

// withLogger gives each call a logger that knows its method and volume, and says how calls end. Requests are not logged: they can
// carry secrets.
func withLogger(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	logger := klog.FromContext(ctx).WithValues("method", filepath.Base(info.FullMethod))
	if r, ok := req.(interface{ GetVolumeId() string }); ok {
		logger = logger.WithValues("volumeID", r.GetVolumeId())
	}
	if r, ok := req.(interface{ GetName() string }); ok {
		logger = logger.WithValues("name", r.GetName())
	}
	begin := time.Now()
	resp, err := handler(klog.NewContext(ctx, logger), req)
	if err != nil {
		logger.V(2).Info("Call failed", "took", time.Since(begin), "err", err)
	} else {
		logger.V(4).Info("Call done", "took", time.Since(begin))
	}
	return resp, err
}

// withStatus turns errors of the domain into gRPC's.
func withStatus(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	return resp, toStatus(err)
}

// withDeadline bounds a call whose caller did not.
func withDeadline(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, timeouts.CSI)
	defer cancel()
	return handler(ctx, req)
}
